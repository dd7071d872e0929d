import type { Http } from "../../../../src/agent/ports.ts";

/** Ports from here on are given to programs in memory, which open none; below are those of this machine. */
const firstPort = 61_000;

/** What the containers of one pod share beside volumes: its loopback interface, and what the kubelet asks it. */
export class MemoryPod {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  /** A loopback address of this machine: what listens there is reached by other processes too. */
  readonly ip: string;
  readonly host: string;
  /** Servers on 127.0.0.1 of the pod, by port. They are reached through `MemoryContainer.pod` alone. */
  readonly loopback = new Map<number, Http>();
  /** Answers probes on the pod's address without a connection: status, or undefined where one is needed. */
  probe: ((port: number, path: string) => number | undefined) | undefined;
  #port = firstPort;

  constructor(identity: { namespace: string; name: string; uid: string }, ip: string, host: string) {
    this.namespace = identity.namespace;
    this.name = identity.name;
    this.uid = identity.uid;
    this.ip = ip;
    this.host = host;
  }

  /** A port of the loopback interface that nothing has had. */
  freePort(): number {
    const port = this.#port;
    this.#port = port === 65_535 ? firstPort : port + 1;
    return port;
  }

  /** Whether a port can only be the pod's own. */
  isOwnPort(port: number): boolean {
    return port >= firstPort;
  }
}
