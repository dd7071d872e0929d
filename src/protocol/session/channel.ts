import { ProtocolError } from "../codes.ts";
import { openFrame, sealFrame, type VerifiedOf } from "../frame.ts";
import type { SigningKey, VerifyKey } from "../keys.ts";
import {
  type AgentKind,
  agentKinds,
  type Body,
  type Payload,
  type ServiceKind,
  serviceKinds,
} from "../messages.ts";

/**
 * One direction-aware end of an open session: signs what goes out with the next sequence number, and believes only
 * what comes in signed by the peer, for this session, with exactly the next number. Pure: frames in, frames out.
 */
export class Channel<Out extends AgentKind | ServiceKind, In extends AgentKind | ServiceKind> {
  readonly sid: string;
  readonly #key: SigningKey;
  readonly #peer: VerifyKey;
  readonly #inKinds: readonly In[];
  #sent = 0;
  #received = 0;

  constructor(sid: string, key: SigningKey, peer: VerifyKey, inKinds: readonly In[]) {
    this.sid = sid;
    this.#key = key;
    this.#peer = peer;
    this.#inKinds = inKinds;
  }

  /** Sequence number of the last frame sent; 0 = none. */
  get sent(): number {
    return this.#sent;
  }

  /** Sequence number of the last frame received; 0 = none. */
  get received(): number {
    return this.#received;
  }

  /** Signs a message as the next frame. Frames must be sent in the order in which they were sealed. */
  seal<K extends Out>(kind: K, body: Body<K>): string {
    const payload = { sid: this.sid, seq: ++this.#sent, ...body } as unknown as Payload<K>;
    return sealFrame(kind, payload, this.#key);
  }

  /**
   * Verifies the next frame.
   * @throws {ProtocolError} `wrong_session` or `sequence` (4412) beside those of `openFrame`. The session must then end.
   */
  open(text: string): VerifiedOf<In> {
    const frame = openFrame(text, this.#inKinds, this.#peer);
    const { sid, seq } = frame.payload as { sid: string; seq: number };
    if (sid !== this.sid) throw new ProtocolError("wrong_session", "frame belongs to another session");
    if (seq !== this.#received + 1) {
      throw new ProtocolError("sequence", `frame has seq ${seq}, expected ${this.#received + 1}`);
    }
    this.#received = seq;
    return frame;
  }
}

export type AgentChannel = Channel<AgentKind, ServiceKind>;
export type ServiceChannel = Channel<ServiceKind, AgentKind>;

/** The agent's end. */
export function agentChannel(sid: string, key: SigningKey, service: VerifyKey): AgentChannel {
  return new Channel<AgentKind, ServiceKind>(sid, key, service, serviceKinds);
}

/** The service's end. */
export function serviceChannel(sid: string, key: SigningKey, node: VerifyKey): ServiceChannel {
  return new Channel<ServiceKind, AgentKind>(sid, key, node, agentKinds);
}
