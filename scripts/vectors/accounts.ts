/** Vectors of what the account key authenticates, of the HTTP envelope, of answers to a nonce and of the feed. */
import { accountAuthorization, mintBinding } from "../../src/protocol/binding.ts";
import {
  httpAnswerTyp,
  httpHeartbeatTyp,
  jobInputTyp,
  jobOutputTyp,
  paths,
  pingTyp,
  registerTyp,
  sealAnswer,
  sealRegistration,
  sealRequest,
} from "../../src/protocol/http.ts";
import { signJws } from "../../src/protocol/jws.ts";
import { sealLatest } from "../../src/protocol/config/latest.ts";
import { sealDrainToken, sealStatus } from "../../src/protocol/status.ts";
import { examples } from "./messages.ts";
import {
  account,
  accountKey,
  agentVersion,
  baseUrl,
  bytes16,
  bytes32,
  type Case,
  day,
  delegationStatement,
  digest,
  jobId,
  keys,
  network,
  nodeId,
  now,
  otherNodeId,
  rootStatement,
} from "./fixed.ts";

const { node, service, stranger } = keys;
const binding = mintBinding(accountKey, network, account, nodeId);

export function bindingVectors(): object {
  const of = (name: string, verdict: string, change: object = {}): Case => ({
    name,
    verdict,
    binding: { ...binding, ...change },
  });
  const cases: Case[] = [
    of("as minted", "valid"),
    of("another account", "binding", { account: "other" }),
    of("another network", "binding", { network: "mainnet" }),
    of("another node", "binding", { node_id: otherNodeId }),
    of("an all-zero MAC", "binding", { mac: "A".repeat(43) }),
    of("minted with another key", "binding", { mac: bytes32("another MAC") }),
    of("a MAC with padding", "schema", { mac: `${binding.mac}=` }),
    of("a name with a newline", "schema", { account: "ac\nme" }),
  ];
  const path = paths.feed;
  const nonce = bytes32("feed nonce");
  const header = accountAuthorization(accountKey, { account, method: "GET", path, time: now, nonce });
  const ask = (name: string, verdict: string, change: object = {}): Case => ({
    name,
    verdict,
    header,
    method: "GET",
    path,
    now,
    ...change,
  });
  const authorizations: Case[] = [
    ask("as made", "valid"),
    ask("five minutes later", "valid", { now: now + 300_000 }),
    ask("five minutes before", "valid", { now: now - 300_000 }),
    ask("a millisecond more", "refused", { now: now + 300_001 }),
    ask("another path", "refused", { path: `${path}?all=1` }),
    ask("another method", "refused", { method: "POST" }),
    ask("another account", "refused", { header: header.replace(` ${account} `, " other ") }),
    ask("another time", "refused", { header: header.replace(String(now), String(now + 1)) }),
    ask("another scheme", "refused", { header: header.replace("Resultity-Account", "Bearer") }),
    ask("two spaces", "refused", { header: header.replace(" ", "  ") }),
  ];
  return {
    about:
      "`cases`: bindings under `account_key`. `authorizations`: values of the header `authorization`; `refused` is HTTP 401.",
    account_key: accountKey.toString("base64url"),
    input: ["rn1.binding", network, account, nodeId].join("\n"),
    cases,
    authorization_input: ["rn1.account", account, "GET", path, String(now), nonce].join("\n"),
    authorizations,
  };
}

export function httpVectors(): object {
  const nonce = bytes32("registration nonce");
  const registerUrl = `${baseUrl}${paths.register}`;
  const registration = { binding, agent_version: agentVersion, time: now };
  const body = sealRegistration(registration, node, registerUrl, nonce);
  const header = { url: registerUrl, nonce, jwk: node.jwk };
  const register = (change: object, payload: unknown = registration, key = node): string =>
    signJws(registerTyp, JSON.stringify(payload), key, { ...header, ...change });
  const registrations: Case[] = [
    { name: "as it should be", verdict: "valid", body },
    {
      name: "for another URL",
      verdict: "wrong_audience",
      body: register({ url: `http://evil.test${paths.register}` }),
    },
    { name: "no nonce", verdict: "wrong_challenge", body: register({ nonce: undefined }) },
    { name: "no jwk", verdict: "unknown_key", body: register({ jwk: undefined }) },
    {
      name: "a jwk of another type",
      verdict: "unknown_key",
      body: register({ jwk: { ...node.jwk, kty: "EC" } }),
    },
    { name: "jwk is not the key that signed", verdict: "unknown_key", body: register({ jwk: stranger.jwk }) },
    {
      name: "a binding of another node",
      verdict: "wrong_node",
      body: register({ jwk: stranger.jwk }, registration, stranger),
    },
    {
      name: "no agent_version",
      verdict: "schema",
      body: register({}, { ...registration, agent_version: undefined }),
    },
    {
      name: "the typ of a ping",
      verdict: "wrong_typ",
      body: signJws(pingTyp, JSON.stringify(registration), node, header),
    },
  ];

  const pingUrl = `${baseUrl}${paths.ping}`;
  const ping = { node_id: nodeId, time: now };
  const beat = { ...ping, nonce: bytes32("HTTP heartbeat nonce"), report: examples.heartbeat.report };
  const ask = (name: string, verdict: string, text: string): Case => ({ name, verdict, body: text });
  const requests: Case[] = [
    ask("a ping", "valid", sealRequest(pingTyp, ping, node, pingUrl, 1)),
    ask("a large seq", "valid", sealRequest(pingTyp, ping, node, pingUrl, 9_007_199_254_740_991)),
    ask(
      "for another URL",
      "wrong_audience",
      sealRequest(pingTyp, ping, node, `${baseUrl}${paths.heartbeat}`, 2),
    ),
    ask(
      "a slash too many in the URL",
      "wrong_audience",
      sealRequest(pingTyp, ping, node, `${baseUrl}/${paths.ping}`, 2),
    ),
    ask("no URL", "wrong_audience", signJws(pingTyp, JSON.stringify(ping), node, { seq: 2 })),
    ask("no seq", "sequence", signJws(pingTyp, JSON.stringify(ping), node, { url: pingUrl })),
    ask("seq 0", "sequence", sealRequest(pingTyp, ping, node, pingUrl, 0)),
    ask("seq as text", "sequence", signJws(pingTyp, JSON.stringify(ping), node, { url: pingUrl, seq: "2" })),
    ask("a fraction as seq", "sequence", sealRequest(pingTyp, ping, node, pingUrl, 1.5)),
    ask("seq 2^53", "sequence", sealRequest(pingTyp, ping, node, pingUrl, 2 ** 53)),
    ask("by another key", "unknown_key", sealRequest(pingTyp, ping, stranger, pingUrl, 2)),
    ask("a heartbeat", "wrong_typ", sealRequest(httpHeartbeatTyp, beat, node, pingUrl, 2)),
    ask("no time", "schema", sealRequest(pingTyp, { node_id: nodeId }, node, pingUrl, 2)),
  ];
  const heartbeat = {
    url: `${baseUrl}${paths.heartbeat}`,
    body: sealRequest(httpHeartbeatTyp, beat, node, `${baseUrl}${paths.heartbeat}`, 2),
    payload: beat,
  };

  const job = jobId("00000001");
  const lease = { ...ping, job, attempt: 1, token: bytes16("token 1") };
  const about = (typ: string, path: string, payload: object): object => ({
    url: `${baseUrl}${path}`,
    body: sealRequest(typ, payload, node, `${baseUrl}${path}`, 3),
    payload,
  });
  const jobInput = about(jobInputTyp, paths.jobInput(job), lease);
  const output = { ...lease, sha256: "1".repeat(64), size: 200_000 };
  const jobOutput = about(jobOutputTyp, paths.jobOutput(job), output);

  const said = { node_id: nodeId, time: now, http_seq: 1 };
  const latest = { release_sequence: 5, digest, nonce: beat.nonce };
  const answers: Case[] = [
    { name: "to a ping", verdict: "valid", body: sealAnswer(said, service) },
    { name: "to a heartbeat", verdict: "valid", body: sealAnswer({ ...said, http_seq: 2, latest }, service) },
    {
      name: "a refusal names the last seq",
      verdict: "valid",
      body: sealAnswer(
        { ...said, error: { code: "sequence", message: "seq 1 is not greater than 1" } },
        service,
      ),
    },
    { name: "by another key", verdict: "unknown_key", body: sealAnswer(said, stranger) },
    { name: "typ of a request", verdict: "wrong_typ", body: signJws(pingTyp, JSON.stringify(said), service) },
    {
      name: "no http_seq",
      verdict: "schema",
      body: signJws(httpAnswerTyp, JSON.stringify({ ...said, http_seq: undefined }), service),
    },
  ];
  return {
    about:
      "`registrations` to `register_url`; `requests` (pings) to `ping_url` of the node with key `kid`; `heartbeat`, `job_input` and `job_output`, a valid one each (that of an output stands in its header `resultity-request`); `answers` of the service with key `service_kid`.",
    kid: node.kid,
    service_kid: service.kid,
    register_url: registerUrl,
    ping_url: pingUrl,
    registrations,
    requests,
    heartbeat,
    job_input: jobInput,
    job_output: jobOutput,
    answers,
  };
}

/** Vectors of what is answered to a nonce: `latest` of the service, status of the agent. */
export function answerVectors(): object {
  const nonce = bytes32("latest nonce");
  const body = { release_sequence: 5, digest, nonce, network, time: now };
  const seal = (change: object = {}, key = service): string =>
    sealLatest({ ...body, ...change }, key, delegationStatement);
  const ask = (name: string, verdict: string, json: string, at = now): Case => ({
    name,
    verdict,
    json,
    now: at,
  });
  const latest: Case[] = [
    ask("as it should be", "valid", seal()),
    ask("nothing published yet", "valid", seal({ release_sequence: 0, digest: null })),
    ask("clocks five minutes apart", "valid", seal(), now + 300_000),
    ask("clocks further apart", "clock_skew", seal(), now + 300_001),
    ask("an answer to another nonce", "wrong_challenge", seal({ nonce: bytes32("another nonce") })),
    ask("another network", "wrong_network", seal({ network: "mainnet" })),
    ask("by a key that is not delegated", "unknown_key", seal({}, stranger)),
    ask("the delegation has ended", "expired", seal(), now + day),
  ];
  const status = {
    nonce,
    time: now,
    node_id: nodeId,
    instance: bytes16("instance"),
    desired_revision: 3,
    report: examples.heartbeat.report,
    image_disk: { free: 40 * 2 ** 30, total: 200 * 2 ** 30 },
    config_error: null,
    drain: { state: "serving", jobs: 1, since: null },
    session: { connected: true, since: now, epoch: 7, last_error: null },
  } as const;
  const statuses: Case[] = [
    { name: "as it should be", verdict: "valid", jws: sealStatus(status, node) },
    {
      name: "an answer to another nonce",
      verdict: "wrong_challenge",
      jws: sealStatus({ ...status, nonce: bytes32("another nonce") }, node),
    },
    { name: "by another key", verdict: "unknown_key", jws: sealStatus(status, stranger) },
    { name: "131073 characters", verdict: "too_large", repeat: [["x", 131_073]] },
    {
      name: "nothing of the disk",
      verdict: "valid",
      jws: signJws("rn1.status", JSON.stringify({ ...status, image_disk: undefined }), node),
    },
    {
      name: "less than no disk",
      verdict: "schema",
      jws: signJws("rn1.status", JSON.stringify({ ...status, image_disk: { free: -1, total: 1 } }), node),
    },
    {
      name: "an unknown state",
      verdict: "schema",
      jws: signJws(
        "rn1.status",
        JSON.stringify({ ...status, drain: { ...status.drain, state: "tired" } }),
        node,
      ),
    },
  ];
  const token = sealDrainToken(nodeId, node);
  const drains: Case[] = [
    { name: "as it should be", verdict: "valid", authorization: `Bearer ${token}` },
    { name: "no scheme", verdict: "malformed", authorization: token },
    { name: "another scheme", verdict: "malformed", authorization: `Basic ${token}` },
    { name: "nothing", verdict: "malformed", authorization: "" },
    { name: "a status instead", verdict: "wrong_typ", authorization: `Bearer ${sealStatus(status, node)}` },
    {
      name: "by another key",
      verdict: "unknown_key",
      authorization: `Bearer ${sealDrainToken(nodeId, stranger)}`,
    },
    {
      name: "a spoiled signature",
      verdict: "bad_signature",
      authorization: `Bearer ${token.slice(0, -86)}${"A".repeat(86)}`,
    },
    { name: "no node_id", verdict: "schema", authorization: `Bearer ${signJws("rn1.drain", "{}", node)}` },
  ];
  return {
    about:
      "Answers to `nonce`. `latest`: bodies of GET /v1/config/latest under `root`, at `now`. `statuses`: of the agent with key `kid`. `drains`: values of the header `authorization` of a drain of that node.",
    nonce,
    root: rootStatement,
    network,
    kid: node.kid,
    latest,
    statuses,
    drains,
  };
}

/** Vectors of the lines of the fleet feed. */
export function feedVectors(): object {
  const line = {
    type: "node",
    node_id: nodeId,
    kid: node.kid,
    connected: true,
    since: now,
    epoch: 7,
    deprioritised_until: null,
    banned: null,
    generation: 0,
    revoked: false,
    conflict: null,
    config_applied: digest,
    models_active: ["org/small"],
    jobs_committed: 12,
    work: { config: digest, completed: 9, failed: 1, duration_ms: 4_321 },
  };
  const say = (name: string, verdict: string, value: unknown): Case => ({
    name,
    verdict,
    line: JSON.stringify(value),
  });
  const cases: Case[] = [
    say("a node", "valid", line),
    say("a node that is banned, deprioritised and runs nothing", "valid", {
      ...line,
      connected: false,
      banned: "sold",
      deprioritised_until: now,
      config_applied: null,
      models_active: [],
    }),
    say("a node whose key was rolled over, revoked and recovered, and of which there are two", "valid", {
      ...line,
      kid: keys.next.kid,
      generation: 2,
      conflict: now,
    }),
    say("a node of whose GPUs the driver has said something", "valid", {
      ...line,
      xids: [{ code: 79, since: now }],
    }),
    say("a node with an XID of 0", "schema", { ...line, xids: [{ code: 0, since: now }] }),
    say("synced", "valid", { type: "synced" }),
    say("a ping", "valid", { type: "ping", time: now }),
    say("a ping without time", "schema", { type: "ping" }),
    say("an unknown type", "schema", { type: "pong" }),
    say("a node that does not say whether it is revoked", "schema", { ...line, revoked: undefined }),
    say("a node without kid", "schema", { ...line, kid: undefined }),
    say("a node with a negative count", "schema", { ...line, jobs_committed: -1 }),
    say("a node that does not say which config its work was under", "schema", {
      ...line,
      work: { completed: 9, failed: 1, duration_ms: 4_321 },
    }),
    { name: "half a line", verdict: "malformed", line: '{"type":"syn' },
  ];
  return { about: "Lines of GET /v1/fleet/feed.", cases };
}
