import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { cacheFolder, ensureBinaries, whyUnavailable } from "./binaries.ts";
import { cachedPath } from "./build.ts";
import { cacheKey } from "./catalogue.ts";

let dir: string;
const lines: string[] = [];
const log = (line: string) => void lines.push(line);

beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "binaries-test-"));
  lines.length = 0;
});
afterEach(() => rmSync(dir, { recursive: true, force: true }));

function script(path: string, body: string): string {
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, `#!/bin/sh\n${body}\n`);
  chmodSync(path, 0o755);
  return path;
}

/** An executable that tells a version. */
function fake(folder: string, name: string, version: string): string {
  return script(join(dir, folder, name), `echo "${name} v${version}"`);
}

/** A Go that writes an executable where `-o` says, and notes that it was called. */
function fakeGo(body = 'echo "#!/bin/sh" > "$out"'): void {
  script(
    join(dir, "path", "go"),
    `echo "CGO_ENABLED=$CGO_ENABLED GOPROXY=$GOPROXY $*" >> ${join(dir, "calls")}
while [ "$#" -gt 0 ]; do [ "$1" = -o ] && out=$2; shift; done
${body}`,
  );
}

function calls(): string[] {
  const file = join(dir, "calls");
  return existsSync(file) ? readFileSync(file, "utf8").trimEnd().split("\n") : [];
}

function options(more: NodeJS.ProcessEnv = {}) {
  const env = {
    KUBEBUILDER_ASSETS: join(dir, "assets"),
    PATH: join(dir, "path"),
    HOME: join(dir, "home"),
    ...more,
  };
  return { env, log, cache: join(dir, "cache") };
}

describe("look-up", () => {
  test("KUBEBUILDER_ASSETS comes before PATH, PATH before the cache", async () => {
    const cached = script(cachedPath(join(dir, "cache"), "etcd"), "");
    expect((await ensureBinaries(["etcd"], options())).get("etcd")).toBe(cached);
    const onPath = fake("path", "etcd", "3.6.0");
    expect((await ensureBinaries(["etcd"], options())).get("etcd")).toBe(onPath);
    const asset = fake("assets", "etcd", "3.5.1");
    expect((await ensureBinaries(["etcd"], options())).get("etcd")).toBe(asset);
  });

  test("a kubectl that is too old for the control plane is passed over for the cached one", async () => {
    fake("path", "kubectl", "1.32.4");
    const cached = script(cachedPath(join(dir, "cache"), "kubectl"), "");
    expect((await ensureBinaries(["kubectl"], options())).get("kubectl")).toBe(cached);
    expect(lines).toEqual([]);
  });

  test("where a binary that is passed over means a build, that is said", async () => {
    const old = fake("path", "kubectl", "1.32.4");
    fakeGo();
    await ensureBinaries(["kubectl"], options());
    expect(lines[0]).toBe(
      `passed over ${old} v1.32.4: it must be within one minor version of the control plane, 1.37`,
    );
  });

  test("the control plane is of one minor version, the first that all of it is found in", async () => {
    fake("assets", "kube-apiserver", "1.36.0");
    const apiServer = fake("path", "kube-apiserver", "1.35.2");
    const scheduler = fake("path", "kube-scheduler", "1.35.0");
    const kubectl = fake("assets", "kubectl", "1.34.0");
    const found = await ensureBinaries(["kube-apiserver", "kube-scheduler", "kubectl"], options());
    expect([...found.values()]).toEqual([apiServer, scheduler, kubectl]);
  });

  test("a control plane found only in part is built as a whole", async () => {
    fake("assets", "kube-apiserver", "1.36.0");
    fakeGo();
    const found = await ensureBinaries(["kube-apiserver", "kube-scheduler"], options());
    for (const path of found.values()) expect(path).toContain(join(dir, "cache", cacheKey("kubernetes")));
  });

  test("what does not tell its version is passed over", async () => {
    const silent = script(join(dir, "path", "etcd"), "exit 1");
    await expect(ensureBinaries(["etcd"], options())).rejects.toThrow("Go is not there");
    expect(lines).toEqual([`passed over ${silent}: it does not tell its version`]);
  });

  test("a folder that PATH names twice is read once", async () => {
    const old = fake("path", "etcd", "3.4.0");
    symlinkSync(join(dir, "path"), join(dir, "bin"));
    const PATH = `${join(dir, "path")}:${join(dir, "bin")}`;
    expect(await whyUnavailable(["etcd"], options({ PATH }))).toBeDefined();
    expect(lines).toEqual([`passed over ${old} v3.4.0: etcd 3.5 or newer is needed`]);
  });

  test("the cache folder follows XDG_CACHE_HOME, then HOME", () => {
    expect(cacheFolder({ XDG_CACHE_HOME: "/x", HOME: "/h" })).toBe("/x/resultity/testbed");
    expect(cacheFolder({ HOME: "/h" })).toBe("/h/.cache/resultity/testbed");
  });
});

describe("without Go", () => {
  test("the error and the reason to skip name what is missing and the fix", async () => {
    fake("path", "etcd", "3.6.0");
    const names = ["etcd", "kwok", "kubelet"] as const;
    const reason = await whyUnavailable(names, options());
    expect(reason).toBe(
      `kwok, kubelet are neither in ${join(dir, "assets")}, nor on PATH, nor in ${join(dir, "cache")}, and Go is not there to build. Install Go 1.26 or newer, or set KUBEBUILDER_ASSETS to a folder with the binaries of Kubernetes 1.33 or newer.`,
    );
    await expect(ensureBinaries(names, options())).rejects.toMatchObject({
      code: "BinaryMissing",
      message: reason,
    });
  });

  test("there is no reason to skip when all is found, or Go is there", async () => {
    fake("path", "etcd", "3.6.0");
    expect(await whyUnavailable(["etcd"], options())).toBeUndefined();
    fakeGo();
    expect(await whyUnavailable(["etcd", "kwok"], options())).toBeUndefined();
    expect(calls()).toEqual([]);
  });
});

describe("a build", () => {
  test("happens once, though two want it at once, and passes the Go environment through", async () => {
    fakeGo('/bin/sleep 0.3; echo "#!/bin/sh" > "$out"');
    const wanted = options({ GOPROXY: "https://mirror.example" });
    const [first, second] = await Promise.all([
      ensureBinaries(["etcd"], wanted),
      ensureBinaries(["etcd"], wanted),
    ]);
    expect(first).toEqual(second);
    expect(calls()).toHaveLength(1);
    expect(calls()[0]).toMatch(
      /^CGO_ENABLED=0 GOPROXY=https:\/\/mirror\.example build -mod=readonly -trimpath -ldflags -s -w -o \S+\.part go\.etcd\.io\/etcd\/server\/v3$/,
    );
    expect(readdirSync(join(dir, "cache", cacheKey("etcd")))).toEqual(["etcd"]);
    await ensureBinaries(["etcd"], wanted);
    expect(calls()).toHaveLength(1);
  });

  test("clears what a killed build left", async () => {
    const left = script(`${cachedPath(join(dir, "cache"), "etcd")}.4711.part`, "");
    fakeGo();
    await ensureBinaries(["etcd"], options());
    expect(existsSync(left)).toBe(false);
  });

  test("stamps Kubernetes with the version that go.mod pins", async () => {
    fakeGo();
    await ensureBinaries(["kube-scheduler"], options());
    expect(calls()[0]).toContain("-X k8s.io/component-base/version.gitVersion=v1.37.");
    expect(calls()[0]).toContain("version.gitMinor=37 ");
  });

  test("that fails ends with what Go said, and leaves nothing that passes for a binary", async () => {
    fakeGo('echo half > "$out"; echo "dial tcp: lookup modules.test: no such host" >&2; exit 1');
    await expect(ensureBinaries(["etcd"], options())).rejects.toMatchObject({
      code: "BuildFailed",
      message: expect.stringMatching(/^building etcd v3.*GOPROXY[^]*no such host$/),
    });
    expect(existsSync(cachedPath(join(dir, "cache"), "etcd"))).toBe(false);
  });
});
