import { connect } from "node:net";
import { expect, test } from "vitest";
import { agentPort } from "./fixture-pod.ts";
import type { Suite } from "./suite.ts";

const enginePort = 19_876;

/** Rows about what keeps a pod's containers, and pods, apart. */
export function isolationRows(suite: () => Suite): void {
  test("a Secret mounted into the sidecar alone cannot be read by the runtime, at its path or any other", async () => {
    await suite().config("secrets", "identity", { key: "top secret" });
    await using pod = await suite().pod({
      name: "secret",
      agentArgs: ["--try=/identity/key"],
      agent: { volumeMounts: [{ name: "identity", mountPath: "/identity", readOnly: true }] },
      runtimeArgs: ["--try=/identity/key,/identity"],
      volumes: [{ name: "identity", secret: { secretName: "identity" } }],
    });
    await pod.ready();
    await pod.until("the runtime's tries", () => pod.seen("runtime", "try").length === 2);
    expect(pod.seen("agent", "try")).toMatchObject([{ content: "top secret" }]);
    expect(pod.seen("runtime", "try").map(({ error }) => error)).toEqual(["ENOENT", "ENOENT"]);
  });

  test("the same path is another volume in another container, and in another pod", async () => {
    const volumes = ["one", "two"].map((name) => ({ name, emptyDir: {} }));
    const mount = (name: string) => ({ volumeMounts: [{ name, mountPath: "/data" }] });
    const spec = (name: string) => ({
      name,
      agentArgs: [`--write=/data/who:${name}-agent`, "--try=/data/who"],
      agent: mount("one"),
      runtimeArgs: [`--write=/data/who:${name}-runtime`, "--try=/data/who"],
      runtime: mount("two"),
      volumes,
    });
    await using left = await suite().pod(spec("left"));
    await using right = await suite().pod(spec("right"));
    for (const pod of [left, right]) {
      await pod.ready();
      await pod.until("both tries", () => pod.seen("runtime", "try").length === 1);
      expect(pod.seen("agent", "try")[0]?.content).toBe(`${pod.name}-agent`);
      expect(pod.seen("runtime", "try")[0]?.content).toBe(`${pod.name}-runtime`);
    }
  });

  test("no service account token in a pod that mounts none", async () => {
    const path = "/var/run/secrets/kubernetes.io/serviceaccount/token";
    await using pod = await suite().pod({
      name: "no-token",
      agentArgs: [`--try=${path}`],
      runtimeArgs: [`--try=${path}`],
    });
    await pod.ready();
    await pod.until("both tries", () => pod.seen("runtime", "try").length === 1);
    expect(pod.seen("agent", "try")).toMatchObject([{ path, error: "ENOENT" }]);
    expect(pod.seen("runtime", "try")).toMatchObject([{ path, error: "ENOENT" }]);
  });

  test("a sidecar on the pod's address is reached from outside, an engine on loopback is refused", async () => {
    await using pod = await suite().pod({ name: "ports", runtimeArgs: [`--listen=127.0.0.1:${enginePort}`] });
    const ip = (await pod.ready()).status?.podIP ?? "";
    await pod.until("the engine to listen", () => pod.seen("runtime", "listening").length === 1);
    expect(await dial(ip, agentPort)).toBe("connected");
    expect(await dial(ip, enginePort)).toBe("ECONNREFUSED");
  });

  test("two pods listen on the same port of their own addresses", async () => {
    await using one = await suite().pod({ name: "address-one" });
    await using two = await suite().pod({ name: "address-two" });
    const ips = [(await one.ready()).status?.podIP, (await two.ready()).status?.podIP];
    expect(new Set(ips).size).toBe(2);
    for (const ip of ips) expect(await dial(ip ?? "", agentPort)).toBe("connected");
  });
}

/** How a connection attempt ends: `connected` or the error's code. */
function dial(host: string, port: number): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect({ host, port, timeout: 5_000 });
    const end = (outcome: string) => {
      socket.destroy();
      resolve(outcome);
    };
    socket.once("connect", () => end("connected"));
    socket.once("timeout", () => end("timeout"));
    socket.once("error", (error: NodeJS.ErrnoException) => end(error.code ?? error.message));
  });
}
