import { CodedError, messageOf } from "../../lib/errors.ts";
import {
  envelopeContentType,
  type HttpAnswer,
  httpHeartbeatTyp,
  nonceSchema,
  openAnswer,
  paths,
  sealRegistration,
  sealRequest,
} from "../../protocol/http.ts";
import { parsePayload } from "../../protocol/frame.ts";
import { decodeUtf8 } from "../../protocol/jws.ts";
import type { SigningKey, VerifyKey } from "../../protocol/keys.ts";
import { sealKeyChange } from "../../protocol/rollover.ts";
import type { Latest, Report } from "../../protocol/messages.ts";
import { requestBytes } from "../http-bytes.ts";
import type { NodeIdentity } from "../identity.ts";
import type { Ports } from "../ports.ts";

const limits = { maxBytes: 64 * 1024, timeoutMs: 10_000 };

/** The service refused what the node said by HTTP. */
export class NodeHttpError extends CodedError<"refused" | "unavailable"> {}

/** What a node says by HTTP: registration, and heartbeats while its socket is down. */
export class NodeHttp {
  readonly #ports: Ports;
  readonly #identity: NodeIdentity;
  readonly #agentVersion: string;
  /** Last `seq` that the service is known to have accepted. */
  #seq = 0;

  constructor(ports: Ports, identity: NodeIdentity, agentVersion: string) {
    this.#ports = ports;
    this.#identity = identity;
    this.#agentVersion = agentVersion;
  }

  /** The service told, in `ready`, which seq it has accepted last. */
  learnSeq(seq: number): void {
    this.#seq = Math.max(this.#seq, seq);
  }

  /**
   * Registers the node at `endpoint` with its account binding, and its grant if it has one; it signs with the key that has
   * registered from then on. Doing it again changes nothing.
   * @throws {NodeHttpError} `refused` with the service's words, `unavailable`.
   */
  async register(endpoint: string, serviceKey: VerifyKey): Promise<void> {
    const { http, clock } = this.#ports;
    const { binding, keys } = this.#identity;
    const able = keys.registration;
    if (!able)
      throw new NodeHttpError(
        "refused",
        "the service does not know the node's key, and it is neither the node's first one nor granted by its account: " +
          "have the account grant it (`io accounts grant`) and put grant.json into the identity folder",
      );
    const base = endpoint.replace(/\/+$/, "");
    const asked = await this.#unlessDown(() =>
      requestBytes(http, clock, { method: "GET", url: `${base}${paths.nonce}` }, limits),
    );
    if (asked.status !== 200) {
      throw new NodeHttpError("unavailable", `${base}${paths.nonce} answered HTTP ${asked.status}`);
    }
    const { nonce } = parsePayload(nonceSchema, decodeUtf8(asked.body), "nonce");
    const url = `${base}${paths.register}`;
    const { key, grant } = able;
    const body = sealRegistration(
      { binding, ...(grant && { grant }), agent_version: this.#agentVersion, time: clock.now() },
      key,
      url,
      nonce,
    );
    await this.#post(url, body, serviceKey);
    keys.use(key);
  }

  /**
   * Rolls the node's key over to `next` at the service. Nothing changes here. Asked again, when the answer was lost, the
   * service says the same.
   * @throws {NodeHttpError} `refused` with the service's words, `unavailable`.
   */
  async changeKey(endpoint: string, serviceKey: VerifyKey, next: SigningKey): Promise<void> {
    const url = `${endpoint.replace(/\/+$/, "")}${paths.keyChange}`;
    const { nodeId, key: from } = this.#identity;
    const change = { nodeId, from, to: next, time: this.#ports.clock.now() };
    const answer = await this.#post(url, sealKeyChange(change, url, ++this.#seq), serviceKey);
    if (answer.kid !== next.kid)
      throw new NodeHttpError("unavailable", `${url} answered for another key than the new one`);
  }

  /**
   * Sends one heartbeat; gives what the service says is current.
   * @throws {NodeHttpError}
   */
  async heartbeat(endpoint: string, serviceKey: VerifyKey, report: Report): Promise<Latest | undefined> {
    const url = `${endpoint.replace(/\/+$/, "")}${paths.heartbeat}`;
    const nonce = this.#ports.random.bytes(32);
    const answer = await this.#post(url, this.seal(httpHeartbeatTyp, { nonce, report }, url), serviceKey);
    return answer.latest?.nonce === nonce ? answer.latest : undefined;
  }

  /** Signs a request to `url`, with node, time and the next seq. */
  seal(typ: string, payload: object, url: string): string {
    const { nodeId, key } = this.#identity;
    const said = { node_id: nodeId, time: this.#ports.clock.now(), ...payload };
    return sealRequest(typ, said, key, url, ++this.#seq);
  }

  /**
   * Opens the service's signed answer, which may be a refusal, and learns the seq that it names.
   * @throws {NodeHttpError} `unavailable` when it is not signed, or for another node.
   */
  hear(url: string, status: number, body: Buffer, serviceKey: VerifyKey): HttpAnswer {
    let answer: HttpAnswer;
    try {
      answer = openAnswer(decodeUtf8(body), serviceKey);
    } catch (cause) {
      throw new NodeHttpError("unavailable", `${url} answered HTTP ${status} without a signed answer`, {
        cause,
      });
    }
    if (answer.node_id !== this.#identity.nodeId)
      throw new NodeHttpError("unavailable", `${url} answered for another node`);
    this.learnSeq(answer.http_seq);
    return answer;
  }

  async #post(url: string, body: string, serviceKey: VerifyKey): Promise<HttpAnswer> {
    const { http, clock } = this.#ports;
    const headers = { "content-type": envelopeContentType };
    const raw = await this.#unlessDown(() =>
      requestBytes(http, clock, { method: "POST", url, headers, body }, limits),
    );
    const answer = this.hear(url, raw.status, raw.body, serviceKey);
    if (answer.error)
      throw new NodeHttpError("refused", `${url} refused: ${answer.error.code}: ${answer.error.message}`);
    return answer;
  }

  async #unlessDown<T>(ask: () => Promise<T>): Promise<T> {
    try {
      return await ask();
    } catch (cause) {
      throw new NodeHttpError("unavailable", messageOf(cause));
    }
  }
}
