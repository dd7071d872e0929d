import { describe, expect, it } from "vitest";
import { explain } from "../../src/cli/errors.ts";
import { KubeError } from "../../src/kube/errors.ts";

describe("what the API server does not allow", () => {
  it.each([
    ["list", "ClusterRole view"],
    ["patch", "ClusterRole edit"],
    // `plan -f` has manifests checked as if they were written.
    ["create", "ClusterRole edit"],
    ["update", "ClusterRole edit"],
  ])("%s: names %s", (verb, role) => {
    expect(explain(new KubeError("Forbidden", "no", { verb }), "https://cluster")).toContain(role);
  });
});
