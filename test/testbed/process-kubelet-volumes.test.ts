import { mkdtempSync, readdirSync, readFileSync, readlinkSync, rmSync, statSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { writeAtomically } from "./kubelet/process/atomic-writer.ts";
import { containerEnv, type EnvSources, expand, parseEnvFile } from "./kubelet/process/env.ts";
import { fieldValue, resourceValue } from "./kubelet/process/fields.ts";
import { configMapPayload, downwardPayload, type Payload, secretPayload } from "./kubelet/process/payload.ts";
import type { Container, Pod } from "./kubelet/process/types.ts";

const pod: Pod = {
  metadata: {
    name: "p",
    namespace: "n",
    uid: "u",
    labels: { app: "x" },
    annotations: { b: "two\nlines", a: 'says "hi"' },
  },
  spec: {
    containers: [{ name: "main", image: "i", resources: { limits: { memory: "1Gi", cpu: "1500m" } } }],
  },
};
const facts = { hostName: "host", hostIP: "127.1.0.1", podIP: "127.1.2.3" };

describe("downward API", () => {
  it("tells name, addresses, and annotations one by one or all, sorted and quoted", () => {
    const values = [
      "metadata.name",
      "status.podIP",
      "spec.nodeName",
      "metadata.annotations['b']",
      "metadata.labels['no']",
    ];
    expect(values.map((path) => fieldValue(path, pod, facts))).toEqual([
      "p",
      "127.1.2.3",
      "host",
      "two\nlines",
      "",
    ]);
    expect(fieldValue("metadata.annotations", pod, facts)).toBe('a="says \\"hi\\""\nb="two\\nlines"');
    expect(() => fieldValue("spec.other", pod, facts)).toThrow(/spec\.other/);
  });

  it("rounds resources up to the divisor", () => {
    expect(resourceValue({ resource: "limits.memory", divisor: "1Mi" }, pod, "main")).toBe("1024");
    expect(resourceValue({ resource: "limits.cpu" }, pod, "main")).toBe("2");
    expect(() => resourceValue({ resource: "requests.cpu" }, pod, "main")).toThrow(/requests\.cpu/);
  });
});

describe("environment", () => {
  it("replaces what is defined, leaves what is not, and takes $$ for a $", () => {
    expect(expand("$(A)-$(B)-$$(A)-$$$(A)-$A-$(", { A: "1" })).toBe("1-$(B)-$(A)-$1-$A-$(");
  });

  const sources: EnvSources = {
    configMap: (name) => Promise.resolve(name === "map" ? { data: { KEY: "from map" } } : undefined),
    secret: (name) => Promise.resolve(name === "secret" ? { data: { KEY: btoa("from secret") } } : undefined),
    file: (_volume, path) => Promise.resolve(path === "env" ? "A='one'\n# B='no'\nC=three\n" : undefined),
  };
  const env = (of: Partial<Container>, base = {}) =>
    containerEnv({ name: "main", image: "i", ...of }, pod, facts, sources, base);

  it("takes the image's, then envFrom, then env in order, and expands what the pod defined before", async () => {
    expect(
      await env(
        {
          envFrom: [{ prefix: "P_", configMapRef: { name: "map" } }],
          env: [
            { name: "FIRST", value: "$(P_KEY)!" },
            { name: "SECOND", value: "$(FIRST) $(LATER) $(PATH)" },
            { name: "LATER", value: "x" },
            { name: "PATH", value: "/mine" },
            { name: "IP", valueFrom: { fieldRef: { fieldPath: "status.podIP" } } },
            { name: "S", valueFrom: { secretKeyRef: { name: "secret", key: "KEY" } } },
            { name: "F", valueFrom: { fileKeyRef: { volumeName: "v", path: "env", key: "A" } } },
          ],
        },
        { PATH: "/bin" },
      ),
    ).toEqual({
      PATH: "/mine",
      P_KEY: "from map",
      FIRST: "from map!",
      SECOND: "from map! $(LATER) $(PATH)",
      LATER: "x",
      IP: "127.1.2.3",
      S: "from secret",
      F: "one",
    });
  });

  it("names what is missing, unless it is optional", async () => {
    const from = (name: string, key: string, optional = false) =>
      env({ env: [{ name: "X", valueFrom: { secretKeyRef: { name, key, optional } } }] });
    await expect(from("none", "KEY")).rejects.toThrow('secret "none" not found');
    await expect(from("secret", "NO")).rejects.toThrow("couldn't find key NO in secret n/secret");
    expect(await from("none", "KEY", true)).toEqual({});
    expect(await from("secret", "NO", true)).toEqual({});
  });

  it("reads env files", () => {
    expect(parseEnvFile("A='x y'\nB=2\n#C=3\nbad line\n")).toEqual({ A: "x y", B: "2" });
  });
});

describe("payloads", () => {
  const text = (payload: Payload) =>
    [...payload].map(([path, { content, mode }]) => `${path} ${mode.toString(8)} ${content.toString()}`);

  it("are all keys, or those asked for at their paths and modes", () => {
    const map = { data: { a: "1", b: "2" }, binaryData: { c: btoa("3") } };
    expect(text(configMapPayload(map, undefined, 0o644, false))).toEqual(["a 644 1", "b 644 2", "c 644 3"]);
    const items = [{ key: "b", path: "deep/b", mode: 0o400 }];
    expect(text(configMapPayload(map, items, 0o644, false))).toEqual(["deep/b 400 2"]);
    expect(text(secretPayload({ data: { a: btoa("1") } }, undefined, 0o400, false))).toEqual(["a 400 1"]);
    const missing = [{ key: "z", path: "z" }];
    expect(() => configMapPayload(map, missing, 0o644, false)).toThrow(/z/);
    expect(text(configMapPayload(map, missing, 0o644, true))).toEqual([]);
    const own = [{ path: "name", fieldRef: { fieldPath: "metadata.name" } }];
    expect(text(downwardPayload(own, 0o644, pod, facts))).toEqual(["name 644 p"]);
  });
});

describe("atomic writer", () => {
  let folder: string;
  beforeEach(() => (folder = mkdtempSync(join(tmpdir(), "atomic-writer-"))));
  afterEach(() => rmSync(folder, { recursive: true }));

  const payload = (files: Record<string, string>, mode = 0o644): Payload =>
    new Map(Object.entries(files).map(([path, content]) => [path, { content: Buffer.from(content), mode }]));
  const visible = () => readdirSync(folder).filter((name) => !name.startsWith(".."));

  it("shows files through ..data, and moves all of them with one link", () => {
    expect(writeAtomically(folder, payload({ a: "1", "deep/b": "1" }))).toBe(true);
    const before = readlinkSync(join(folder, "..data"));
    expect(visible()).toEqual(["a", "deep"]);
    expect(readlinkSync(join(folder, "a"))).toBe("..data/a");
    writeAtomically(folder, payload({ a: "2", "deep/b": "2" }));
    expect(readlinkSync(join(folder, "..data"))).not.toBe(before);
    expect(readFileSync(join(folder, "a"), "utf8") + readFileSync(join(folder, "deep/b"), "utf8")).toBe("22");
    // The old files are gone: nothing but ..data and its target is left beside the links.
    expect(readdirSync(folder).filter((name) => name.startsWith(".."))).toHaveLength(2);
  });

  it("leaves everything in place when nothing changed", () => {
    writeAtomically(folder, payload({ a: "1" }));
    const before = readlinkSync(join(folder, "..data"));
    expect(writeAtomically(folder, payload({ a: "1" }))).toBe(false);
    expect(readlinkSync(join(folder, "..data"))).toBe(before);
    expect(writeAtomically(folder, payload({}))).toBe(true);
    expect(visible()).toEqual([]);
  });

  it("sets modes, and lets the pod's group read", () => {
    const mode = () => statSync(join(folder, "a")).mode & 0o777;
    writeAtomically(folder, payload({ a: "1" }, 0o400));
    expect(mode()).toBe(0o400);
    writeAtomically(folder, payload({ a: "2" }, 0o400), process.getgid?.() ?? 0);
    expect(mode()).toBe(0o440);
  });
});
