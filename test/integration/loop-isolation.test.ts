/**
 * What the parts of a node's pod can and cannot reach, tried from inside their namespaces and from outside; and what a
 * broken agent costs the engine beside it: nothing.
 */
import { spawnSync } from "node:child_process";
import { connect } from "node:net";
import { networkInterfaces } from "node:os";
import { Agent, request } from "undici";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { buildBundles } from "../loop/build.ts";
import { agentImage, brokenAgentImage, unknownImage } from "../loop/images.ts";
import { runLoad } from "../loop/load.ts";
import { isNodeReady, type Loop, namespace, networkName, type PodObject, startLoop } from "../loop/loop.ts";
import { containerOf, enginePid, enginePort } from "../loop/victims.ts";
import { isolation } from "../testbed/kubelet/process/isolation.ts";
import { until } from "../testbed/until.ts";

const nodes = ["chat-0", "chat-1"];
const keyPath = "/etc/resultity/identity/key.jwk";

let loop: Loop;

beforeAll(async () => {
  await buildBundles();
  loop = await startLoop({ hosts: 1, gpusPerHost: 2, tokenDelayMs: 10 });
  await loop.applySamples({ replicas: nodes.length });
  await loop.untilReady(nodes.length);
}, 1_500_000);

afterAll(() => loop?.stop());

/** Runs a script with a container's view of files and processes, and more rights than the container itself has. */
function inside(node: string, container: "agent" | "runtime", script: string): Said {
  const [command = "", ...args] = isolation("").enterRunning(containerOf(loop, node, container).pid);
  const { status, stdout, stderr } = spawnSync(command, [...args, "/bin/sh", "-c", script], {
    encoding: "utf8",
  });
  return { status, stdout, stderr };
}

interface Said {
  readonly status: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Every folder of a container's own: what is mounted for it, and where it may write. Not the host's programs. */
const ownFolders = "/etc/resultity /var /run /root /home /tmp /models /dev/shm";

const podIP = async (node: string): Promise<string> => {
  const pod = (await loop.pods()).find(({ metadata }) => metadata.name === node);
  return pod?.status?.podIP ?? "";
};

/** "connected", or the code of the error. */
const reach = (host: string, port: number): Promise<string> =>
  new Promise((resolve) => {
    const socket = connect({ host, port, timeout: 5_000 });
    const end = (how: string) => {
      socket.destroy();
      resolve(how);
    };
    socket.once("connect", () => end("connected"));
    socket.once("timeout", () => end("timeout"));
    socket.once("error", (error: NodeJS.ErrnoException) => end(error.code ?? error.message));
  });

describe("Kubernetes credentials", () => {
  it("are not in an agent: no token is mounted, none lies about, none is in its environment", () => {
    // The same look does see what is there.
    expect(JSON.parse(inside("chat-0", "agent", `cat ${keyPath}`).stdout)).toMatchObject({ kty: "OKP" });

    expect(inside("chat-0", "agent", "ls -d /var/run/secrets /run/secrets").stdout).toBe("");
    expect(inside("chat-0", "agent", "cat /proc/mounts").stdout).not.toMatch(/serviceaccount|run\/secrets/);
    const names = `find ${ownFolders} -name 'token*' -o -name '*kubeconfig*' -o -name 'ca.crt'`;
    expect(inside("chat-0", "agent", names).stdout).toBe("");
    const words = "PRIVATE KEY|client-key-data|client-certificate|serviceaccount|system:node";
    const found = inside("chat-0", "agent", `grep -rlE '${words}' ${ownFolders}`);
    expect(found.stdout).toBe("");
    const environment = inside("chat-0", "agent", "tr '\\0' '\\n' < /proc/1/environ").stdout;
    expect(environment).toContain("POD_IP=");
    expect(environment).not.toMatch(/KUBECONFIG|TOKEN|eyJ/i);
  });

  it("are asked for by no pod, and without them the API server says nothing", async () => {
    for (const { spec } of (await loop.pods()) as readonly PodWithVolumes[]) {
      expect(spec.automountServiceAccountToken).toBe(false);
      expect(JSON.stringify(spec.volumes)).toContain('"secret"');
      expect(JSON.stringify(spec.volumes)).not.toContain("serviceAccountToken");
    }
    const dispatcher = new Agent({ connect: { ca: loop.bed.ca } });
    const path = `/api/v1/namespaces/${namespace}/secrets`;
    const { statusCode, body } = await request(`${loop.bed.server}${path}`, { dispatcher });
    await body.dump();
    await dispatcher.close();
    expect([401, 403]).toContain(statusCode);
  });
});

interface PodWithVolumes extends PodObject {
  readonly spec: PodObject["spec"] & {
    readonly automountServiceAccountToken?: boolean;
    readonly volumes?: readonly object[];
  };
}

describe("a runtime container", () => {
  it("cannot read the node's key: not by path, not by any process's root, nowhere in its folders", () => {
    const key = JSON.parse(inside("chat-0", "agent", `cat ${keyPath}`).stdout) as { d: string };
    expect(key.d.length).toBeGreaterThan(40);
    expect(inside("chat-0", "agent", `grep -rlF '${key.d}' ${ownFolders}`).stdout).toContain("key.jwk");

    const byPath = inside("chat-0", "runtime", `cat ${keyPath}`);
    expect(byPath.status).not.toBe(0);
    expect(byPath.stderr).toContain("No such file");
    const roots = inside("chat-0", "runtime", "ls -d /proc/[0-9]*/root/run/resultity");
    expect(roots.stdout).toContain("/proc/1/root/run/resultity");
    const byRoot = inside("chat-0", "runtime", `cat /proc/[0-9]*/root${keyPath}`);
    expect(byRoot.status).not.toBe(0);
    expect(byRoot.stdout).toBe("");
    expect(inside("chat-0", "runtime", `grep -rlF '${key.d}' ${ownFolders}`).stdout).toBe("");
    expect(inside("chat-0", "runtime", "cat /proc/[0-9]*/environ").stdout).not.toContain(key.d);
    // The process kubelet keeps its volumes on this machine; a container does not see that folder.
    const [host] = loop.hosts;
    expect(inside("chat-0", "runtime", `ls ${host?.dir}/volumes`).stdout).toBe("");
  });

  it("cannot change what its launcher runs, nor the weights", () => {
    const files = ["/run/resultity/launch.sh", "/run/resultity/generation", "/models/weights"];
    for (const file of files) {
      const written = inside("chat-0", "runtime", `echo x >> ${file}`);
      expect({ file, status: written.status === 0 }).toEqual({ file, status: false });
      expect(written.stderr).toContain("Read-only file system");
    }
    expect(inside("chat-0", "runtime", "echo x > /run/resultity/run/scratch").status).toBe(0);
  });

  it("has its engine's port on loopback alone: refused at the pod's address and at every other one of the machine", async () => {
    const address = await podIP("chat-0");
    const port = enginePort(loop, "chat-0");
    expect((await fetch(`http://127.0.0.1:${port}/v1/models`)).status).toBe(200);
    // The address does answer: the agent is there.
    expect(await reach(address, 9440)).toBe("connected");
    const others = Object.values(networkInterfaces())
      .flatMap((each) => each ?? [])
      .filter(({ internal, family }) => !internal && family === "IPv4")
      .map((each) => each.address);
    for (const host of [address, await podIP("chat-1"), ...others])
      expect({ host, how: await reach(host, port) }).toEqual({ host, how: "ECONNREFUSED" });
  });
});

describe("F42 an agent image that is broken", () => {
  it("that ends at once: one node's agent is down and says why, no engine restarts, the others serve", async () => {
    const before = runtimes();
    await setAgentImage(brokenAgentImage);
    const node = await untilOneFails("AgentFailed");
    await until("a second crash", () => loopRestarts(node, "agent", 2), { deadlineMs: 60_000 });

    expect(runtimes()).toEqual(before);
    const [other] = nodes.filter((name) => name !== node);
    expect((await loop.nodes()).filter(isNodeReady).map(({ metadata }) => metadata.name)).toEqual([other]);
    await expectService();
    await untilWide(`rnode/${node}`, /False\s+AgentFailed .*container agent does not stay up/);
    await untilWide(
      "rpool",
      new RegExp(
        `False\\s+WaitingForNode .*1 of 2 nodes are in service; ${node}: AgentFailed: container agent`,
      ),
    );
    // The network itself is well; its columns count the nodes that are Ready.
    await untilWide("rnet", /True\s+AllWell\s+2\s+1\s/);

    await setAgentImage(agentImage());
    await loop.untilReady(nodes.length);
    await expectService();
    expect(runtimes()).toEqual(before);
  });

  it("that cannot be pulled: no agent is touched, a node says so, and the right one goes through", async () => {
    const before = runtimes();
    const agents = () => nodes.map((node) => containerOf(loop, node, "agent").pid);
    const running = agents();
    await setAgentImage(unknownImage);
    const node = await until("a node to say that its host cannot get the image", async () => {
      const stuck = (await loop.nodes()).find(({ status }) =>
        status?.conditions?.some(({ reason }) => reason === "PrefetchFailed"),
      );
      return stuck?.metadata.name;
    });
    await untilWide(`rnode/${node}`, new RegExp(`True\\s+PrefetchFailed .*${unknownImage}`));
    await expectService();
    expect((await loop.nodes()).filter(isNodeReady)).toHaveLength(nodes.length);
    expect([runtimes(), agents()]).toEqual([before, running]);

    await setAgentImage(agentImage("v2"));
    await until(
      "both agents at the new image",
      async () => {
        const images = (await loop.pods()).flatMap(({ status }) => status?.initContainerStatuses ?? []);
        return images.length === nodes.length && images.every(({ image }) => image === agentImage("v2"));
      },
      { deadlineMs: 60_000 },
    );
    await loop.untilReady(nodes.length);
    await until("nothing to be held any more", async () => (await loop.prefetches()).length === 0);
    await expectService();
    expect(runtimes()).toEqual(before);
  });
});

/** What must not change: each runtime container, its restarts, its engine, its pod. */
function runtimes(): string[] {
  return nodes.map((node) => {
    const { uid, pid, attempt } = containerOf(loop, node, "runtime");
    return `${node} ${uid}: container ${pid}, restart ${attempt}, engine ${enginePid(loop, node)}`;
  });
}

const setAgentImage = (image: string) =>
  loop.bed.kubectlOk(
    ["-n", namespace, "patch", "rnet", networkName, "--type=merge", "-p"].concat(
      JSON.stringify({ spec: { agent: { image } } }),
    ),
  );

/** Waits until one node says that it is not Ready for one of these reasons; returns its name. */
const untilOneFails = (reasons: string) =>
  until(
    `a node to say ${reasons}`,
    async () => {
      const failing = (await loop.nodes()).find(({ status }) =>
        status?.conditions?.some(
          ({ type, status: holds, reason }) =>
            type === "Ready" && holds === "False" && new RegExp(`^(${reasons})$`).test(reason),
        ),
      );
      return failing?.metadata.name;
    },
    { deadlineMs: 60_000 },
  );

async function loopRestarts(node: string, container: string, least: number): Promise<boolean> {
  const pod = (await loop.pods()).find(({ metadata }) => metadata.name === node);
  const found = pod?.status?.initContainerStatuses?.find(({ name }) => name === container);
  return (found?.restartCount ?? 0) >= least;
}

async function expectService(): Promise<void> {
  const entries = await runLoad({
    baseURL: loop.ioURL,
    apiKey: loop.apiKey,
    total: 6,
    concurrency: 3,
    maxTokens: 8,
  });
  expect(entries.filter(({ ok }) => !ok)).toEqual([]);
}

/** Pools and networks tell a little after their nodes do. */
const untilWide = (what: string, line: RegExp) =>
  until(`${what} to say ${line}`, async () => {
    const args = ["-n", namespace, "get", what, "-o", "wide", "--no-headers"];
    expect(await loop.bed.kubectlOk(args)).toMatch(line);
    return true;
  });
