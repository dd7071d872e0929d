import { beforeEach, describe, expect, it } from "vitest";
import { examine } from "../../../src/agent/doctor/doctor.ts";
import { type Finding, lineOf } from "../../../src/agent/doctor/finding.ts";
import { proxyFor } from "../../../src/agent/doctor/proxy.ts";
import type { DoctorWorld } from "../../../src/agent/doctor/world.ts";
import { resolveSettings } from "../../../src/agent/standalone/settings.ts";
import { sealFrame } from "../../../src/protocol/frame.ts";
import { type FakePorts, fakePorts } from "../fixture/fakes.ts";
import { testIdentity, TestNetwork } from "../fixture/network.ts";

const network = new TestNetwork();
const identity = testIdentity(network);
const day = 86_400_000;
const settings = resolveSettings({
  env: {},
  flags: {
    "node-name": "n1",
    network: network.name,
    endpoint: ["https://io.example"],
    standalone: true,
    engine: "test",
    "gpu-count": "2",
    "identity-dir": "/id",
    "state-dir": "/state",
    "launch-dir": "/launch",
  },
  file: undefined,
});

/** A machine on which all is well; tests break one thing of it. */
let ports: FakePorts;
let world: { -readonly [K in keyof DoctorWorld]: DoctorWorld[K] };
let modes: Record<string, number>;
/** By how much this machine's clock is ahead of the service's, ms. */
let skew: number;

beforeEach(async () => {
  ports = fakePorts();
  skew = 0;
  modes = {
    "/id/key.jwk": 0o600,
    "/state": 0o40700,
    "/launch": 0o40755,
    "/launch/run": 0o40755,
    "/launch/launch.sh": 0o755,
  };
  const now = ports.clock.now();
  await ports.files.write("/id/key.jwk", JSON.stringify(identity.jwk));
  await ports.files.write("/id/binding.json", JSON.stringify(identity.binding));
  await ports.files.write("/id/root.json", JSON.stringify(network.rootStatement));
  await ports.files.write("/launch/generation", "1 now\n");
  const engine = {
    engine: "test",
    command: ["/engine"],
    args: [],
    models: ["m1"],
    gpuCount: 2,
    port: 20_001,
  };
  await ports.files.write("/launch/gen/1/engine.json", JSON.stringify(engine));
  await ports.files.write("/launch/run/state", "1 1 77 0 -1 running\n");
  const release = JSON.stringify(network.release(3, network.config(), now));
  ports.http.auto = ({ url }) => {
    if (url === "https://io.example/v1/config/release") return { status: 200, body: release };
    if (url === "http://127.0.0.1:20001/v1/models") return { status: 200, body: '{"data":[{"id":"m1"}]}' };
    return url === "http://127.0.0.1:9440/ready"
      ? { status: 200, body: "ready\n" }
      : { status: 500, body: "" };
  };
  world = {
    files: ports.files,
    http: ports.http,
    clock: ports.clock,
    env: {},
    transport: {
      dial(url, handlers) {
        const socket = ports.transport.dial(url, handlers);
        const time = ports.clock.now() - skew;
        const challenge = {
          challenge: Buffer.alloc(32).toString("base64url"),
          time,
          network: network.name,
          delegation: network.delegation(time),
        };
        queueMicrotask(() => handlers.message(sealFrame("challenge", challenge, network.service)));
        return socket;
      },
    },
    stat: (path) => {
      const mode = modes[path];
      return Promise.resolve(
        mode === undefined ? undefined : { mode: mode & 0o7777, folder: (mode & 0o40000) !== 0 },
      );
    },
    mayWrite: () => Promise.resolve(true),
    space: () => Promise.resolve({ free: 50e9, total: 100e9 }),
    lookup: () => Promise.resolve(["192.0.2.1"]),
    connect: () => Promise.resolve(),
    tls: () => Promise.resolve(now + 90 * day),
    run: () =>
      Promise.resolve({ ok: true, text: "NVIDIA H100, 81559 MiB, 570.1\nNVIDIA H100, 81559 MiB, 570.1" }),
  };
});

const find = (findings: readonly Finding[], check: string) => findings.filter((each) => each.check === check);
const refuse = (message: string) => () => Promise.reject(new Error(message));

describe("agent doctor", () => {
  it("finds nothing where all is well, and leaves the service's session alone", async () => {
    const findings = await examine(world, settings);
    expect(findings.filter(({ verdict }) => verdict !== "ok")).toEqual([]);
    expect(findings.map(({ check }) => check)).toEqual(
      "config key binding root proxy dns tcp tls session clock release disk gpu launch engine agent".split(
        " ",
      ),
    );
    expect(ports.transport.last.sent).toEqual([]);
    expect(ports.transport.last.closed?.code).toBe(1000);
  });

  it.each<[string, string, Finding["verdict"], RegExp, () => void]>([
    [
      "a key that all can read",
      "key",
      "fail",
      /mode 0644.*; fix: chmod 600 \/id\/key\.jwk$/,
      () => (modes["/id/key.jwk"] = 0o644),
    ],
    ["a key that its group can write", "key", "fail", /mode 0660/, () => (modes["/id/key.jwk"] = 0o660)],
    ["a key that its group can read", "key", "ok", /node /, () => (modes["/id/key.jwk"] = 0o440)],
    [
      "no key",
      "key",
      "fail",
      /does not exist.*agent identity init/,
      () => void ports.files.content.delete("/id/key.jwk"),
    ],
    [
      "another node's binding",
      "binding",
      "fail",
      /is for node .*; fix: .*io accounts bind/,
      () => void ports.files.write("/id/binding.json", JSON.stringify(testIdentity(network).binding)),
    ],
    [
      "another network's root",
      "session",
      "fail",
      /is not believed: threshold/,
      () => void ports.files.write("/id/root.json", JSON.stringify(new TestNetwork().rootStatement)),
    ],
    ["a root that is torn", "root", "fail", /not usable/, () => void ports.files.write("/id/root.json", "{")],
    [
      "a name that does not resolve",
      "dns",
      "fail",
      /io\.example does not resolve: ENOTFOUND/,
      () => (world.lookup = refuse("ENOTFOUND")),
    ],
    [
      "a port behind a firewall",
      "tcp",
      "fail",
      /let this host reach io\.example port 443/,
      () => (world.connect = refuse("timed out")),
    ],
    [
      "an unknown authority",
      "tls",
      "fail",
      /NODE_EXTRA_CA_CERTS/,
      () => (world.tls = refuse("self-signed certificate")),
    ],
    [
      "a certificate near its end",
      "tls",
      "warn",
      /for 2 more days/,
      () => (world.tls = () => Promise.resolve(ports.clock.now() + 2 * day + 1)),
    ],
    [
      "a clock that is an hour ahead",
      "clock",
      "fail",
      /3600\.0 s ahead of the service.*NTP/,
      () => (skew = 3_600_000),
    ],
    [
      "a clock that is a week behind",
      "clock",
      "fail",
      /604800\.0 s behind the service/,
      () => (skew = -7 * day),
    ],
    ["a clock that drifts", "clock", "warn", /60\.0 s behind/, () => (skew = -60_000)],
    [
      "a proxy that is no URL",
      "proxy",
      "fail",
      /HTTPS_PROXY is no http or https URL/,
      () => (world.env = { HTTPS_PROXY: "proxy" }),
    ],
    [
      "a full disk",
      "disk",
      "fail",
      /\/state: 1 MiB free/,
      () => (world.space = () => Promise.resolve({ free: 2 ** 20, total: 2 ** 30 })),
    ],
    [
      "a state folder of somebody else",
      "disk",
      "fail",
      /cannot be written/,
      () => (world.mayWrite = () => Promise.resolve(false)),
    ],
    [
      "a folder of models that others fill",
      "models",
      "warn",
      /\/models cannot be written.*put there by others/,
      () => {
        modes["/models"] = 0o40755;
        world.mayWrite = (path) => Promise.resolve(path !== "/models");
      },
    ],
    [
      "a full disk of models",
      "models",
      "fail",
      /\/models: 1 MiB free/,
      () => {
        modes["/models"] = 0o40755;
        world.space = (path) => Promise.resolve({ free: path === "/models" ? 2 ** 20 : 50e9, total: 100e9 });
      },
    ],
    [
      "fewer GPUs than configured",
      "gpu",
      "fail",
      /1 × NVIDIA H100.*gpu\.count is 2/,
      () => (world.run = () => Promise.resolve({ ok: true, text: "NVIDIA H100" })),
    ],
    [
      "a driver that is not loaded",
      "gpu",
      "fail",
      /has failed because/,
      () => (world.run = () => Promise.resolve({ ok: false, text: "NVIDIA-SMI has failed because" })),
    ],
    [
      "no driver",
      "gpu",
      "fail",
      /not installed, 2 GPUs are configured/,
      () => (world.run = () => Promise.resolve(undefined)),
    ],
    [
      "no place for the launcher's state",
      "launch",
      "fail",
      /\/launch\/run is no folder/,
      () => void delete modes["/launch/run"],
    ],
    [
      "no launcher",
      "engine",
      "fail",
      /no launcher has ever run/,
      () => void ports.files.content.delete("/launch/run/state"),
    ],
    [
      "an engine that still loads",
      "engine",
      "warn",
      /without m1; fix: wait/,
      () => (ports.http.auto = () => ({ status: 200, body: '{"data":[]}' })),
    ],
    [
      "an engine that crashes",
      "engine",
      "fail",
      /launcher backoff, 4 crashes, last exit code 137/,
      () => {
        void ports.files.write("/launch/run/state", "1 1 0 4 137 backoff\n");
        ports.http.auto = () => ({ status: 503, body: "" });
      },
    ],
    [
      "an agent that is not ready",
      "agent",
      "warn",
      /not ready: engine starting/,
      () => (ports.http.auto = () => ({ status: 503, body: "engine starting" })),
    ],
  ])("%s", async (_what, check, verdict, words, breakIt) => {
    breakIt();
    const [finding] = find(await examine(world, settings), check);
    expect(finding?.verdict).toBe(verdict);
    expect(finding && lineOf(finding)).toMatch(words);
  });

  it("a clock that is off is named as such, and not as a session that is not believed", async () => {
    skew = 3_600_000;
    const findings = await examine(world, settings);
    expect(find(findings, "session")[0]?.verdict).toBe("ok");
  });

  it("a service that accepts and says nothing is given up after ten seconds", async () => {
    world.transport = ports.transport;
    const examined = examine(world, settings);
    while (ports.transport.sockets.length === 0) await new Promise(setImmediate);
    await ports.clock.advanceAsync(10_000, 500);
    const findings = await examined;
    expect(find(findings, "session")[0]?.text).toContain("no challenge within 10 s");
    expect(ports.transport.last.terminated).toBe(true);
  });

  it("a line is one line, whatever a peer says", () => {
    expect(lineOf({ check: "tcp", verdict: "fail", text: "a\nok    key", fix: "b\r\nc" })).toBe(
      "fail  tcp       a ok    key; fix: b c",
    );
  });
});

describe("the way to an endpoint", () => {
  it.each([
    ["https://io.example", {}, "none"],
    ["http://io.example", { HTTPS_PROXY: "http://p:3128" }, "none"],
    ["https://io.example", { HTTPS_PROXY: "http://user:secret@p:3128" }, "p:3128"],
    ["https://io.example", { https_proxy: "http://q", HTTPS_PROXY: "http://p:3128" }, "q:80"],
    ["https://io.example", { HTTPS_PROXY: "http://p:3128", NO_PROXY: "other, .example" }, "none"],
    ["https://io.example", { HTTPS_PROXY: "http://p:3128", NO_PROXY: "io.example:8443" }, "p:3128"],
    ["https://io.example:8443", { HTTPS_PROXY: "http://p:3128", NO_PROXY: "io.example:8443" }, "none"],
    ["https://io.example", { HTTPS_PROXY: "http://p:3128", NO_PROXY: "example" }, "p:3128"],
    ["https://io.example", { HTTPS_PROXY: "http://p:3128", NO_PROXY: "*" }, "none"],
    ["https://io.example", { HTTPS_PROXY: "socks5://p:1" }, "wrong"],
  ])("%s with %o is %s", (endpoint, env, expected) => {
    const choice = proxyFor(endpoint, env);
    expect(choice.is === "proxy" ? `${choice.host}:${choice.port}` : choice.is).toBe(expected);
    expect(JSON.stringify(choice)).not.toContain("secret");
  });
});
