import type { Change } from "../../src/io/store/port.ts";
import type { SimNode } from "./node.ts";
import type { Direction } from "./network.ts";
import type { SimSocket, SocketWatcher } from "./socket.ts";
import type { StoreWatcher } from "./store.ts";

/** A frame as anyone on the wire can read it: nothing of it was verified. */
export interface SeenFrame {
  readonly node: SimNode;
  readonly socket: SimSocket;
  readonly direction: Direction;
  readonly kind: string;
  // oxlint-disable-next-line typescript/no-explicit-any -- whatever JSON the peers have said
  readonly payload: Readonly<Record<string, any>>;
  /** Sent a second time by the network, or changed by a node with other software. */
  readonly forged: "replayed" | "changed" | undefined;
}

/** What can be seen from outside of agents and service: wires, disks, crashes. */
export type Happening =
  | { readonly is: "sent"; readonly frame: SeenFrame }
  | { readonly is: "arrived"; readonly frame: SeenFrame }
  /** An end of a connection has closed it (or dropped it: 1006). */
  | { readonly is: "ended"; readonly socket: SimSocket; readonly by: Direction; readonly code: number }
  /** The service's store was asked to keep something; it is durable. */
  | { readonly is: "asked"; readonly changes: readonly Change[] }
  | { readonly is: "durable"; readonly changes: readonly Change[] }
  /** A node's disk has changed. */
  | {
      readonly is: "disk";
      readonly node: SimNode;
      readonly path: string;
      readonly content: Buffer | undefined;
    }
  /** The service tells a client that it has taken its asynchronous job; that it has an answer to it. */
  | { readonly is: "promised"; readonly job: string }
  | { readonly is: "answered"; readonly job: string }
  | { readonly is: "agent-died"; readonly node: SimNode }
  /** The node's state is gone with its pod, before its disk shows it. */
  | { readonly is: "wiped"; readonly node: SimNode }
  | { readonly is: "service-died" };

/** Looks at everything that happens, in order; throws a Violation at what must not. */
export interface Invariant {
  readonly saw?: (happening: Happening) => void;
  /** Called after each step. */
  readonly stepOver?: () => void;
}

const kinds = new Map<string, string>();

function kindOf(head: string): string {
  let kind = kinds.get(head);
  if (kind === undefined) {
    const { typ = "" } = JSON.parse(Buffer.from(head, "base64url").toString()) as { typ?: string };
    kinds.set(head, (kind = typ.replace(/^rn1\./, "")));
  }
  return kind;
}

/** Collects what happens, for the invariants and for faults that wait for a certain frame. */
export class Witness implements SocketWatcher, StoreWatcher {
  readonly #nodeOf: (socket: SimSocket) => SimNode;
  readonly #invariants: readonly Invariant[];
  #happened: Happening[] = [];
  /** Called for each frame when it is sent. */
  onSent: (frame: SeenFrame) => void = () => {};
  /** Frames that are known not to be what their sender has said. */
  readonly #forged = new Map<string, "replayed" | "changed">();
  /** Frames under way, by text; the same text may be under way twice, and arrives in its order. */
  readonly #underWay = new Map<string, SeenFrame[]>();

  constructor(nodeOf: (socket: SimSocket) => SimNode, invariants: readonly Invariant[]) {
    this.#nodeOf = nodeOf;
    this.#invariants = invariants;
  }

  /** The next time this text is sent, it is not honest. */
  forge(text: string, how: "replayed" | "changed"): void {
    this.#forged.set(text, how);
  }

  saw(happening: Happening): void {
    this.#happened.push(happening);
  }

  sent(socket: SimSocket, direction: Direction, text: string): string {
    const [head = "", body = ""] = text.split(".", 2);
    const kind = kindOf(head);
    const forged = this.#forged.get(text);
    const payload = JSON.parse(Buffer.from(body, "base64url").toString()) as SeenFrame["payload"];
    const frame = { node: this.#nodeOf(socket), socket, direction, kind, payload, forged };
    const same = this.#underWay.get(text);
    if (same) same.push(frame);
    else this.#underWay.set(text, [frame]);
    this.saw({ is: "sent", frame });
    this.onSent(frame);
    return kind;
  }

  arrived(_socket: SimSocket, _direction: Direction, text: string): void {
    const same = this.#underWay.get(text);
    const frame = same?.shift();
    if (!frame) throw new Error("a frame arrived that nobody has sent");
    if (same?.length === 0) this.#underWay.delete(text);
    this.saw({ is: "arrived", frame });
  }

  ended(socket: SimSocket, by: Direction, code: number): void {
    this.saw({ is: "ended", socket, by, code });
  }

  asked(changes: readonly Change[]): void {
    this.saw({ is: "asked", changes });
  }

  durable(changes: readonly Change[]): void {
    this.saw({ is: "durable", changes });
  }

  /** Lets every invariant see what the step has brought. */
  check(): void {
    const happened = this.#happened;
    this.#happened = [];
    for (const happening of happened) for (const invariant of this.#invariants) invariant.saw?.(happening);
    for (const invariant of this.#invariants) invariant.stepOver?.();
  }
}
