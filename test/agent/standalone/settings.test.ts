import { readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { parseWindow, inWindows } from "../../../src/agent/standalone/windows.ts";
import { standaloneTarget } from "../../../src/agent/standalone/wish.ts";
import { agentSettings, resolveSettings } from "../../../src/agent/standalone/settings.ts";
import { variableOf } from "../../../src/agent/standalone/setting.ts";
import { parseConfigFile, type SettingSources } from "../../../src/agent/standalone/sources.ts";
import { digestField } from "../../../src/protocol/fields.ts";

const path = "/etc/resultity/agent.yaml";

/** Sources with a config file of this text. */
async function from(
  yaml: string | undefined,
  env: SettingSources["env"] = {},
  flags: SettingSources["flags"] = {},
): Promise<SettingSources> {
  const file = yaml === undefined ? undefined : { path, content: await parseConfigFile(path, yaml) };
  return { file, env, flags };
}

const least = "nodeName: n1\nnetwork: testnet\nendpoints: [https://io.example.com]\n";
const resolve = async (...given: Parameters<typeof from>) => resolveSettings(await from(...given));
const refused = async (...given: Parameters<typeof from>): Promise<string> => {
  try {
    await resolve(...given);
  } catch (thrown) {
    return String(thrown);
  }
  return "accepted";
};

describe("settings of the agent", () => {
  it("a config file that says the least makes a standalone node with defaults", async () => {
    expect(await resolve(least)).toEqual({
      nodeName: "n1",
      network: "testnet",
      endpoints: ["https://io.example.com"],
      listen: { host: "127.0.0.1", port: 9440 },
      identityDir: "/etc/resultity/identity",
      networkDir: "/etc/resultity/network",
      podDir: undefined,
      stateDir: "/var/lib/resultity",
      launchDir: "/run/resultity",
      receiptsDir: "/var/lib/resultity/receipts",
      modelsDir: "/models",
      modelsMaxBytes: undefined,
      modelSourceDirs: [],
      level: "info",
      drainTimeoutMs: 30_000,
      gpuCount: undefined,
      standalone: { pin: undefined, windows: [], mirrors: [], wish: undefined },
    });
  });

  it("flags alone are a node with an operator, which keeps no receipts", async () => {
    const settings = await resolve(
      undefined,
      {},
      {
        "node-name": "n1",
        network: "testnet",
        endpoint: ["http://io:8480"],
      },
    );
    expect(settings).toMatchObject({
      podDir: "/etc/resultity/pod",
      receiptsDir: undefined,
      standalone: undefined,
    });
  });

  it("mirrors of one source keep their order", async () => {
    const mirrors = [
      "https://a.test=http://one:80",
      "file:///srv=https://x.test/y",
      "https://a.test=http://two:80",
    ];
    const { standalone } = await resolve(least, {}, { "models-mirror": mirrors });
    expect(standalone?.mirrors).toEqual([
      { source: "https://a.test", mirrors: ["http://one:80", "http://two:80"] },
      { source: "file:///srv", mirrors: ["https://x.test/y"] },
    ]);
    expect(await refused(least, {}, { "models-mirror": ["https://a.test"] })).toMatch(/SOURCE=MIRROR/);
  });

  it("says all that an operator could", async () => {
    const { standalone, drainTimeoutMs } = await resolve(`${least}
runtime: { engine: vllm, models: [org/m1], args: [--max-model-len, "8192"] }
gpu: { product: NVIDIA-H100, count: 2 }
config: { windows: [22:00-04:30] }
participation: { accept: false, subclouds: [eu] }
drain: { timeout: 2m, stopTimeout: 45s }
`);
    expect(drainTimeoutMs).toBe(45_000);
    expect(standalone?.windows).toEqual([{ fromMinute: 22 * 60, toMinute: 4 * 60 + 30 }]);
    expect(standalone?.wish).toEqual({
      revision: 1,
      stage: null,
      target: null,
      image: null,
      plannedStop: null,
      engine: "vllm",
      models: ["org/m1"],
      args: ["--max-model-len", "8192"],
      gpuProduct: "NVIDIA-H100",
      gpuCount: 2,
      accept: false,
      subclouds: ["eu"],
      drainTimeoutMs: 120_000,
      evictionTimeoutMs: 45_000,
    });
  });

  it.each([
    ["file", "info", {}, {}, "debug"],
    ["environment over file", "info", { RESULTITY_LOG_LEVEL: "warn" }, {}, "warn"],
    ["flag over environment", "info", { RESULTITY_LOG_LEVEL: "warn" }, { "log-level": "error" }, "error"],
    ["an empty variable says nothing", "info", { RESULTITY_LOG_LEVEL: "" }, {}, "debug"],
  ])("%s", async (_what, _fallback, env, flags, expected) => {
    expect((await resolve(`${least}logLevel: debug\n`, env, flags)).level).toBe(expected);
  });

  it("lists of the environment have commas, or are JSON where an item has one", async () => {
    const env = { RESULTITY_ENDPOINT: "http://a, http://b", RESULTITY_ARG: '["--x=1,2","-y"]' };
    const { endpoints, standalone } = await resolve(`${least}runtime: { engine: vllm }\n`, env);
    expect(endpoints).toEqual(["http://a", "http://b"]);
    expect(standalone?.wish?.args).toEqual(["--x=1,2", "-y"]);
  });

  it("an IPv6 address is listened on with brackets or, as from $(POD_IP), without", async () => {
    expect((await resolve(least, {}, { listen: "[::1]:9000" })).listen).toEqual({ host: "::1", port: 9000 });
    expect((await resolve(least, {}, { listen: "fd00::7:9440" })).listen).toEqual({
      host: "fd00::7",
      port: 9440,
    });
    expect(await refused(least, {}, { listen: "io:9:9440" })).toContain("HOST:PORT");
  });

  it.each([
    ["an unknown field", "drian: {}\n", `${path}: there is no field drian; the fields are nodeName, network`],
    [
      "an unknown field inside",
      "drain: { timeot: 1m }\n",
      `${path}: there is no field drain.timeot; the fields of drain are timeout, stopTimeout`,
    ],
    ["a map where there is none", "drain: 30s\n", `${path}: field drain must be a map of fields`],
    [
      "a wrong number",
      "gpu: { count: many }\n",
      "field gpu.count is wrong: it must be a whole number from 0 to 64",
    ],
    [
      "a duration without a unit",
      "drain: { timeout: 30 }\n",
      "field drain.timeout is wrong: it must be a duration",
    ],
    [
      "a relative folder",
      "dirs: { state: state }\n",
      "field dirs.state is wrong: it must be an absolute path",
    ],
    ["a wrong level", "logLevel: loud\n", "field logLevel is wrong: it must be one of trace, debug"],
    ["a text for a list", "runtime: { models: m1 }\n", "field runtime.models is wrong: it must be a list"],
    ["a wrong window", "config: { windows: [25:00-26:00] }\n", "25:00-26:00 is no span of hours of a day"],
    ["a wrong pin", "config: { pin: latest }\n", "field config.pin is wrong: it must be a config digest"],
    ["a setting of the engine without one", "gpu: { count: 1 }\n", "--engine (runtime.engine) is missing"],
    ["a key twice", "network: other\n", `${path} is no YAML`],
    ["aliases", "runtime: &a { engine: x }\ngpu: *a\n", `${path} is no YAML`],
    [
      "a wish with an operator",
      "standalone: false\nruntime: { engine: x }\n",
      "--engine is for a node without an operator",
    ],
  ])("refuses %s, naming field and fix", async (_what, more, words) => {
    expect(await refused(least + more)).toContain(words);
  });

  it("refuses a URL with a password without repeating it", async () => {
    const words = await refused(least, {}, { endpoint: ["https://user:hunter2@io.example.com"] });
    expect(words).toContain("--endpoint is wrong: it must be a list, each item an http or https URL");
    expect(words).not.toContain("hunter2");
  });

  it("names what is missing in all its three places", async () => {
    expect(await refused("nodeName: n1\nendpoints: [http://a]\n")).toContain(
      `--network is missing: set field network in ${path}, or RESULTITY_NETWORK`,
    );
  });

  it("docs/standalone.md has a row that names field and flag of each", () => {
    const page = readFileSync(join(import.meta.dirname, "../../../docs/standalone.md"), "utf8");
    const rows = page.split("\n").filter((line) => line.startsWith("| `"));
    const missing = Object.values(agentSettings).filter(
      ({ path: field, flag }) =>
        !rows.some((row) => row.includes(`\`${field}\``) && row.includes(`\`--${flag}`)),
    );
    expect(missing.map(({ path: field }) => field)).toEqual([]);
  });

  it("no two settings share a field, a flag or a variable", () => {
    const all = Object.values(agentSettings);
    for (const name of [
      all.map((setting) => setting.path),
      all.map((setting) => setting.flag),
      all.map((setting) => variableOf(setting)),
    ])
      expect(new Set(name).size).toBe(all.length);
  });
});

describe("which config a standalone node runs", () => {
  const [a, b] = [
    digestField.parse(`sha256:${"a".repeat(64)}`),
    digestField.parse(`sha256:${"b".repeat(64)}`),
  ];
  const noon = Date.UTC(2026, 0, 1, 12);
  const release = (current: typeof a, allowed: readonly (typeof a)[]) => ({
    network: "testnet",
    sequence: 1,
    released_at: 0,
    current,
    allowed: allowed.map((digest) => ({ digest, expires: noon + 1 })),
  });
  const night = [parseWindow("22:00-04:00") ?? { fromMinute: 0, toMinute: 0 }];
  it.each([
    ["the current one", { pin: undefined, windows: [] }, release(b, [a, b]), a, noon, b],
    ["what it has while no release is known", { pin: undefined, windows: [] }, undefined, a, noon, a],
    ["the pinned one", { pin: a, windows: [] }, release(b, [a, b]), b, noon, a],
    ["what it has outside the windows", { pin: undefined, windows: night }, release(b, [a, b]), a, noon, a],
    [
      "the current one inside a window",
      { pin: undefined, windows: night },
      release(b, [a, b]),
      a,
      noon - 9 * 3_600_000,
      b,
    ],
    [
      "the current one when what it has was withdrawn",
      { pin: undefined, windows: night },
      release(b, [b]),
      a,
      noon,
      b,
    ],
    [
      "the current one when what it has expired",
      { pin: undefined, windows: night },
      release(b, [a, b]),
      a,
      noon + 1,
      b,
    ],
    [
      "the current one when it has none",
      { pin: undefined, windows: night },
      release(b, [a, b]),
      null,
      noon,
      b,
    ],
  ])("%s", (_what, standalone, known, applied, now, expected) => {
    expect(standaloneTarget(standalone, known, applied, now)).toBe(expected);
  });

  it("windows end before their last minute, and go over midnight", () => {
    const at = (hours: number, minutes: number) => Date.UTC(2026, 5, 1, hours, minutes);
    expect([at(21, 59), at(22, 0), at(3, 59), at(4, 0)].map((now) => inWindows(night, now))).toEqual([
      false,
      true,
      true,
      false,
    ]);
    expect(parseWindow("00:00-24:00")).toBeDefined();
    expect(parseWindow("24:00-01:00")).toBeUndefined();
    expect(parseWindow("01:00-01:00")).toBeUndefined();
  });
});
