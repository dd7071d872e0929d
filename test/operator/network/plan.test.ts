import { describe, expect, test } from "vitest";
import { releaseEntry, snapshotEntry } from "../../../src/operator/names.ts";
import { chooseDigests } from "../../../src/operator/network/choose.ts";
import type { NodeUse } from "../../../src/operator/network/observe.ts";
import { planNetwork } from "../../../src/operator/network/plan.ts";
import type { ConfigDigest } from "../../../src/protocol/fields.ts";
import { day, makeAuthority } from "./authority.ts";
import { knowledgeOf, networkObject, node, now, observed } from "./observation.ts";

/** Digests by one letter: lower case ones have expired, `-` is none. */
const digestOf = (letter: string) =>
  `sha256:${letter.toLowerCase().charCodeAt(0).toString(16).repeat(32)}` as ConfigDigest;
const lettersOf = (digests: readonly (string | undefined)[]) =>
  digests
    .map((digest) =>
      digest ? String.fromCharCode(Number.parseInt(digest.slice(7, 9), 16)).toUpperCase() : "-",
    )
    .join("");
const maybe = (letter: string) => (letter === "-" ? undefined : digestOf(letter));

describe("which digests nodes move to and the ConfigMap holds", () => {
  interface Row {
    readonly name: string;
    /** Allowed digests, the release's current one first. */
    readonly allowed: string;
    readonly pin?: string;
    readonly previous?: string;
    /** `target applied` of each node. */
    readonly nodes?: readonly string[];
    /** Snapshots that are small; default: none, all are as large as they may be. */
    readonly small?: string;
    /** Snapshots that are there; default: all. */
    readonly has?: string;
    readonly current: string;
    readonly next?: string;
    readonly held: string;
    readonly waiting?: string;
    /** With it configs wait for approval, and this one has it; "" = none has. */
    readonly approved?: string;
    readonly pending?: string;
    readonly finding?: string;
  }
  const rows: readonly Row[] = [
    { name: "a first release", allowed: "A", current: "A", held: "A" },
    { name: "a new release moves on", allowed: "BA", previous: "A", current: "B", held: "B" },
    {
      name: "what nodes run and move to is kept",
      allowed: "BA",
      previous: "A",
      nodes: ["B A", "A A"],
      current: "B",
      held: "BA",
    },
    {
      name: "the new snapshot is not there yet",
      allowed: "BA",
      previous: "A",
      has: "A",
      nodes: ["A A"],
      current: "A",
      next: "B",
      held: "A",
    },
    { name: "the first snapshot is not there yet", allowed: "A", has: "", current: "-", next: "A", held: "" },
    { name: "a pin that is allowed", allowed: "BA", pin: "A", previous: "B", current: "A", held: "A" },
    {
      name: "a pin that is not allowed: nodes stay",
      allowed: "BA",
      pin: "C",
      previous: "A",
      current: "A",
      held: "A",
      finding: "PinNotAllowed",
    },
    {
      name: "a pin that was withdrawn: nodes have nowhere to go",
      allowed: "B",
      pin: "A",
      previous: "A",
      nodes: ["A A"],
      current: "-",
      next: "-",
      held: "A",
      finding: "PinNotAllowed",
    },
    {
      name: "a current one that has expired: nodes stay",
      allowed: "bA",
      previous: "A",
      current: "A",
      held: "A",
      finding: "Expired",
    },
    {
      name: "the one that nodes are at expires: it stays, and is told",
      allowed: "a",
      previous: "A",
      nodes: ["A A"],
      current: "A",
      held: "A",
      finding: "Expired",
    },
    {
      name: "nothing but an expired one",
      allowed: "a",
      current: "-",
      next: "-",
      held: "",
      finding: "Expired",
    },
    {
      name: "three at once",
      allowed: "CBA",
      previous: "B",
      nodes: ["B A", "B B"],
      current: "C",
      held: "CBA",
    },
    {
      name: "a fourth waits while nodes are busy with three",
      allowed: "DCBA",
      previous: "C",
      nodes: ["C A", "C B", "C C"],
      current: "C",
      held: "CAB",
      waiting: "D",
      finding: "TooManyDigests",
    },
    {
      name: "a fourth does not wait where they are small: it may be what mends the third",
      allowed: "DCBA",
      previous: "C",
      nodes: ["C A", "C B", "C C"],
      small: "ABC",
      has: "ABCD",
      current: "D",
      held: "DCAB",
    },
    {
      name: "it goes on when one of them is free",
      allowed: "DCBA",
      previous: "C",
      nodes: ["C B", "C C"],
      current: "D",
      held: "DCB",
    },
    {
      name: "a withdrawn one yields its place to the one that replaces it",
      allowed: "DCB",
      previous: "B",
      nodes: ["D A", "- B", "- C"],
      current: "D",
      held: "DBC",
    },
    {
      name: "a withdrawn one is kept while a node runs it and there is room",
      allowed: "B",
      previous: "A",
      nodes: ["- A"],
      current: "B",
      held: "BA",
    },
    {
      name: "to a withdrawn target nobody moves",
      allowed: "B",
      previous: "B",
      nodes: ["A B"],
      current: "B",
      held: "B",
    },
    {
      name: "a node's own pin beyond three waits",
      allowed: "ABCD",
      previous: "A",
      nodes: ["A A", "B B", "C C", "D A"],
      current: "A",
      held: "ABC",
      waiting: "D",
      finding: "TooManyDigests",
    },
    {
      name: "what nodes run goes before what they are told",
      allowed: "ABCD",
      previous: "A",
      nodes: ["B A", "B A", "B C", "- D"],
      current: "A",
      held: "ACD",
      waiting: "B",
      finding: "TooManyDigests",
    },
    {
      name: "an operator that knows no previous one, nodes busy with three others",
      allowed: "DCBA",
      nodes: ["- A", "- B", "- C"],
      current: "A",
      held: "ABC",
      waiting: "D",
      finding: "TooManyDigests",
    },
    {
      name: "a new one waits for approval",
      allowed: "BA",
      previous: "A",
      nodes: ["A A"],
      approved: "",
      current: "A",
      held: "A",
      pending: "B",
    },
    {
      name: "another one is approved",
      allowed: "CBA",
      previous: "A",
      approved: "B",
      current: "A",
      held: "A",
      pending: "C",
    },
    {
      name: "the approved one goes on",
      allowed: "BA",
      previous: "A",
      nodes: ["A A"],
      approved: "B",
      current: "B",
      held: "BA",
    },
    {
      name: "what nodes are at needs no approval",
      allowed: "A",
      previous: "A",
      approved: "",
      current: "A",
      held: "A",
    },
    {
      name: "nor does a pin",
      allowed: "BA",
      pin: "B",
      previous: "A",
      approved: "",
      current: "B",
      held: "B",
    },
    {
      name: "the first one of all waits too",
      allowed: "A",
      approved: "",
      current: "-",
      next: "-",
      held: "",
      pending: "A",
    },
    {
      name: "what nodes get ready for is held too, where it is allowed",
      allowed: "ABc",
      previous: "A",
      nodes: ["A A B", "A A c", "A A D"],
      current: "A",
      held: "AB",
    },
    {
      name: "what nodes get ready for stands in nobody's way",
      allowed: "DABCE",
      previous: "A",
      nodes: ["A A E", "B B", "C C"],
      small: "AB",
      current: "D",
      held: "DABC",
    },
    {
      name: "what nodes are at expires while the next one waits",
      allowed: "Ba",
      previous: "A",
      nodes: ["A A"],
      approved: "",
      current: "A",
      held: "A",
      pending: "B",
      finding: "Expired",
    },
  ];
  test.each(rows)("$name", (row) => {
    const nodes: NodeUse[] = (row.nodes ?? []).map((text) => {
      const [target = "-", applied = "-", next = "-"] = text.split(" ");
      return { ...node(maybe(target), maybe(applied)), next: maybe(next) };
    });
    const allowed = row.allowed.split("").map((letter) => ({
      digest: digestOf(letter),
      expires: letter === letter.toLowerCase() ? now : now + day,
    }));
    const choice = chooseDigests({
      release: {
        network: "testnet",
        sequence: 9,
        released_at: now - day,
        current: allowed[0]?.digest ?? digestOf("A"),
        allowed,
      },
      pin: row.pin && digestOf(row.pin),
      previous: row.previous && digestOf(row.previous),
      apply: row.approved === undefined ? "Automatic" : "Approve",
      approved: row.approved === "" || row.approved === undefined ? undefined : digestOf(row.approved),
      bytes: (digest) => (row.small?.includes(lettersOf([digest])) ? 2_000 : undefined),
      nodes,
      has: (digest) => row.has === undefined || row.has.includes(lettersOf([digest])),
      now,
    });
    const { pinFinding, expired, tooMany } = choice;
    expect({
      current: lettersOf([choice.current]),
      next: lettersOf([choice.next]),
      held: lettersOf(choice.held),
      waiting: lettersOf(choice.waiting),
      pending: lettersOf([choice.pending]),
      finding: (pinFinding ?? expired ?? tooMany)?.reason,
    }).toEqual({
      current: row.current,
      next: row.next ?? row.current,
      held: row.held,
      waiting: row.waiting ?? "",
      pending: row.pending ?? "-",
      finding: row.finding,
    });
  });

  test("without a release there is nothing to choose", () => {
    const choice = chooseDigests({
      release: undefined,
      pin: digestOf("A"),
      apply: "Automatic",
      approved: undefined,
      previous: digestOf("A"),
      nodes: [],
      has: () => true,
      now,
    });
    expect(choice).toEqual({ current: undefined, next: undefined, held: [], waiting: [] });
  });
});

describe("what is done", () => {
  const authority = makeAuthority();
  const [first, second] = [authority.snapshot("1.0.0"), authority.snapshot("2.0.0")];
  authority.release(first);
  const release = authority.release(second);
  const types = (plan: ReturnType<typeof planNetwork>) => plan.actions.map(({ type }) => type);

  test("a missing snapshot is fetched, and while it is missing the rest is told", () => {
    const knowledge = knowledgeOf(authority, release, [first]);
    knowledge.current = first.digest;
    const plan = planNetwork(observed({ knowledge }));
    expect(plan.actions).toMatchObject([
      { type: "fetch-snapshot", digest: second.digest, reason: "nodes are to move to it" },
      { type: "apply-config-map" },
      { type: "publish", config: { current: first.digest, account: "acme" } },
    ]);
  });

  test("a snapshot that could not be had is not asked for again before its time", () => {
    const knowledge = knowledgeOf(authority, release);
    knowledge.missed.set(second.digest, { failures: 1, at: 500, finding: undefined });
    expect(types(planNetwork(observed({ knowledge, monotonic: 499 })))).not.toContain("fetch-snapshot");
    expect(types(planNetwork(observed({ knowledge, monotonic: 500 })))).toContain("fetch-snapshot");
  });

  test("a plan that was carried out leaves nothing to do", () => {
    const knowledge = knowledgeOf(authority, release, [second]);
    const plan = planNetwork(observed({ knowledge }));
    let published: Parameters<typeof observed>[0]["published"];
    for (const action of plan.actions) {
      if (action.type === "publish") published = action.config;
      if (action.type === "apply-config-map")
        knowledge.configMap = { resourceVersion: "1", data: action.data, ours: true };
    }
    expect(types(plan)).toEqual(["apply-config-map", "publish"]);
    expect(planNetwork(observed({ knowledge, published })).actions).toEqual([]);
  });

  test("a ConfigMap that was changed or has too much is written again; entries of other managers are left", () => {
    const knowledge = knowledgeOf(authority, release, [second]);
    const right = {
      [releaseEntry]: JSON.stringify(release),
      [snapshotEntry(second.digest)]: second.bytes.toString(),
    };
    const withData = (data: Record<string, string>, foreign: string[] = []) => {
      Object.assign(knowledge, {
        configMap: { resourceVersion: "1", data, ours: true },
        foreign: new Set(foreign),
      });
      return types(planNetwork(observed({ knowledge })));
    };
    expect(withData(right)).toEqual(["publish"]);
    expect(withData({ ...right, note: "of a person" })).toEqual(["publish"]);
    expect(withData({ ...right, [snapshotEntry(first.digest)]: "x" })).toEqual([
      "apply-config-map",
      "publish",
    ]);
    expect(withData({ ...right, [snapshotEntry(first.digest)]: "x" }, [snapshotEntry(first.digest)])).toEqual(
      ["publish"],
    );
    expect(withData({ ...right, [releaseEntry]: "{}" })).toEqual(["apply-config-map", "publish"]);
  });

  test("a ConfigMap of somebody else is left alone", () => {
    const knowledge = knowledgeOf(authority, release, [second]);
    knowledge.configMap = { resourceVersion: "1", data: {}, ours: false };
    expect(types(planNetwork(observed({ knowledge })))).toEqual(["publish"]);
  });

  test("nothing is told before there is a root and an account key", () => {
    const knowledge = knowledgeOf(authority, release, [second]);
    knowledge.accountKey = undefined;
    expect(types(planNetwork(observed({ knowledge, network: networkObject() })))).toEqual([
      "apply-config-map",
    ]);
  });
});
