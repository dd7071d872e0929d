/** The whole operator in a cluster whose owners have their own ideas: webhooks, missing rights, hosts that refuse pods. */
import { readFileSync } from "node:fs";
import { createServer, type Server } from "node:https";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";
import { parseAllDocuments } from "yaml";
import type { Pod } from "../../src/kube/resources.ts";
import { settleMs } from "../../src/operator/node/pace.ts";
import { conditionOf, type Scene, type Stand, startScene, startStand } from "../faults/operator-scene.ts";
import { createAuthority } from "../testbed/certificates.ts";
import type { KubeObject } from "../testbed/kube-json.ts";
import { buildingMs } from "../testbed/control-plane.ts";
import { until } from "../testbed/until.ts";

/** Longer than an operator keeps a status back, which its successor would find to be written. */
const atRestMs = settleMs + 1_500;

let stand: Stand;
const scenes: Scene[] = [];

beforeAll(async () => {
  stand = await startStand();
}, buildingMs);
afterAll(async () => {
  await stand?.[Symbol.asyncDispose]();
});
afterEach(async () => {
  for (const scene of scenes.splice(0)) await scene[Symbol.asyncDispose]();
});

async function begin(name: string): Promise<Scene> {
  const scene = await startScene(stand, name);
  scenes.push(scene);
  return scene;
}

const messageOf = (
  object:
    | { status?: { conditions?: readonly { type: string; message: string }[] | undefined } | undefined }
    | undefined,
  type: string,
) => object?.status?.conditions?.find((one) => one.type === type)?.message ?? "";

describe("F46 a webhook that rewrites images and adds containers and labels", () => {
  const authority = createAuthority("webhook");
  let server: Server;
  let reviews = 0;

  beforeAll(async () => {
    const certificate = authority.issue({ commonName: "webhook", usage: "server", hosts: ["127.0.0.1"] });
    server = createServer(certificate, (request, response) => {
      let text = "";
      request.on("data", (chunk: Buffer) => (text += chunk.toString()));
      request.on("end", () => {
        const { request: asked }: Review = JSON.parse(text);
        reviews++;
        const patch = Buffer.from(JSON.stringify(mutate(asked.object, asked.operation))).toString("base64");
        const answer = { uid: asked.uid, allowed: true, patchType: "JSONPatch", patch };
        response.setHeader("content-type", "application/json");
        response.end(
          JSON.stringify({ apiVersion: "admission.k8s.io/v1", kind: "AdmissionReview", response: answer }),
        );
      });
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    const { port } = server.address() as AddressInfo;
    await stand.kube.create("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations", {
      apiVersion: "admissionregistration.k8s.io/v1",
      kind: "MutatingWebhookConfiguration",
      metadata: { name: "mesh" },
      webhooks: [
        {
          name: "mesh.example.com",
          admissionReviewVersions: ["v1"],
          sideEffects: "None",
          clientConfig: {
            url: `https://127.0.0.1:${port}/`,
            caBundle: Buffer.from(authority.cert).toString("base64"),
          },
          rules: [
            { apiGroups: [""], apiVersions: ["v1"], operations: ["CREATE", "UPDATE"], resources: ["pods"] },
          ],
          namespaceSelector: { matchLabels: { "kubernetes.io/metadata.name": "webhook" } },
        },
      ],
    });
  });
  afterAll(async () => {
    await stand.kube.delete("/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/mesh");
    server.close();
  });

  it("sees no pod patched again and again, and none replaced, at rest and in a roll", async () => {
    const scene = await begin("webhook");
    const operator = await scene.startOperator();
    await scene.createPool("chat", 2);
    await scene.untilReady(2);
    await scene.untilQuiet(3_000);
    const pods = await scene.pods();
    expect(reviews).toBeGreaterThan(0);
    for (const { spec, metadata } of pods) {
      expect(metadata.labels).toMatchObject({ mesh: "injected" });
      expect(spec?.initContainers?.map(({ name }) => name)).toEqual(["mesh", "agent"]);
      expect(spec?.containers.map(({ image }) => image)).toEqual([
        "mirror.test/mesh",
        expect.stringMatching(/^mirror/),
      ]);
    }
    const patches = () =>
      scene.proxy.accepted().filter(({ resource, method }) => resource === "pods" && method === "PATCH");
    expect(patches().length).toBe(0);

    const digest = scene.publish("v2");
    await until("both at the new config", async () => {
      const nodes = await scene.nodes();
      return nodes.every(({ status }) => status?.config?.applied === digest);
    });
    await scene.untilReady(2);
    await scene.untilQuiet(3_000);
    const rolled = await scene.pods();
    expect(rolled.map(({ metadata }) => metadata.uid)).toEqual(pods.map(({ metadata }) => metadata.uid));
    // Stage, tell, patch the image, take the plan back: each once.
    expect(patches().length).toBeLessThanOrEqual(2 * 4);
    await scene.untilQuiet(atRestMs);
    await operator.stop();

    // One that starts anew sees no drift either.
    const before = scene.proxy.accepted().length;
    await scene.startOperator();
    await until(
      "its watches",
      () => scene.proxy.log.filter(({ initial, status }) => initial && status === 200).length >= 12,
    );
    await scene.untilQuiet(3_000);
    expect(
      scene.proxy
        .accepted()
        .slice(before)
        .map(({ method, resource }) => `${method} ${resource}`),
    ).toEqual([]);
  });
});

interface Review {
  readonly request: { readonly uid: string; readonly operation: string; readonly object: Pod };
}

/** As a registry mirror and a service mesh do. */
function mutate({ spec, metadata }: Pod, operation: string): object[] {
  const patch: object[] = [];
  for (const list of ["initContainers", "containers"] as const) {
    for (const [at, { image = "" }] of (spec?.[list] ?? []).entries()) {
      const value = image.replace(/^registry\.test\//, "mirror.test/");
      if (value !== image) patch.push({ op: "replace", path: `/spec/${list}/${at}/image`, value });
    }
  }
  if (operation !== "CREATE" || metadata.labels?.["resultity.com/node"] === undefined) return patch;
  const mesh = { name: "mesh", image: "mirror.test/mesh" };
  patch.push({ op: "add", path: "/spec/containers/0", value: { ...mesh, name: "mesh-proxy" } });
  patch.push({ op: "add", path: "/spec/initContainers/0", value: { ...mesh, restartPolicy: "Always" } });
  patch.push({ op: "add", path: "/metadata/labels/mesh", value: "injected" });
  patch.push({ op: "add", path: "/metadata/annotations/mesh", value: "injected" });
  return patch;
}

describe("pods that end by themselves", () => {
  const ends = [
    ["UnexpectedAdmissionError", "the host has no GPU to give"],
    ["Evicted", "the host was low on memory"],
    ["Terminated", "the host was rebooted"],
  ] as const;

  it(`F41 [×${ends.length}] are replaced after a while, with the reason in an event and a condition`, async () => {
    await Promise.all(ends.map(([reason, message]) => failsOnce(reason, message)));
  });

  async function failsOnce(reason: string, message: string): Promise<void> {
    const scene = await begin(`failed-${reason.toLowerCase()}`);
    await scene.startOperator();
    await scene.createNode("gpu");
    await scene.untilReady(1);
    const first = await scene.pod("gpu");
    await stand.kube.patch(`${scene.core("pods", "gpu")}/status`, "merge", {
      status: { phase: "Failed", reason, message },
    });
    await scene.untilCondition("gpu", "Degraded", "True PodFailed");
    const second = await until("another pod", async () => {
      const seen = await scene.pod("gpu");
      return seen?.metadata.uid !== first?.metadata.uid && seen;
    });
    expect(second.metadata.uid).not.toBe(first?.metadata.uid);
    const pods = scene.proxy.accepted().filter(({ resource }) => resource === "pods");
    const deleted = pods.find(({ method }) => method === "DELETE")?.at ?? Number.NaN;
    const made = pods.findLast(({ method }) => method === "POST")?.at ?? Number.NaN;
    expect(made - deleted).toBeGreaterThan(3_000);
    await scene.untilReady(1);
    await until("an event that names the reason", async () => {
      const events = await scene.list<KubeEvent>(
        `/apis/events.k8s.io/v1/namespaces/${scene.namespace}/events`,
      );
      return events.some(({ note }) => note?.includes(reason));
    });
  }
});

interface KubeEvent extends KubeObject {
  readonly reason?: string;
  readonly note?: string;
}

interface Role {
  readonly kind: string;
  readonly metadata: { readonly name: string };
  readonly rules: readonly Rule[];
}
interface Rule {
  readonly apiGroups: readonly string[];
  readonly resources: readonly string[];
  readonly verbs: readonly string[];
}

/** The operator's own rights but for one; returns a kubeconfig of a ServiceAccount that has them. */
async function without(verb: string, resource: string): Promise<string> {
  const text = readFileSync(join(import.meta.dirname, "../../manifests/operator/20-rbac.yaml"), "utf8");
  const roles: Role[] = parseAllDocuments(text).map((document) => document.toJS());
  const own = roles.find(
    ({ kind, metadata }) => kind === "ClusterRole" && metadata.name === "resultity-operator",
  );
  const rules = (own?.rules ?? []).flatMap(({ apiGroups, resources, verbs }) =>
    resources.map((one) => ({
      apiGroups,
      resources: [one],
      verbs: one === resource ? verbs.filter((each) => each !== verb) : verbs,
    })),
  );
  const name = `without-${verb}-${resource}`;
  const rbac = "rbac.authorization.k8s.io";
  await stand.kube.create("/api/v1/namespaces/default/serviceaccounts", {
    apiVersion: "v1",
    kind: "ServiceAccount",
    metadata: { name },
  });
  await stand.kube.create(`/apis/${rbac}/v1/clusterroles`, {
    apiVersion: `${rbac}/v1`,
    kind: "ClusterRole",
    metadata: { name },
    rules: rules.filter(({ verbs }) => verbs.length > 0),
  });
  await stand.kube.create(`/apis/${rbac}/v1/clusterrolebindings`, {
    apiVersion: `${rbac}/v1`,
    kind: "ClusterRoleBinding",
    metadata: { name },
    roleRef: { apiGroup: rbac, kind: "ClusterRole", name },
    subjects: [{ kind: "ServiceAccount", name, namespace: "default" }],
  });
  return stand.bed.serviceAccountKubeconfig("default", name);
}

describe("rights that are missing", () => {
  it.each([
    ["create", "pods", "nodes"],
    ["create", "secrets", "nodes"],
    ["create", "resultitynodes", "pool"],
    ["create", "poddisruptionbudgets", "pool"],
    ["create", "configmaps", "network"],
  ] as const)(
    "F18 %s %s: a condition and an event name the verb, the rest works",
    async (verb, resource, where) => {
      const scene = await begin(`no-${verb}-${resource}`);
      await scene.startOperator(await without(verb, resource));
      await scene.createPool("chat", 1);
      const said = async () => {
        const object =
          where === "pool"
            ? await scene.pool("chat")
            : where === "network"
              ? await scene.network()
              : await scene.node("chat-0");
        if (conditionOf(object ?? {}, "Ready") !== "False PermissionMissing")
          throw new Error(JSON.stringify(object?.status?.conditions));
        return messageOf(object, "Ready");
      };
      const message = await until("the condition", said);
      expect(message).toContain(verb);
      expect(message).toContain(resource);
      const event = await until("the event", async () => {
        const events = await scene.list<KubeEvent>(
          `/apis/events.k8s.io/v1/namespaces/${scene.namespace}/events`,
        );
        return events.find(({ reason }) => reason === "PermissionMissing");
      });
      expect(event.note).toContain(verb);
      expect(event.note).toContain(resource);
      // What does not need it goes on.
      if (resource !== "resultitynodes") await until("the child", () => scene.node("chat-0"));
      if (resource === "pods")
        await until("its identity", () => stand.kube.get(scene.core("secrets", "chat-0-identity")));
      if (where !== "pool") return;
      await scene.createNode("solo");
      await scene.untilReady(resource === "resultitynodes" ? 1 : 2);
    },
  );
});

it("lent GPUs without their PriorityClass: a condition says what to apply, and then the pod is made", async () => {
  const scene = await begin("lent");
  await scene.startOperator();
  await scene.createNode("gpu", { capacity: "Opportunistic" });
  const node = await scene.untilCondition("gpu", "Degraded", "True PodCreateRefused");
  expect(messageOf(node, "Degraded")).toMatch(
    /no PriorityClass with name resultity-opportunistic.*apply manifests\/operator\/15-priority-class\.yaml/,
  );
  const file = join(import.meta.dirname, "../../manifests/operator/15-priority-class.yaml");
  await stand.bed.kubectlOk(["apply", "-f", file]);
  // It is tried again after half a minute, or when something changes.
  await scene.patch("resultitynodes", "gpu", { spec: { participation: { accept: false } } });
  await scene.untilReady(1);
  expect((await scene.pod("gpu"))?.spec).toMatchObject({
    priorityClassName: "resultity-opportunistic",
    priority: -1000,
    preemptionPolicy: "Never",
  });
});

describe("what the network's owner does not let run", () => {
  it("B28 an image from a registry that is not approved: a condition names field and fix, running pods stay", async () => {
    const scene = await begin("registries");
    await scene.startOperator();
    await scene.createNode("gpu");
    await scene.untilReady(1);
    const before = await scene.pod("gpu");
    await scene.patch("resultitynetworks", "testnet", {
      spec: { images: { allowed: ["registry.example/ours"] } },
    });
    const node = await scene.untilCondition("gpu", "ConfigApplied", "False ImageNotAllowed");
    expect(messageOf(node, "ConfigApplied")).toMatch(
      /registry\.test\/engine@sha256:.*spec\.images\.allowed .*change spec\.images of ResultityNetwork testnet/,
    );
    await scene.untilQuiet();
    expect((await scene.pod("gpu"))?.metadata.uid).toBe(before?.metadata.uid);
    await scene.createNode("late");
    await scene.untilCondition("late", "ConfigApplied", "False ImageNotAllowed");
    expect(await scene.pod("late")).toBeUndefined();
    await scene.patch("resultitynetworks", "testnet", { spec: { images: { allowed: ["registry.test"] } } });
    await scene.untilReady(2);
  });
});
