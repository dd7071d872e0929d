/**
 * What a user may say about the pod of a node: a closed list. The isolation of the identity key from the runtime rests
 * on what is absent here (no Secret or token volumes, no security context, no host namespaces, no containers).
 */
import { z } from "zod";
import {
  exactlyOne,
  labelValue,
  listAtomic,
  listMap,
  objectName,
  qualifiedKeys,
  qualifiedMap,
  qualifiedName,
  quantity,
  dnsLabel,
  withRules,
  type Rule,
} from "./fields.ts";

/** Folders of the runtime container that are the project's; nothing of a user's is mounted at, under or over them. */
export const reservedMountPaths = [
  "/run/resultity",
  "/etc/resultity",
  "/var/lib/resultity",
  "/dev",
  "/proc",
  "/sys",
] as const;

/** Folders of the host through which a pod could reach keys, other pods or the host itself. */
export const refusedHostPaths = [
  "/bin",
  "/boot",
  "/dev",
  "/etc",
  "/lib",
  "/lib64",
  "/opt/cni",
  "/proc",
  "/root",
  "/run",
  "/sbin",
  "/sys",
  "/usr",
  "/var/lib/containerd",
  "/var/lib/containers",
  "/var/lib/docker",
  "/var/lib/etcd",
  "/var/lib/k0s",
  "/var/lib/kubelet",
  "/var/lib/rancher",
  "/var/run",
  "/var/spool",
] as const;

const absolutePathPattern = /^\/([^:]*[^:/])?$/;
const plainSegments: Rule<string> = {
  cel: 'self.matches("^/([^:]*[^:/])?$") && !self.matches("//|/[.][.]?(/|$)")',
  message: "must be an absolute path without `:`, `.`, `..` or empty parts, and without a slash at the end",
  check: (path) => absolutePathPattern.test(path) && !/\/\/|\/\.\.?(\/|$)/.test(path),
};

/** A rule that a path is not one of `folders`, nor inside one, nor a parent of one. */
function apartFrom(folders: readonly string[], message: string): Rule<string> {
  const list = JSON.stringify(folders);
  return {
    cel: `self != "/" && !${list}.exists(p, self == p || self.startsWith(p + "/") || p.startsWith(self + "/"))`,
    message: `${message} (${folders.join(", ")})`,
    check: (path) =>
      path !== "/" &&
      !folders.some(
        (folder) => path === folder || path.startsWith(`${folder}/`) || folder.startsWith(`${path}/`),
      ),
  };
}

/** A folder of the host that the runtime may have. */
export const hostPath = () =>
  withRules(
    z.string().min(1).max(1024),
    plainSegments,
    apartFrom(
      refusedHostPaths,
      "must be a folder of its own on the host, for example /data/models; these and what holds them are refused",
    ),
  );

/** A volume that lives as long as the pod. */
export const emptyDir = () =>
  z.strictObject({
    sizeLimit: quantity()
      .describe("Largest size; the pod is evicted when it grows over it. Absent: no limit.")
      .optional(),
  });

/** A volume of a claim that exists in the namespace. */
export const persistentVolumeClaim = () =>
  z.strictObject({
    claimName: objectName().describe("Name of the PersistentVolumeClaim, in the namespace of the node."),
  });

const ownKey: Rule<Record<string, unknown>> = {
  cel: 'self.all(k, !k.matches("^([a-z0-9.-]*[.])?resultity[.]com/"))',
  message: "keys under resultity.com/ belong to the operator: use a key of your own",
  check: (map) => Object.keys(map).every((key) => !/^([a-z0-9.-]*\.)?resultity\.com\//.test(key)),
};

/** Labels of a user's, for a pod or a child. */
export const labels = () =>
  withRules(z.record(qualifiedName(), labelValue()).meta({ maxProperties: 64 }), ...qualifiedKeys, ownKey);

/** Annotations of a user's, for a pod or a child. */
export const annotations = () =>
  withRules(
    z.record(qualifiedName(), z.string().max(16_384)).meta({ maxProperties: 64 }),
    ...qualifiedKeys,
    ownKey,
  );

const expression = (values: z.ZodType<string>) =>
  z.strictObject({
    key: qualifiedName().describe("Label key that the expression is about."),
    operator: z
      .enum(["In", "NotIn", "Exists", "DoesNotExist", "Gt", "Lt"])
      .describe("How the label's value relates to values."),
    values: listAtomic(values, 64)
      .describe("Values to compare with; none for Exists and DoesNotExist, one number for Gt and Lt.")
      .optional(),
  });

const labelSelector = () =>
  z.strictObject({
    matchLabels: qualifiedMap(labelValue(), 16).describe("Labels that a pod must have.").optional(),
    matchExpressions: listAtomic(
      z.strictObject({
        key: qualifiedName().describe("Label key that the expression is about."),
        operator: z
          .enum(["In", "NotIn", "Exists", "DoesNotExist"])
          .describe("How the label's value relates to values."),
        values: listAtomic(labelValue(), 64).describe("Values to compare with.").optional(),
      }),
      16,
    )
      .describe("Expressions that must all hold for a pod's labels.")
      .optional(),
  });

const nodeSelectorTerm = () =>
  z.strictObject({
    matchExpressions: listAtomic(expression(labelValue()), 16).describe(
      "Expressions that must all hold for a host's labels.",
    ),
  });

const weight = () => z.int().min(1).max(100).describe("How much it counts, from 1 to 100.");

const podAffinityTerm = () =>
  z.strictObject({
    topologyKey: qualifiedName().describe("Host label that says what counts as one place."),
    labelSelector: labelSelector().describe("Which pods count.").optional(),
  });

const affinity = z.strictObject({
  nodeAffinity: z
    .strictObject({
      requiredDuringSchedulingIgnoredDuringExecution: z
        .strictObject({
          nodeSelectorTerms: listAtomic(nodeSelectorTerm(), 16)
            .min(1)
            .describe("Terms of which a host must match one."),
        })
        .describe("Hosts that the pod may run on.")
        .optional(),
      preferredDuringSchedulingIgnoredDuringExecution: listAtomic(
        z.strictObject({
          weight: weight(),
          preference: nodeSelectorTerm().describe("Hosts that are preferred."),
        }),
        16,
      )
        .describe("Hosts that the pod runs on if it can.")
        .optional(),
    })
    .describe("Which hosts, by their labels.")
    .optional(),
  podAntiAffinity: z
    .strictObject({
      requiredDuringSchedulingIgnoredDuringExecution: listAtomic(podAffinityTerm(), 16)
        .describe("Pods that must not be in the same place.")
        .optional(),
      preferredDuringSchedulingIgnoredDuringExecution: listAtomic(
        z.strictObject({
          weight: weight(),
          podAffinityTerm: podAffinityTerm().describe("Pods that are avoided."),
        }),
        16,
      )
        .describe("Pods that are kept apart if they can be.")
        .optional(),
    })
    .describe("Which pods to stay away from.")
    .optional(),
});

const toleration = z.strictObject({
  key: z.string().max(317).describe("Taint that is tolerated. Empty with Exists: every taint.").optional(),
  operator: z.enum(["Exists", "Equal"]).describe("Whether the value counts. Absent: Equal.").optional(),
  value: labelValue().describe("Value of the taint, for Equal.").optional(),
  effect: z
    .enum(["NoSchedule", "PreferNoSchedule", "NoExecute"])
    .describe("Effect of the taint. Absent: every effect.")
    .optional(),
  tolerationSeconds: z
    .int()
    .min(0)
    .max(86_400)
    .describe("How long a NoExecute taint is tolerated, in seconds. Absent: for ever.")
    .optional(),
});

const topologySpreadConstraint = z.strictObject({
  maxSkew: z.int().min(1).max(10_000).describe("Largest difference in pods between two places."),
  topologyKey: qualifiedName().describe("Host label that says what counts as one place."),
  whenUnsatisfiable: z
    .enum(["DoNotSchedule", "ScheduleAnyway"])
    .describe("What to do when it cannot be kept."),
  labelSelector: labelSelector().describe("Which pods count.").optional(),
});

const volumeName = () =>
  withRules(dnsLabel(), {
    cel: '!self.startsWith("resultity-")',
    message: "names that begin with resultity- belong to the operator: use another name",
    check: (name) => !name.startsWith("resultity-"),
  });

const volume = withRules(
  z.strictObject({
    name: volumeName().describe("Name that volumeMounts refer to."),
    emptyDir: emptyDir().describe("A folder that lives as long as the pod.").optional(),
    configMap: z
      .strictObject({ name: objectName().describe("Name of the ConfigMap, in the namespace of the node.") })
      .describe("The entries of a ConfigMap as files.")
      .optional(),
    persistentVolumeClaim: persistentVolumeClaim().describe("A volume of a claim.").optional(),
    hostPath: z
      .strictObject({ path: hostPath().describe("Path of a folder on the host that exists.") })
      .describe("A folder of the host.")
      .optional(),
  }),
  exactlyOne(
    ["emptyDir", "configMap", "persistentVolumeClaim", "hostPath"],
    "set exactly one of emptyDir, configMap, persistentVolumeClaim and hostPath; Secrets, tokens and other sources cannot be mounted beside a node's identity",
  ),
);

const volumeMount = z.strictObject({
  name: dnsLabel().describe("Name of the volume."),
  mountPath: withRules(
    z.string().min(1).max(1024),
    plainSegments,
    apartFrom(reservedMountPaths, "must not be at, under or over a folder of the project or the system"),
  ).describe("Where the volume appears in the runtime container."),
  readOnly: z.boolean().describe("Whether the runtime may only read it.").default(false),
  subPath: withRules(z.string().min(1).max(1024), {
    cel: 'self.matches("^[^/:][^:]*$") && !self.matches("(^|/)[.][.](/|$)")',
    message: "must be a relative path without `:` or `..`",
    check: (path) => /^[^/:][^:]*$/.test(path) && !/(^|\/)\.\.(\/|$)/.test(path),
  })
    .describe("Folder within the volume to mount, in place of its top.")
    .optional(),
});

export const podOverrides = withRules(
  z.strictObject({
    labels: labels().describe("Labels of the pod, beside the operator's.").optional(),
    annotations: annotations().describe("Annotations of the pod, beside the operator's.").optional(),
    nodeSelector: qualifiedMap(labelValue(), 32).describe("Labels that the host must have.").optional(),
    affinity: affinity.describe("Which hosts the pod may or should run on.").optional(),
    tolerations: listAtomic(toleration, 32).describe("Taints of hosts that the pod accepts.").optional(),
    topologySpreadConstraints: listMap(topologySpreadConstraint, ["topologyKey", "whenUnsatisfiable"], 8)
      .describe("How pods are spread over hosts, racks or zones.")
      .optional(),
    priorityClassName: objectName().describe("PriorityClass of the pod.").optional(),
    runtimeClassName: objectName().describe("RuntimeClass of the pod, for example nvidia.").optional(),
    schedulerName: objectName()
      .describe("Scheduler that places the pod. Absent: the cluster's default.")
      .optional(),
    imagePullSecrets: listMap(
      z.strictObject({ name: objectName().describe("Name of the Secret, in the namespace of the node.") }),
      ["name"],
      16,
    )
      .describe("Secrets that the kubelet pulls the images with. They do not reach a container.")
      .optional(),
    volumes: listMap(volume, ["name"], 16)
      .describe("Volumes for the runtime, beside the operator's.")
      .optional(),
    volumeMounts: listMap(volumeMount, ["mountPath"], 16)
      .describe("Where the runtime has those volumes. The agent never gets them.")
      .optional(),
  }),
  {
    cel: "!has(self.volumeMounts) || self.volumeMounts.all(m, has(self.volumes) && self.volumes.exists(v, v.name == m.name))",
    message:
      "every volumeMount needs a volume of its name in podOverrides.volumes: add it, or correct the name",
    check: ({ volumes, volumeMounts }) =>
      (volumeMounts ?? []).every((mount) => (volumes ?? []).some((volume) => volume.name === mount.name)),
  },
);

export type PodOverrides = z.output<typeof podOverrides>;
