import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parseVersion, type Version } from "./versions.ts";

/** Every binary that the test bed can find or build. */
export const binaryNames = [
  "etcd",
  "kube-apiserver",
  "kube-controller-manager",
  "kube-scheduler",
  "kubectl",
  "kubelet",
  "kube-proxy",
  "kwok",
  "containerd",
  "containerd-shim-runc-v2",
  "ctr",
] as const;
export type BinaryName = (typeof binaryNames)[number];

/** Wrapper modules in `go/`, one per upstream project. */
export type WrapperModule = "etcd" | "kubernetes" | "kwok" | "containerd";

/** Where a binary comes from and how it tells its version. */
export interface CatalogueEntry {
  readonly module: WrapperModule;
  /** Go package of its main function. */
  readonly goPackage: string;
  readonly versionArgs: readonly string[];
  /** What a build from nothing takes on two cores, after the ones listed before it. Seconds. */
  readonly coldBuildSeconds: number;
}

function kubernetes(name: string, coldBuildSeconds: number, versionArgs = ["--version"]): CatalogueEntry {
  return { module: "kubernetes", goPackage: `k8s.io/kubernetes/cmd/${name}`, versionArgs, coldBuildSeconds };
}

function containerd(name: string, coldBuildSeconds: number, versionArg = "--version"): CatalogueEntry {
  const goPackage = `github.com/containerd/containerd/v2/cmd/${name}`;
  return { module: "containerd", goPackage, versionArgs: [versionArg], coldBuildSeconds };
}

export const catalogue: Readonly<Record<BinaryName, CatalogueEntry>> = {
  etcd: {
    module: "etcd",
    goPackage: "go.etcd.io/etcd/server/v3",
    versionArgs: ["--version"],
    coldBuildSeconds: 50,
  },
  "kube-apiserver": kubernetes("kube-apiserver", 310),
  "kube-controller-manager": kubernetes("kube-controller-manager", 100),
  "kube-scheduler": kubernetes("kube-scheduler", 10),
  kubectl: kubernetes("kubectl", 25, ["version", "--client"]),
  kubelet: kubernetes("kubelet", 40),
  "kube-proxy": kubernetes("kube-proxy", 15),
  kwok: {
    module: "kwok",
    goPackage: "sigs.k8s.io/kwok/cmd/kwok",
    versionArgs: ["--version"],
    coldBuildSeconds: 75,
  },
  containerd: containerd("containerd", 65),
  "containerd-shim-runc-v2": containerd("containerd-shim-runc-v2", 10, "-v"),
  ctr: containerd("ctr", 10),
};

/** Folder of the wrapper modules. */
export const wrapperModules = join(import.meta.dirname, "go");

const upstream: Readonly<Record<WrapperModule, string>> = {
  etcd: "go.etcd.io/etcd/server/v3",
  kubernetes: "k8s.io/kubernetes",
  kwok: "sigs.k8s.io/kwok",
  containerd: "github.com/containerd/containerd/v2",
};

/** The version that a wrapper module pins, as its go.mod says. */
export function pinnedVersion(module: WrapperModule): Version {
  const mod = readFileSync(join(wrapperModules, module, "go.mod"), "utf8");
  const required = mod.split("\n").find((line) =>
    line
      .trim()
      .replace(/^require /, "")
      .startsWith(`${upstream[module]} v`),
  );
  const version = required && parseVersion(required.slice(required.lastIndexOf(" v")));
  if (!version) throw new Error(`go/${module}/go.mod does not require ${upstream[module]}`);
  return version;
}

/** Flags of `go build` for a wrapper module, without the output. The same flags hit Go's build cache again. */
export function buildFlags(module: WrapperModule): string[] {
  let ldflags = "-s -w";
  if (module === "kubernetes") {
    const { major, minor, patch } = pinnedVersion(module);
    const set = (field: string, value: string | number) =>
      ` -X k8s.io/component-base/version.${field}=${value}`;
    ldflags +=
      set("gitVersion", `v${major}.${minor}.${patch}`) + set("gitMajor", major) + set("gitMinor", minor);
  }
  return ["-mod=readonly", "-trimpath", "-ldflags", ldflags];
}

/** Folder name in the cache: tells apart whatever would build a different binary. */
export function cacheKey(module: WrapperModule): string {
  const hash = createHash("sha256");
  for (const file of ["go.mod", "go.sum"]) hash.update(readFileSync(join(wrapperModules, module, file)));
  hash.update(JSON.stringify([buildFlags(module), process.platform, process.arch]));
  const { major, minor, patch } = pinnedVersion(module);
  return `${module}-v${major}.${minor}.${patch}-${hash.digest("hex").slice(0, 12)}`;
}
