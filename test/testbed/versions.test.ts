import { describe, expect, test } from "vitest";
import { parseVersion, whyUnfit } from "./versions.ts";

describe("a version is read from", () => {
  test.each([
    ["Kubernetes v1.37.2\n", { major: 1, minor: 37, patch: 2 }],
    ["etcd Version: 3.7.3\nGit SHA: Not provided\nGo Version: go1.26.8\n", { major: 3, minor: 7, patch: 3 }],
    ["Client Version: v1.32.4-dispatcher\nKustomize Version: v5.5.0", { major: 1, minor: 32, patch: 4 }],
    ["kwok version v0.8.0 go1.26.8 (linux/amd64)", { major: 0, minor: 8, patch: 0 }],
    ["containerd github.com/containerd/containerd/v2 2.4.2+unknown", { major: 2, minor: 4, patch: 2 }],
    [
      "containerd-shim-runc-v2:\n  Version:  2.4.2+unknown\n  Go version: go1.26.8",
      { major: 2, minor: 4, patch: 2 },
    ],
    ["unknown", undefined],
  ])("%j", (text, version) => {
    expect(parseVersion(text)).toEqual(version);
  });
});

describe("fitness", () => {
  const controlPlane = 37;
  test.each([
    ["kube-apiserver", "1.32.9", "Kubernetes 1.33 or newer is needed"],
    ["kube-apiserver", "1.33.0", "the control plane is 1.37"],
    ["kube-apiserver", "1.37.0", undefined],
    ["kube-scheduler", "1.36.0", "the control plane is 1.37"],
    ["kubectl", "1.32.4", "it must be within one minor version of the control plane, 1.37"],
    ["kubectl", "1.35.0", "it must be within one minor version of the control plane, 1.37"],
    ["kubectl", "1.36.1", undefined],
    ["kubectl", "1.38.0", undefined],
    ["kubelet", "1.34.0", undefined],
    ["kubelet", "1.38.0", "it must not be newer than the control plane, 1.37"],
    ["etcd", "3.4.30", "etcd 3.5 or newer is needed"],
    ["etcd", "3.5.0", undefined],
    ["containerd", "1.7.20", "containerd 2 or newer is needed"],
    ["ctr", "2.0.0", undefined],
    ["kwok", "0.6.0", undefined],
  ])("%s %s: %s", (name, version, reason) => {
    const parsed = parseVersion(version);
    if (!parsed) throw new Error(version);
    expect(whyUnfit(name, parsed, controlPlane)).toBe(reason);
  });
});
