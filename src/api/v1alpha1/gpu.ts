/** The GPUs of a node: from a device plugin, or from resource claims. */
import { z } from "zod";
import { exactlyOne, labelValue, listMap, dnsLabel, objectName, qualifiedName, withRules } from "./fields.ts";

const defaultGpuResource = "nvidia.com/gpu";

const gpuClaim = withRules(
  z.strictObject({
    name: dnsLabel().describe("Name of the claim within the pod."),
    resourceClaimTemplateName: objectName()
      .describe("ResourceClaimTemplate in the namespace, from which each pod gets a claim of its own.")
      .optional(),
    resourceClaimName: objectName()
      .describe("ResourceClaim in the namespace. Who else uses it shares its devices.")
      .optional(),
    request: dnsLabel()
      .describe("Name of the one request of the claim whose devices the runtime gets. Absent: all of them.")
      .optional(),
  }),
  exactlyOne(
    ["resourceClaimTemplateName", "resourceClaimName"],
    "set exactly one of resourceClaimTemplateName and resourceClaimName",
  ),
);

interface GpuLike {
  count: number;
  resourceName: string;
  claims?: readonly unknown[] | undefined;
}

/** `spec.gpu` of a node and of a pool's template. */
export const gpu = withRules(
  z.strictObject({
    count: z
      .int()
      .min(0)
      .max(16)
      .describe(
        "GPUs that the runtime gets, which the engine spreads a model over. 0: an engine on the CPU. With claims: how many they give.",
      )
      .default(1),
    resourceName: qualifiedName()
      .describe(
        "Extended resource that the device plugin offers the GPUs as. Without meaning where claims give them.",
      )
      .default(defaultGpuResource),
    product: labelValue()
      .min(1)
      .describe("GPU product that the host must have, as its label nvidia.com/gpu.product says. Absent: any.")
      .optional(),
    claims: listMap(gpuClaim, ["name"], 8)
      .describe(
        "Resource claims that give the GPUs, in place of an extended resource (Dynamic Resource Allocation, Kubernetes 1.34).",
      )
      .optional(),
  }),
  {
    cel: `!has(self.claims) || self.claims.size() == 0 || self.resourceName == ${JSON.stringify(defaultGpuResource)}`,
    message: "resourceName is for GPUs that a device plugin offers: remove it where claims give them",
    check: ({ resourceName, claims = [] }: GpuLike) =>
      claims.length === 0 || resourceName === defaultGpuResource,
  },
  {
    cel: "!has(self.claims) || self.claims.size() == 0 || self.count > 0",
    message: "count must say how many GPUs the claims give: set it to 1 or more, or remove claims",
    check: ({ count, claims = [] }: GpuLike) => claims.length === 0 || count > 0,
  },
);
