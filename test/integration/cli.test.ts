/** `kubectl resultity` as kubectl runs it, on a real API server, with a viewer's rights. The test plays the operator. */
import { spawn } from "node:child_process";
import { chmodSync, mkdirSync, writeFileSync } from "node:fs";
import { delimiter, join } from "node:path";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { type Desired, desiredAnnotation } from "../../src/protocol/desired.ts";
import type { ConfigDigest } from "../../src/protocol/fields.ts";
import { condition } from "../cli/objects.ts";
import { buildBundles } from "../loop/build.ts";
import {
  buildingMs,
  type CommandResult,
  type ControlPlane,
  isWrite,
  startControlPlane,
} from "../testbed/control-plane.ts";
import { type KubeJson, kubeJson, type KubeObject } from "../testbed/kube-json.ts";
import { until } from "../testbed/until.ts";

const root = join(import.meta.dirname, "../..");
const namespace = "inference";
const digest = (letter: string) => `sha256:${letter.repeat(64)}`;
const image = (letter: string) => `registry.test/engine@${digest(letter)}`;
let bed: ControlPlane;
let kube: KubeJson;
let viewer: string;
let beforeInstall: CommandResult;

interface How {
  readonly kubeconfig?: string;
  readonly env?: Readonly<Record<string, string>>;
}

/** `kubectl resultity …`, with the program on PATH as a plugin. */
function resultity(
  args: readonly string[],
  { kubeconfig = viewer, env = {} }: How = {},
): Promise<CommandResult> {
  const kubectl = bed.binaries.get("kubectl") ?? "kubectl";
  const path = [join(bed.dir, "plugins"), process.env["PATH"]].join(delimiter);
  return new Promise((resolve, reject) => {
    const child = spawn(kubectl, ["resultity", ...args], {
      env: { HOME: bed.dir, PATH: path, KUBECONFIG: kubeconfig, ...env },
      timeout: 60_000,
    });
    let [stdout, stderr] = ["", ""];
    child.stdout.on("data", (chunk: Buffer) => (stdout += chunk.toString()));
    child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
    child.once("error", reject);
    child.once("close", (code) => resolve({ stdout, stderr, code: code ?? -1 }));
  });
}

async function said(args: readonly string[], how: How = {}): Promise<string> {
  const { stdout, stderr, code } = await resultity(args, how);
  if (code !== 0) throw new Error(`kubectl resultity ${args.join(" ")} ended with ${code}: ${stderr}`);
  expect(stderr).toBe("");
  return stdout;
}

/** Words of a line of a table that begins with `name`. */
const line = (text: string, name: string): readonly string[] =>
  text
    .split("\n")
    .find((candidate) => candidate.startsWith(`${name} `))
    ?.split(/ {2,}/) ?? [];

beforeAll(async () => {
  await buildBundles();
  bed = await startControlPlane({ components: ["controller-manager"], log: console.error });
  viewer = bed.kubeconfigForUser("viewer");
  const plugins = join(bed.dir, "plugins");
  mkdirSync(plugins);
  const program = join(plugins, "kubectl-resultity");
  const command = [process.execPath, join(root, "dist/kubectl-resultity.mjs")].map((word) => `'${word}'`);
  writeFileSync(program, `#!/bin/sh\nexec ${command.join(" ")} "$@"\n`);
  chmodSync(program, 0o755);
  beforeInstall = await resultity(["status"], { kubeconfig: bed.adminKubeconfig });
  await bed.kubectlOk(["apply", "-f", join(root, "crds")]);
  await bed.kubectlOk(["wait", "--for=condition=Established", "crd", "--all"]);
  for (const file of ["10-namespace.yaml", "20-rbac.yaml"])
    await bed.kubectlOk(["apply", "-f", join(root, "manifests/operator", file)]);
  await bed.kubectlOk(["create", "namespace", namespace]);
  await bed.kubectlOk([
    "-n",
    namespace,
    "create",
    "rolebinding",
    "viewer",
    "--clusterrole=view",
    "--user=viewer",
  ]);
  kube = kubeJson(bed.adminKubeconfig);
  await makeObjects();
  await makePod();
  await until("the viewer's rights", async () => (await resultity(["status", "-n", namespace])).code === 0);
}, buildingMs);

afterAll(async () => {
  await kube?.close();
  await bed?.stop();
});

const group = `/apis/resultity.com/v1alpha1/namespaces/${namespace}`;
const core = `/api/v1/namespaces/${namespace}`;
const apiVersion = "resultity.com/v1alpha1";
const metadata = (name: string) => ({ name, namespace });
const controlledBy = (kind: string, name: string, uid: string | undefined) => ({
  ownerReferences: [{ apiVersion, kind, name, uid, controller: true }],
});
const missing = `ImagePullFailed: the runtime image ${image("b")} cannot be pulled`;

/** What the operator and the kubelet would write. */
function writeStatus(path: string, status: object): Promise<KubeObject> {
  return kube.patch(`${path}/status`, "merge", { status });
}

/** Conditions by type, as `"False ImagePullFailed: the image …"`. */
function conditions(said: Readonly<Record<string, string>>) {
  const list = Object.entries(said).map(([type, text]) => condition(type, text));
  return { observedGeneration: 1, conditions: list };
}

/** A pool in the middle of a roll that one node's image stops, and a node that is parked. */
async function makeObjects(): Promise<void> {
  const spec = { networkRef: { name: "testnet" }, runtime: { engine: "openai" } };
  await kube.create(`${group}/resultitynetworks`, {
    apiVersion,
    kind: "ResultityNetwork",
    metadata: metadata("testnet"),
    spec: {
      environment: "Testnet",
      endpoints: ["http://127.0.0.1:1"],
      trust: { rootConfigMap: { name: "root" } },
      account: { id: "acme", secretName: "account" },
      agent: { image: `registry.test/agent@${digest("1")}` },
    },
  });
  await writeStatus(`${group}/resultitynetworks/testnet`, {
    config: {
      digest: digest("b"),
      version: "2.0.0",
      releaseSequence: 7,
      expiresAt: new Date(Date.now() + 5.5 * 86_400_000).toISOString().replace(/\.\d+Z/, "Z"),
    },
    nodes: { total: 4, ready: 2, connected: 2 },
    ...conditions({ Ready: "True AllWell: nodes move to config b" }),
  });
  const pool = await kube.create<KubeObject & { spec: { template: { spec: object } } }>(
    `${group}/resultitynodepools`,
    {
      apiVersion,
      kind: "ResultityNodePool",
      metadata: metadata("chat"),
      spec: { replicas: 3, template: { spec } },
    },
  );
  await writeStatus(`${group}/resultitynodepools/chat`, {
    replicas: 3,
    readyReplicas: 2,
    availableReplicas: 2,
    updatedReplicas: 0,
    rollout: {
      target: digest("b"),
      updated: 0,
      total: 3,
      waitingOn: { node: "chat-0", reason: missing, since: "2026-01-01T00:00:00Z" },
    },
    ...conditions({
      Progressing: `False WaitingForNode: chat-0 cannot go on: ${missing}`,
      Ready: `False WaitingForNode: chat-0 cannot go on: ${missing}`,
    }),
  });
  for (const at of [0, 1, 2]) {
    const stuck = at === 0;
    await makeNode(
      `chat-${at}`,
      {
        labels: { "resultity.com/pool": "chat" },
        ...controlledBy("ResultityNodePool", "chat", pool.metadata.uid),
      },
      pool.spec.template.spec,
      {
        config: { target: digest(stuck ? "b" : "a"), applied: digest("a") },
        runtime: { engine: "openai", image: image("a") },
        hostName: `host-${at}`,
        ...conditions(
          stuck
            ? {
                RuntimeReady: `False ${missing}`,
                Connected: "False SessionClosed: the session is closed",
                Ready: `False ${missing}`,
              }
            : { RuntimeReady: "True ModelsLoaded", Connected: "True SessionOpen", Ready: "True AllWell" },
        ),
      },
    );
  }
  const parked = conditions({ Scheduled: "False Parked: parked", Ready: "False Parked: parked" });
  await makeNode("solo", {}, { ...spec, replicas: 0 }, parked);
}

async function makeNode(name: string, more: object, spec: object, status: object): Promise<void> {
  const meta = { ...metadata(name), ...more };
  await kube.create(`${group}/resultitynodes`, { apiVersion, kind: "ResultityNode", metadata: meta, spec });
  await writeStatus(`${group}/resultitynodes/${name}`, status);
}

/** The pod of chat-0 as a kubelet that cannot pull its image would leave it, and an event of the operator. */
async function makePod(): Promise<void> {
  const node = await kube.get(`${group}/resultitynodes/chat-0`);
  const orders: Desired = {
    revision: 4,
    stage: null,
    target: digest("b") as ConfigDigest,
    engine: "openai",
    image: null,
    gpuProduct: null,
    gpuCount: 1,
    models: [],
    args: [],
    accept: true,
    subclouds: [],
    drainTimeoutMs: 300_000,
    evictionTimeoutMs: 30_000,
    plannedStop: "runtime-image",
  };
  await until("the namespace's ServiceAccount", () => kube.get(`${core}/serviceaccounts/default`));
  await kube.create(`${core}/pods`, {
    apiVersion: "v1",
    kind: "Pod",
    metadata: {
      ...metadata("chat-0"),
      labels: { "resultity.com/node": "chat-0", "resultity.com/pool": "chat" },
      annotations: { [desiredAnnotation]: JSON.stringify(orders) },
      ...controlledBy("ResultityNode", "chat-0", node?.metadata.uid),
    },
    spec: {
      nodeName: "host-0",
      initContainers: [
        { name: "agent", image: `registry.test/agent@${digest("1")}`, restartPolicy: "Always" },
      ],
      containers: [{ name: "runtime", image: image("b") }],
    },
  });
  const waiting = { reason: "ErrImagePull", message: "not found" };
  const runtime = { name: "runtime", image: image("b"), imageID: "", ready: false, restartCount: 0 };
  await writeStatus(`${core}/pods/chat-0`, {
    phase: "Pending",
    containerStatuses: [{ ...runtime, state: { waiting } }],
  });
  await kube.create(`/apis/events.k8s.io/v1/namespaces/${namespace}/events`, {
    apiVersion: "events.k8s.io/v1",
    kind: "Event",
    metadata: metadata("chat-0.1"),
    eventTime: new Date().toISOString().replace("Z", "000Z"),
    reportingController: "resultity.com/operator",
    reportingInstance: "test",
    action: "Patch",
    reason: "ImagePullFailed",
    type: "Warning",
    note: "no such image",
    regarding: { apiVersion, kind: "ResultityNode", ...metadata("chat-0"), uid: node?.metadata.uid },
  });
}

describe("kubectl resultity", () => {
  it("is found by kubectl, and shows its help", async () => {
    expect(await said([])).toContain("usage: kubectl resultity COMMAND");
  });

  it("status shows what there is, and why it is not well", async () => {
    const text = await said(["status", "-n", namespace]);
    expect(line(text, "testnet").slice(0, 8)).toEqual([
      "testnet",
      "Testnet",
      "bbbbbbbbbbbb",
      "2.0.0",
      "7",
      "in 5d",
      "2/4",
      "True",
    ]);
    expect(line(text, "chat").slice(0, 7)).toEqual(["chat", "2", "2", "0", "3", "bbbbbbbbbbbb", "chat-0"]);
    expect(line(text, "chat-0").slice(1, 8)).toEqual([
      "host-0",
      "openai",
      "aaaaaaaaaaaa",
      "bbbbbbbbbbbb",
      "aaaaaaaaaaaa",
      "False",
      "False",
    ]);
    expect(text).toContain(
      "ImagePullFailed: the runtime image registry.test/engine@bbbbbbbbbbbb cannot be pulled",
    );
    expect(line(text, "solo").at(-1)).toBe("Parked: parked");
    expect(text).not.toContain("\u001B");
  });

  it("status takes a name, all namespaces, and gives JSON", async () => {
    const solo = await said(["status", "solo", "-n", namespace]);
    expect(solo).toContain("testnet");
    expect(solo).not.toContain("chat");
    const all = await said(["status", "-A"], { kubeconfig: bed.adminKubeconfig });
    expect(all).toMatch(/NAMESPACE +NAME/);
    const view = JSON.parse(await said(["status", "-n", namespace, "-o", "json"]));
    expect(view.nodes).toHaveLength(4);
    expect(view.nodes[0]).toMatchObject({
      name: "chat-0",
      target: digest("b"),
      ready: { reason: "ImagePullFailed" },
    });
  });

  it("why NODE has conditions, pod, orders and events, and what comes next", async () => {
    const text = await said(["why", "chat-0", "-n", namespace]);
    expect(text).toMatch(
      /^ResultityNode inference\/chat-0 is not Ready since .*\(2026-01-01T00:00:00Z\)\nImagePullFailed: /,
    );
    expect(text).toContain("- ImagePullFailed: kubectl -n inference describe pod chat-0");
    expect(text).toMatch(/container runtime +waiting \(ErrImagePull\), 0 restarts/);
    expect(text).toMatch(
      /orders to the agent +revision 4, run sha256:b+, a stop is planned \(runtime-image\)/,
    );
    expect(text).toContain("waits for the kubelet to start container runtime (ErrImagePull)");
    expect(text).toMatch(/Warning +ResultityNode chat-0 +ImagePullFailed +1 +no such image/);
    expect(text).toContain("its pool decides when it moves: kubectl resultity plan chat -n inference");
    expect(text).not.toContain("not shown");
  });

  it("why POOL and plan POOL say what holds the roll, by the operator's planner", async () => {
    const why = await said(["why", "rpool/chat", "-n", namespace]);
    expect(why).toContain("chat-0 was told to move and has not arrived (ImagePullFailed");
    expect(why).toContain("budget PodDisruptionBudget chat: 2 nodes stay in service");
    const text = await said(["plan", "chat", "-n", namespace]);
    expect(text).toContain("In service: 2 of 3; at least 2 stay so (maxUnavailable 1)");
    expect(text).toMatch(/1 +chat-1 +target +2\/3 .*\n2 +chat-2 +target +2\/3/);
    expect(text).toContain("In service at the least: 2 of 3");
    const view = JSON.parse(await said(["plan", "chat", "-n", namespace, "-o", "json"]));
    expect(view.pools).toMatchObject([{ target: digest("b"), underWay: ["chat-0"], lowest: 2 }]);
    // No operator has put a config here.
    expect(view.notes.join()).toContain("each move counts as one that interrupts jobs");
  });

  it("why NETWORK counts what its nodes run", async () => {
    const text = await said(["why", "testnet", "-n", namespace]);
    expect(text).toMatch(new RegExp(`nodes +3 run ${digest("a")}, 2 of them Ready`));
    expect(text).toContain(`1 more move to it`);
  });

  it("only reads", async () => {
    const mark = await bed.audit.mark();
    for (const args of [["status"], ["why", "chat-0"], ["why", "chat"], ["why", "testnet"], ["plan", "chat"]])
      await said([...args, "-n", namespace]);
    const entries = (await bed.audit.since(mark)).filter(({ user }) => user === "viewer");
    expect(entries.length).toBeGreaterThan(10);
    expect(entries.filter(isWrite)).toEqual([]);
    expect(new Set(entries.map(({ verb }) => verb))).toEqual(new Set(["get", "list"]));
  });
});

describe("kubectl resultity that changes a spec", () => {
  const poolPath = `${group}/resultitynodepools/chat`;
  const specOf = async (path: string) =>
    (await kube.get<KubeObject & { spec: Record<string, unknown> }>(path))?.spec;
  let admin: string;

  beforeAll(async () => {
    admin = bed.kubeconfigForUser("owner");
    const binding = ["create", "rolebinding", "owner", "--clusterrole=admin", "--user=owner"];
    await bed.kubectlOk(["-n", namespace, ...binding]);
    await until(
      "the owner's rights",
      async () => (await resultity(["status", "-n", namespace], { kubeconfig: admin })).code === 0,
    );
  });

  it("pauses and resumes a pool, in one write each, and none where it is so already", async () => {
    const how = { kubeconfig: admin };
    const mark = await bed.audit.mark();
    expect(await said(["rollout", "pause", "chat", "-n", namespace], how)).toContain("are paused");
    expect(await specOf(poolPath)).toMatchObject({ strategy: { paused: true } });
    expect(await said(["rollout", "pause", "chat", "-n", namespace], how)).toContain("already");
    expect(await said(["rollout", "status", "chat", "-n", namespace], how)).toContain("pool chat:");
    await said(["rollout", "resume", "chat", "-n", namespace], how);
    expect(await specOf(poolPath)).toMatchObject({ strategy: { paused: false } });
    const writes = (await bed.audit.since(mark)).filter((entry) => entry.user === "owner" && isWrite(entry));
    expect(writes).toHaveLength(2);
  });

  it("approves what waits for approval, and takes a pool back and forth", async () => {
    const how = { kubeconfig: admin };
    const network = `${group}/resultitynetworks/testnet`;
    await kube.patch(network, "merge", { spec: { config: { apply: "Approve" } } });
    const since = "2026-01-01T00:00:00Z";
    await writeStatus(network, {
      pending: { digest: digest("c"), version: "3.0.0", changes: ["model x added"] },
      history: ["b", "a"].map((letter) => ({ digest: digest(letter), version: letter, since })),
    });
    const refused = await resultity(["approve", "testnet", "-n", namespace]);
    expect(refused).toMatchObject({ code: 1, stdout: "" });
    expect(refused.stderr).toContain("or for a network for admin");
    expect(await said(["approve", "testnet", "-n", namespace], how)).toContain("model x added");
    expect(await specOf(network)).toMatchObject({ config: { approved: digest("c") } });
    expect(await said(["rollout", "history", "chat", "-n", namespace], how)).toContain(digest("a"));
    await said(["rollout", "undo", "chat", "-n", namespace], how);
    expect(await specOf(poolPath)).toMatchObject({
      template: { spec: { config: { pin: digest("a") } } },
    });
    await said(["rollout", "follow", "chat", "-n", namespace], how);
    expect(JSON.stringify(await specOf(poolPath))).not.toContain('"pin"');
  });

  it("parks a node and lets it run again", async () => {
    const how = { kubeconfig: admin };
    await said(["park", "chat-1", "-n", namespace], how);
    expect(await specOf(`${group}/resultitynodes/chat-1`)).toMatchObject({ replicas: 0 });
    await said(["unpark", "rnode/chat-1", "-n", namespace], how);
    expect(await specOf(`${group}/resultitynodes/chat-1`)).toMatchObject({ replicas: 1 });
  });
});

describe("kubectl resultity that cannot answer", () => {
  const cases: readonly (readonly [string, readonly string[], number, string])[] = [
    [
      "a name that is not there",
      ["why", "nobody", "-n", namespace],
      1,
      'network, pool or node "nobody" in namespace inference',
    ],
    [
      "a node in place of a pool",
      ["plan", "chat-0", "-n", namespace],
      2,
      "rnode/chat-0 is no pool or network: its pool decides when it moves: kubectl resultity plan chat -n inference",
    ],
    ["a pool that is not there", ["plan", "rpool/chat-0", "-n", namespace], 1, "there is no rpool/chat-0"],
    ["a manifest that is not there", ["plan", "-f", "/nowhere.yaml", "-n", namespace], 1, "/nowhere.yaml"],
    ["a wrong flag", ["status", "--wide"], 2, "see kubectl resultity --help"],
    ["no rights", ["status", "-n", "default"], 1, 'cannot list resource "resultity'],
    [
      "no rights: the fix",
      ["status", "-A"],
      1,
      "ask an administrator of the namespace for the ClusterRole view",
    ],
    ["a context that is not there", ["status", "--context", "prod"], 1, 'context "prod" names no cluster'],
    ["a file that is not there", ["status", "--kubeconfig", "/nowhere"], 1, "'/nowhere'"],
  ];
  it.each(cases)("%s: exit code and a message with the fix", async (_, args, exitCode, message) => {
    const { code, stdout, stderr } = await resultity(args);
    expect(stderr).toContain(message);
    expect(stderr).toMatch(/^error: /);
    expect(code).toBe(exitCode);
    expect(stdout).toBe("");
  });

  it("says so where nothing is installed", () => {
    expect(beforeInstall).toMatchObject({ code: 1, stdout: "" });
    expect(beforeInstall.stderr).toContain(
      "does not serve resultity.com/v1alpha1; install it (kubectl apply -f manifests/install.yaml)",
    );
  });

  it("says so where there is nothing to show", async () => {
    const { code, stderr } = await resultity(["status"], { kubeconfig: bed.adminKubeconfig });
    expect(stderr).toContain("No networks, pools or nodes found in namespace default: -n chooses another");
    expect(code).toBe(0);
  });

  it("says which server cannot be reached", async () => {
    const broken = join(bed.dir, "broken.kubeconfig");
    const config = { apiVersion: "v1", kind: "Config", "current-context": "c" };
    const context = { name: "c", context: { cluster: "c", user: "u", namespace } };
    const clusters = [
      { name: "c", cluster: { server: "https://127.0.0.1:9", "insecure-skip-tls-verify": true } },
    ];
    const users = [{ name: "u", user: { token: "t" } }];
    writeFileSync(broken, JSON.stringify({ ...config, contexts: [context], clusters, users }));
    const { code, stderr } = await resultity(["status"], { kubeconfig: broken });
    expect(stderr).toContain("check that https://127.0.0.1:9 is the right cluster and can be reached");
    expect(code).toBe(1);
  });

  it("takes the namespace of the context, and several files in KUBECONFIG of which some are not there", async () => {
    const first = join(bed.dir, "first.kubeconfig");
    const context = { name: "mine", context: { cluster: "testbed", user: "viewer", namespace } };
    writeFileSync(
      first,
      JSON.stringify({ apiVersion: "v1", kind: "Config", contexts: [context], "current-context": "mine" }),
    );
    const kubeconfig = ["/nowhere", first, viewer].join(delimiter);
    expect(await said(["status"], { kubeconfig })).toContain("chat-0");
    expect((await resultity(["status", "--context", "testbed"], { kubeconfig })).stderr).toContain(
      'namespace "default"',
    );
  });
});
