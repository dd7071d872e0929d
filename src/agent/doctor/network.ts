import { messageOf } from "../../lib/errors.ts";
import { ProtocolError } from "../../protocol/codes.ts";
import { verifyRelease } from "../../protocol/config/release.ts";
import { parseStatement, type TrustedRoot } from "../../protocol/config/root.ts";
import { paths } from "../../protocol/http.ts";
import { decodeUtf8, splitJws } from "../../protocol/jws.ts";
import { parseJson } from "../../protocol/json.ts";
import { typOf } from "../../protocol/messages.ts";
import { maxSkewMs, verifyChallenge } from "../../protocol/session/handshake.ts";
import { requestBytes } from "../http-bytes.ts";
import type { Socket } from "../ports.ts";
import { sessionUrl } from "../session/machine.ts";
import { type Finding, fail, ok, warn } from "./finding.ts";
import { attempt } from "./identity.ts";
import { bare, proxyFor } from "./proxy.ts";
import type { DoctorWorld } from "./world.ts";

const answerTimeoutMs = 10_000;
/** A clock that is this far off works, but drifts. */
const uneasySkewMs = 30_000;
const weekMs = 7 * 86_400_000;

/** The way to one endpoint, step by step: proxy, DNS, TCP, TLS, session, clock, release. Stops where one is broken. */
export async function checkEndpoint(
  world: DoctorWorld,
  endpoint: string,
  trust: { readonly network: string; readonly root: TrustedRoot | undefined },
): Promise<readonly Finding[]> {
  const findings: Finding[] = [];
  const url = new URL(endpoint);
  const proxy = proxyFor(endpoint, world.env);
  if (proxy.is === "wrong")
    return [
      fail(
        "proxy",
        `${proxy.from} is no http or https URL`,
        `set ${proxy.from} to http://HOST:PORT, or unset it`,
      ),
    ];
  findings.push(
    ok("proxy", proxy.is === "none" ? `none: ${proxy.why}` : `${proxy.host}:${proxy.port} (${proxy.from})`),
  );
  const [host, port] =
    proxy.is === "proxy"
      ? [proxy.host, proxy.port]
      : [bare(url.hostname), Number(url.port || (url.protocol === "https:" ? 443 : 80))];

  const addresses = await attempt(() => world.lookup(host));
  if ("error" in addresses) {
    const fix = "correct the name in `endpoints`, or this host's resolver (/etc/resolv.conf)";
    return [...findings, fail("dns", `${host} does not resolve: ${addresses.error}`, fix)];
  }
  findings.push(ok("dns", `${host} is ${addresses.value.slice(0, 4).join(", ")}`));

  const connected = await attempt(() => world.connect(host, port));
  if ("error" in connected) {
    const fix = `let this host reach ${host} port ${port} (firewall, route${proxy.is === "proxy" ? "" : ", HTTPS_PROXY"}), or see whether the service runs`;
    return [...findings, fail("tcp", `${host}:${port}: ${connected.error}`, fix)];
  }
  findings.push(ok("tcp", `${host}:${port} answers`));

  if (url.protocol === "https:" && proxy.is === "none") {
    const tls = await checkTls(world, host, port);
    findings.push(tls);
    if (tls.verdict === "fail") return findings;
  } else if (url.protocol === "http:") {
    findings.push(
      /^(127\.|localhost$|\[::1\]$)/.test(url.hostname)
        ? ok("tls", "none, on loopback")
        : warn("tls", "none: who is on the way can read prompts and answers", "use an https endpoint"),
    );
  }
  findings.push(...(await checkSession(world, endpoint, trust)));
  if (trust.root) findings.push(await checkRelease(world, endpoint, trust.root));
  return findings;
}

async function checkTls(world: DoctorWorld, host: string, port: number): Promise<Finding> {
  const tls = await attempt(() => world.tls(host, port));
  if ("error" in tls)
    return fail(
      "tls",
      `${host}: ${tls.error}`,
      "for an authority of your own set NODE_EXTRA_CA_CERTS to its bundle",
    );
  const days = Math.floor((tls.value - world.clock.now()) / 86_400_000);
  const text = `the certificate is trusted, for ${days} more days`;
  return tls.value - world.clock.now() < weekMs
    ? warn("tls", text, "have the service renew it")
    : ok("tls", text);
}

/** Dials the session and hears the challenge, but says nothing: the node's real session is left alone. */
async function checkSession(
  world: DoctorWorld,
  endpoint: string,
  { network, root }: { readonly network: string; readonly root: TrustedRoot | undefined },
): Promise<readonly Finding[]> {
  const url = sessionUrl(endpoint);
  const heard = await attempt(() => firstFrame(world, url));
  if ("error" in heard)
    return [
      fail("session", `${url}: ${heard.error}`, "see whether this is the network's IO service, and its log"),
      warn("clock", "not compared: no service has told its time", "mend the session first"),
    ];
  const now = world.clock.now();
  const clock = clockFinding(heard.value, now);
  if (!root)
    return [warn("session", `${url} answers; not verified without a root`, "mend the root first"), clock];
  try {
    const { delegationExpires } = verifyChallenge(heard.value, root, network, now);
    return [
      ok(
        "session",
        `${url}: the network speaks, delegated until ${new Date(delegationExpires).toISOString()}`,
      ),
      clock,
    ];
  } catch (thrown) {
    if (!(thrown instanceof ProtocolError)) throw thrown;
    if (thrown.code === "clock_skew") return [ok("session", `${url}: the network speaks`), clock];
    const fix =
      clock.verdict === "fail"
        ? "mend the clock first"
        : "compare network, endpoint and root.json with what the network published; do not go on if you cannot tell why";
    return [fail("session", `${url} is not believed: ${thrown.code}: ${messageOf(thrown)}`, fix), clock];
  }
}

function clockFinding(frame: string, now: number): Finding {
  const time = claimedTime(frame);
  if (time === undefined)
    return warn("clock", "not compared: the service told no time", "mend the session first");
  const skew = now - time;
  const text = `${(Math.abs(skew) / 1000).toFixed(1)} s ${skew < 0 ? "behind" : "ahead of"} the service`;
  const fix = "set the clock with NTP (timedatectl set-ntp true)";
  if (Math.abs(skew) > maxSkewMs)
    return fail("clock", `${text}, at most ${maxSkewMs / 1000} s are allowed`, fix);
  return Math.abs(skew) > uneasySkewMs ? warn("clock", text, fix) : ok("clock", text);
}

/** Time that a challenge claims, unverified: it is compared, not believed. */
function claimedTime(frame: string): number | undefined {
  try {
    const { payload } = splitJws(frame, typOf("challenge"));
    const said = parseJson(decodeUtf8(Buffer.from(payload, "base64url")));
    const time = typeof said === "object" && said !== null && "time" in said ? said.time : undefined;
    return typeof time === "number" ? time : undefined;
  } catch {
    return undefined;
  }
}

function firstFrame({ transport, clock }: DoctorWorld, url: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const timer = clock.setTimer(() => {
      socket.terminate();
      reject(new Error(`no challenge within ${answerTimeoutMs / 1000} s`));
    }, answerTimeoutMs);
    const socket: Socket = transport.dial(url, {
      opened: () => {},
      message(text) {
        timer.cancel();
        socket.close(1000, "doctor");
        if (text === undefined) reject(new Error("the first message is binary: no IO service"));
        else resolve(text);
      },
      closed(code, reason) {
        timer.cancel();
        reject(new Error(`closed with ${code}${reason === "" ? "" : ` (${reason.slice(0, 200)})`}`));
      },
    });
  });
}

async function checkRelease(
  { http, clock }: DoctorWorld,
  endpoint: string,
  root: TrustedRoot,
): Promise<Finding> {
  const url = `${endpoint.replace(/\/+$/, "")}${paths.release}`;
  const limits = { maxBytes: 512 * 1024, timeoutMs: answerTimeoutMs };
  const answer = await attempt(() => requestBytes(http, clock, { method: "GET", url }, limits));
  if ("error" in answer) return fail("release", answer.error, "see the service's log");
  const { status, body } = answer.value;
  if (status === 404) return warn("release", "the network has published none yet", "wait for the network");
  if (status !== 200) return fail("release", `${url} answered HTTP ${status}`, "see the service's log");
  const release = await attempt(() => verifyRelease(parseStatement(decodeUtf8(body), "release"), root, 0));
  if ("error" in release)
    return fail("release", `not believed: ${release.error}`, "tell the network; the agent will not apply it");
  const { sequence, current, allowed } = release.value;
  const expires = allowed.find(({ digest }) => digest === current)?.expires ?? 0;
  const text = `number ${sequence}, config ${current.slice(0, 19)}… until ${new Date(expires).toISOString()}`;
  return expires > clock.now()
    ? ok("release", text)
    : fail("release", `${text}, which is over`, "the network must publish a new release");
}
