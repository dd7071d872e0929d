/**
 * What the process kubelet alone has to show, beside the suite that it shares with the real one: that its containers
 * cannot see what is not theirs, though they are processes of one machine, and that a host can be booted again.
 */
import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { buildingMs, type ControlPlane, startControlPlane } from "../../control-plane.ts";
import { type KubeJson, kubeJson, type KubeObject } from "../../kube-json.ts";
import { until } from "../../until.ts";
import { type ProcessKubelet, startProcessKubelet } from "./kubelet.ts";
import type { Pod } from "./types.ts";

const namespace = "process-kubelet";
const hostName = "process-host";
const pods = `/api/v1/namespaces/${namespace}/pods`;
let bed: ControlPlane;
let kube: KubeJson;
let kubelet: ProcessKubelet;
let dir: string;
let boot: () => Promise<ProcessKubelet>;

beforeAll(async () => {
  bed = await startControlPlane({ components: [], log: (line) => console.error(line) });
  kube = kubeJson(bed.adminKubeconfig);
  // A folder of its own around the kubelet's: the bed's own is shared with every other bed of this user.
  dir = join(bed.processes.folder("host"), "kubelet");
  const kubeconfig = bed.kubeconfigForUser(`system:node:${hostName}`, ["system:nodes"]);
  boot = () =>
    startProcessKubelet({
      kubeconfig,
      hostName,
      dir,
      gpus: { count: 4, product: "test" },
      images: (reference) =>
        ({
          shell: { command: ["/bin/sh", "-c"], readOnlyPaths: [] },
          // An image that is careless enough to show the folder around the kubelet's own.
          wide: { command: ["/bin/sh", "-c"], readOnlyPaths: [dirname(dir)] },
        })[reference],
    });
  kubelet = await boot();
  await kube.create("/api/v1/namespaces", { metadata: { name: namespace } });
  await kube.create(`/api/v1/namespaces/${namespace}/serviceaccounts`, { metadata: { name: "default" } });
}, buildingMs);

afterAll(async () => {
  await kubelet?.stop();
  await kube?.close();
  await bed?.stop();
});

/** Creates a pod whose containers run shell scripts. */
async function create(name: string, spec: object): Promise<void> {
  await kube.create(pods, {
    metadata: { name },
    spec: {
      nodeName: hostName,
      automountServiceAccountToken: false,
      terminationGracePeriodSeconds: 3,
      ...spec,
    },
  });
}

const shell = (name: string, script: string, more: object = {}) => ({
  name,
  image: "shell",
  args: [script],
  ...more,
});

const read = (name: string) => kube.get<KubeObject & Pod>(`${pods}/${name}`);

/** Output of all runs of a container. */
function output(pod: string, container: string): string {
  return kubelet
    .logs({ namespace, name: pod })
    .filter((log) => log.container === container)
    .map(({ path }) => readFileSync(path, "utf8"))
    .join("");
}

const phase = (name: string, wanted: string) =>
  until(`pod ${name} to be ${wanted}`, async () => {
    const pod = await read(name);
    return pod?.status?.phase === wanted && pod;
  });

test("a secret of another container cannot be reached by root in a container: no path, no /proc, no mount, no kubelet folder", async () => {
  await kube.create(`/api/v1/namespaces/${namespace}/secrets`, {
    metadata: { name: "identity" },
    stringData: { key: "top secret" },
  });
  const attempts = [
    "cat /identity/key",
    "cat /proc/1/root/identity/key",
    "cat /proc/[0-9]*/root/identity/key",
    `ls ${dir} | grep .`,
    `find ${dirname(dir)} -name start.sh | grep .`,
    `find / -xdev -name key -path "*identity*" | grep .`,
    "mount -t tmpfs none /mnt",
    "mkdir /tmp/p && mount -t proc proc /tmp/p",
    "mknod /tmp/disk b 254 0",
    "unshare --mount true",
    "nsenter --target 1 --mount --pid cat /identity/key",
    "ls /dev/vda",
    "cat /etc/shadow",
    "kill -0 2 && [ $(ls -d /proc/[0-9]* | wc -l) -gt 20 ]",
  ];
  await create("thief", {
    initContainers: [
      shell("agent", "cat /identity/key; exec sleep 1000", {
        restartPolicy: "Always",
        volumeMounts: [{ name: "identity", mountPath: "/identity" }],
      }),
    ],
    containers: [
      shell(
        "runtime",
        `${attempts.map((line) => `if ${line}; then echo "GOT: ${line.replaceAll(/["$]/g, "")}"; fi`).join("\n")}\necho tried all; sleep 1000`,
        { image: "wide" },
      ),
    ],
    volumes: [{ name: "identity", secret: { secretName: "identity", defaultMode: 0o400 } }],
  });
  await until("the thief to try", () => output("thief", "runtime").includes("tried all"));
  expect(output("thief", "agent")).toContain("top secret");
  const tried = output("thief", "runtime");
  expect(tried.match(/GOT.*/g) ?? []).toEqual([]);
  expect(tried).not.toContain("top secret");
});

test.skipIf(process.getuid?.() !== 0)(
  "a container runs as the user of its securityContext, with the group that may write its volumes and nothing else",
  async () => {
    await create("user", {
      restartPolicy: "Never",
      securityContext: { runAsUser: 1234, runAsGroup: 1235, fsGroup: 1236 },
      containers: [
        shell(
          "only",
          "id -u; id -g; id -G; grep CapEff /proc/self/status; echo x >/data/mine && echo wrote; echo x >/outside || echo refused; cat /config/text",
          {
            securityContext: { readOnlyRootFilesystem: true, allowPrivilegeEscalation: false },
            volumeMounts: [
              { name: "data", mountPath: "/data" },
              { name: "info", mountPath: "/config" },
            ],
          },
        ),
      ],
      volumes: [
        { name: "data", emptyDir: {} },
        {
          name: "info",
          downwardAPI: {
            defaultMode: 0o400,
            items: [{ path: "text", fieldRef: { fieldPath: "metadata.name" } }],
          },
        },
      ],
    });
    await phase("user", "Succeeded");
    const lines = output("user", "only").trim().split("\n");
    expect(lines.slice(0, 3)).toEqual(["1234", "1235", "1235 1236"]);
    expect(lines[3]).toMatch(/0{16}$/);
    expect(lines).toContain("wrote");
    expect(lines).toContain("refused");
    expect(lines.at(-1)).toBe("user");
  },
);

test("init containers run one after the other; a sidecar between them stays, and the last of them ends first", async () => {
  const note = (who: string) => `trap 'echo ${who} end >>/log/all; exit 0' TERM; echo ${who} >>/log/all; `;
  const stay = "while true; do sleep 0.1; done";
  const mounts = { volumeMounts: [{ name: "log", mountPath: "/log" }] };
  await create("order", {
    initContainers: [
      shell("first", `${note("first")} sleep 0.3`, mounts),
      shell("second", `${note("second")}${stay}`, { restartPolicy: "Always", ...mounts }),
      shell("third", `${note("third")} sleep 0.3`, mounts),
      shell("fourth", `${note("fourth")}${stay}`, { restartPolicy: "Always", ...mounts }),
    ],
    containers: [shell("main", `${note("main")}${stay}`, mounts)],
    volumes: [{ name: "log", hostPath: { path: bed.processes.folder("order"), type: "Directory" } }],
  });
  const log = `${(await read("order"))?.spec.volumes?.[0]?.hostPath?.path}/all`;
  await until("main to run", () => readFileSync(log, "utf8").includes("main"));
  await kube.delete(`${pods}/order`);
  await until("the pod to be gone", async () => (await read("order")) === undefined);
  expect(readFileSync(log, "utf8").trim().split("\n")).toEqual([
    "first",
    "second",
    "third",
    "fourth",
    "main",
    "main end",
    "fourth end",
    "second end",
  ]);
});

test("a pod that does not restart ends Succeeded or Failed, and its sidecar with it", async () => {
  const sidecar = shell("agent", "trap 'exit 0' TERM; while true; do sleep 0.1; done", {
    restartPolicy: "Always",
  });
  await create("well", {
    restartPolicy: "Never",
    initContainers: [sidecar],
    containers: [shell("job", "exit 0")],
  });
  await create("ill", {
    restartPolicy: "Never",
    initContainers: [sidecar],
    containers: [shell("job", "echo it broke >/dev/termination-log; exit 7")],
  });
  await phase("well", "Succeeded");
  const ill = await phase("ill", "Failed");
  expect(ill.status?.containerStatuses?.[0]?.state?.terminated).toMatchObject({
    exitCode: 7,
    message: "it broke\n",
  });
  expect(kubelet.containers().filter(({ pod }) => pod === "well" || pod === "ill")).toEqual([]);
});

test("an exec probe and an exec preStop hook run inside the container", async () => {
  await create("exec", {
    containers: [
      shell(
        "main",
        "trap 'cat /tmp/said; exit 0' TERM; sleep 0.5; touch /tmp/ready; while true; do sleep 0.1; done",
        {
          readinessProbe: { exec: { command: ["cat", "/tmp/ready"] }, periodSeconds: 1 },
          lifecycle: { preStop: { exec: { command: ["sh", "-c", "echo goodbye $WHO >/tmp/said"] } } },
          env: [{ name: "WHO", value: "world" }],
        },
      ),
    ],
  });
  await until("readiness", async () => (await read("exec"))?.status?.containerStatuses?.[0]?.ready === true);
  await kube.delete(`${pods}/exec`);
  await until("the pod to be gone", async () => (await read("exec")) === undefined);
  expect(output("exec", "main")).toContain("goodbye world");
});

test("GPUs are told by index, other ones to each container, the same after a restart in place", async () => {
  const gpu = (count: number) => ({ resources: { limits: { "nvidia.com/gpu": String(count) } } });
  await create("gpus", {
    containers: [
      shell("one", "echo $NVIDIA_VISIBLE_DEVICES; sleep 0.5; exit 1", gpu(1)),
      shell("two", "echo $NVIDIA_VISIBLE_DEVICES; sleep 1000", gpu(2)),
    ],
  });
  await until("a restart", () => output("gpus", "one").trim().split("\n").length === 2);
  const [first, again] = output("gpus", "one").trim().split("\n");
  expect(again).toBe(first);
  const all = [first, ...output("gpus", "two").trim().split(",")];
  expect(new Set(all).size).toBe(3);
  await kube.delete(`${pods}/gpus`);
});

test("a pod deleted without grace is gone at once from the API server, and soon from the host; an evicted one is Failed", async () => {
  const quick = shell("main", "trap 'exit 0' TERM; while true; do sleep 0.1; done");
  await create("forced", { containers: [quick] });
  await create("evicted", { containers: [quick] });
  await phase("forced", "Running");
  await phase("evicted", "Running");
  const running = () => kubelet.containers().map(({ pod }) => pod);
  await kube.delete(`${pods}/forced`, 0);
  await until("its process to end", () => !running().includes("forced"));
  kubelet.evict({ namespace, name: "evicted" }, "The node was low on resource: memory.");
  const evicted = await phase("evicted", "Failed");
  expect(evicted.status?.reason).toBe("Evicted");
  expect(running()).not.toContain("evicted");
});

test("an image volume: the pod runs once the image is there, and says ErrImagePull where it cannot be had", async () => {
  const holding = (reference: string) => ({
    containers: [shell("main", "sleep 1000", { volumeMounts: [{ name: "image", mountPath: "/image" }] })],
    volumes: [{ name: "image", image: { reference, pullPolicy: "IfNotPresent" } }],
  });
  await create("holds", holding("shell"));
  await create("lacks", holding("registry.test/none:1"));
  await phase("holds", "Running");
  await until("ErrImagePull", async () => {
    const state = (await read("lacks"))?.status?.containerStatuses?.[0]?.state?.waiting;
    return state?.reason === "ErrImagePull" && state.message?.includes("registry.test/none:1");
  });
});

test("a host that lost its power: disk volumes are there again, memory volumes are empty, every container ran once more, the pod was never written meanwhile", async () => {
  const main = shell("main", "ls /disk /memory; touch /disk/kept /memory/lost; sleep 1000", {
    volumeMounts: [
      { name: "disk", mountPath: "/disk" },
      { name: "memory", mountPath: "/memory" },
    ],
  });
  await create("survivor", {
    containers: [main],
    volumes: [
      { name: "disk", emptyDir: {} },
      { name: "memory", emptyDir: { medium: "Memory" } },
    ],
  });
  const before = await phase("survivor", "Running");
  await until("its first output", () => output("survivor", "main").includes("/memory"));
  const pids = kubelet.containers().map(({ pid }) => pid);
  await kubelet.crash();
  for (const pid of pids) expect(() => process.kill(pid, 0)).toThrow(/ESRCH/);
  const down = await read("survivor");
  expect(down?.metadata.resourceVersion).toBe(before.metadata.resourceVersion);
  kubelet = await boot();
  const status = await until("the restart", async () => {
    const seen = (await read("survivor"))?.status?.containerStatuses?.[0];
    return seen?.restartCount === 1 && seen.state?.running && seen;
  });
  expect(status.lastState?.terminated).toMatchObject({ exitCode: 255, reason: "Unknown" });
  await until("its second output", () => output("survivor", "main").split("/memory").length === 3);
  expect(output("survivor", "main").replaceAll("\n", " ").trim()).toBe(
    "/disk:  /memory: /disk: kept  /memory:",
  );
  expect((await read("survivor"))?.metadata.uid).toBe(before.metadata.uid);
});
