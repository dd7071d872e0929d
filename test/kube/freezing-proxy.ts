import { type Socket, connect, createServer } from "node:net";

/** A TCP proxy that can turn every connection half open: no bytes either way, and no close. */
export interface FreezingProxy extends AsyncDisposable {
  readonly port: number;
  /** Connections so far. */
  readonly accepted: () => number;
  /** Stops forwarding on the connections there are. New ones work. */
  freeze(): void;
  /** Closes the connections there are. */
  cut(): void;
}

/** Starts a proxy on a free port of loopback to `port` there. */
export async function startFreezingProxy(port: number): Promise<FreezingProxy> {
  const pairs = new Set<readonly [Socket, Socket]>();
  let accepted = 0;
  const server = createServer((near) => {
    accepted++;
    const far = connect(port, "127.0.0.1");
    const pair = [near, far] as const;
    pairs.add(pair);
    const close = () => {
      pairs.delete(pair);
      near.destroy();
      far.destroy();
    };
    for (const socket of pair) {
      socket.on("error", close);
      socket.on("close", close);
    }
    near.pipe(far);
    far.pipe(near);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  return {
    port: typeof address === "object" && address ? address.port : 0,
    accepted: () => accepted,
    freeze() {
      for (const [near, far] of pairs) {
        near.unpipe();
        far.unpipe();
        near.pause();
        far.pause();
      }
    },
    cut() {
      for (const [near] of pairs) near.destroy();
    },
    async [Symbol.asyncDispose]() {
      for (const [near, far] of pairs) {
        near.destroy();
        far.destroy();
      }
      await new Promise((resolve) => server.close(resolve));
    },
  };
}
