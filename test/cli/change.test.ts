import { describe, expect, it } from "vitest";
import type { NetworkStatus, ResultityNetwork } from "../../src/api/v1alpha1/network.ts";
import { approve, type Change, follow, park, pause, promote, undo } from "../../src/cli/change.ts";
import { historyView, renderHistory, rolloutView } from "../../src/cli/rollout.ts";
import { plainScreen } from "../../src/cli/text/screen.ts";
import { makePool } from "../operator/pool/fleet.ts";
import { digest, network, node, now } from "./objects.ts";

const since = "2026-01-01T00:00:00Z";
const entry = (letter: string) => ({ digest: digest(letter), version: `v-${letter}`, since });

/** A network at config b, before it at a. */
function networkWith(config: Partial<ResultityNetwork["spec"]["config"]>, status: NetworkStatus = {}) {
  const found = network("True AllWell", {
    config: { digest: digest("b"), version: "v-b", releaseSequence: 2, expiresAt: since },
    history: [entry("b"), entry("a")],
    ...status,
  });
  return { ...found, spec: { ...found.spec, config: { ...found.spec.config, ...config } } };
}

/** The one field that a change writes; every patch names the object and the spec that were looked at. */
function written({ patch }: Change): unknown {
  expect(patch.slice(0, 2).map((operation) => [operation.op, operation.path])).toEqual([
    ["test", "/metadata/uid"],
    ["test", "/metadata/generation"],
  ]);
  return patch[2];
}

describe("approve", () => {
  const pending = { digest: digest("c"), version: "v-c", changes: ["model x added"] };

  it("lets through what waits, and says what it changes", () => {
    const change = approve(networkWith({ apply: "Approve" }, { pending }), undefined);
    expect(written(change)).toEqual({ op: "add", path: "/spec/config/approved", value: digest("c") });
    expect(change.says).toContain("model x added");
  });

  it("writes nothing twice", () => {
    expect(
      approve(networkWith({ apply: "Approve", approved: digest("c") }, { pending }), undefined).patch,
    ).toEqual([]);
    expect(approve(networkWith({ apply: "Approve", approved: digest("c") }), digest("c")).patch).toEqual([]);
  });

  it.each([
    ["a network that asks nobody", networkWith({}), undefined, "asks for no approval"],
    [
      "nothing that waits",
      networkWith({ apply: "Approve" }),
      undefined,
      "no config of network testnet waits",
    ],
    [
      "another one than the user has looked at",
      networkWith({ apply: "Approve" }, { pending }),
      digest("d"),
      `${digest("c")} does`,
    ],
  ])("refuses %s", (_name, subject, wanted, message) => {
    expect(() => approve(subject, wanted)).toThrow(message);
  });
});

describe("rollout", () => {
  const pinned = (letter: string) => {
    const pool = makePool();
    const { spec } = pool.spec.template;
    const template = { spec: { ...spec, config: { pin: digest(letter) } } };
    return { ...pool, spec: { ...pool.spec, template } };
  };

  it("goes back to the config before, and from there to the one before that", () => {
    const three = networkWith({}, { history: [entry("b"), entry("a"), entry("9")] });
    expect(written(undo(makePool(), three, undefined))).toMatchObject({ value: { pin: digest("a") } });
    expect(written(undo(pinned("a"), three, undefined))).toMatchObject({ value: { pin: digest("9") } });
    expect(written(undo(makePool(), three, digest("9")))).toMatchObject({ value: { pin: digest("9") } });
  });

  it("says that there is nothing before the first", () => {
    expect(() => undo(pinned("a"), networkWith({}), undefined)).toThrow(`no config before ${digest("a")}`);
    expect(undo(pinned("a"), networkWith({}), digest("a")).patch).toEqual([]);
  });

  it("follows again, pauses and resumes, each once", () => {
    expect(written(follow(pinned("a"), networkWith({})))).toEqual({
      op: "remove",
      path: "/spec/template/spec/config/pin",
    });
    expect(follow(makePool(), networkWith({})).patch).toEqual([]);
    expect(written(pause(makePool(), true))).toMatchObject({ path: "/spec/strategy/paused", value: true });
    expect(pause(makePool(), false).patch).toEqual([]);
  });

  it("promotes what the pool is asked for, once", () => {
    const pool = makePool();
    const annotations = { "resultity.com/promote": digest("b") };
    expect(written(promote(pool, networkWith({})))).toMatchObject({ value: annotations });
    const other = { ...pool, metadata: { ...pool.metadata, annotations: { x: "y" } } };
    expect(written(promote(other, networkWith({})))).toMatchObject({
      path: "/metadata/annotations/resultity.com~1promote",
      value: digest("b"),
    });
    expect(promote({ ...pool, metadata: { ...pool.metadata, annotations } }, networkWith({})).patch).toEqual(
      [],
    );
  });

  it("shows the configs, and where network and pool are", () => {
    const view = historyView(pinned("a"), networkWith({}));
    expect(view.entries.map(({ version, current, pinned: stays }) => [version, current, stays])).toEqual([
      ["v-b", true, false],
      ["v-a", false, true],
    ]);
    expect(renderHistory(view, { now, screen: plainScreen })).toContain("the pool stays at it");
  });

  it("is done when all nodes are updated and in service, and the newest spec is seen", () => {
    const pool = makePool({ replicas: 2 });
    const status = { observedGeneration: 1, replicas: 2, updatedReplicas: 2, availableReplicas: 2 };
    expect(rolloutView({ ...pool, status }).done).toBe(true);
    expect(rolloutView({ ...pool, status: { ...status, availableReplicas: 1 } }).done).toBe(false);
    expect(rolloutView({ ...pool, status: { ...status, observedGeneration: 0 } }).done).toBe(false);
  });
});

describe("park", () => {
  it("sets the replicas, once", () => {
    const running = node("chat-0", "True AllWell");
    expect(written(park(running, true))).toMatchObject({ path: "/spec/replicas", value: 0 });
    expect(park(running, false).patch).toEqual([]);
  });
});
