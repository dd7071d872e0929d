import { describe, expect, test } from "vitest";
import { networkStatus } from "../../../src/api/v1alpha1/network.ts";
import { turningPoints } from "../../../src/operator/network/status.ts";
import { planNetwork } from "../../../src/operator/network/plan.ts";
import type { Knowledge } from "../../../src/operator/network/knowledge.ts";
import { newKnowledge } from "../../../src/operator/network/knowledge.ts";
import { day, makeAuthority } from "./authority.ts";
import { knowledgeOf, networkObject, node, now, observed, statusOf, verdictsOf } from "./observation.ts";

const authority = makeAuthority();
const [first, second] = [authority.snapshot("1.0.0"), authority.snapshot("2.0.0")];
const release = authority.release(first);
const good = (more: Partial<Knowledge> = {}) => Object.assign(knowledgeOf(authority, release, [first]), more);
const finding = (
  reason:
    | "RootNotFound"
    | "EndpointUnreachable"
    | "SequenceWentBack"
    | "AccountSecretNotFound"
    | "PermissionMissing"
    | "NotYetKnown"
    | "SnapshotInvalid",
) => ({
  reason,
  message: `about ${reason}`,
});

describe("conditions", () => {
  const well = {
    Reachable: "True EndpointAnswers",
    Trusted: "True Verified",
    Fresh: "True Current",
    Ready: "True AllWell",
  };
  const unseen = newKnowledge("uid-network", 0);
  const rows: readonly {
    name: string;
    knowledge: Knowledge;
    pin?: string;
    at?: number;
    says: Partial<typeof well>;
  }[] = [
    { name: "all is well", knowledge: good(), says: {} },
    {
      name: "nothing is known yet",
      knowledge: unseen,
      says: {
        Reachable: "Unknown NotYetKnown",
        Trusted: "Unknown NotYetKnown",
        Fresh: "Unknown NotYetKnown",
        Ready: "Unknown NotYetKnown",
      },
    },
    {
      name: "the root is missing from the start",
      knowledge: { ...unseen, findings: { root: finding("RootNotFound") } },
      says: {
        Reachable: "Unknown NotYetKnown",
        Trusted: "False RootNotFound",
        Fresh: "Unknown NotYetKnown",
        Ready: "False RootNotFound",
      },
    },
    {
      name: "the root went missing: the last good config is still fresh",
      knowledge: good({ findings: { root: finding("RootNotFound") } }),
      says: { Trusted: "False RootNotFound", Ready: "False RootNotFound" },
    },
    {
      name: "no endpoint answers: what was verified stays so",
      knowledge: good({ findings: { reach: finding("EndpointUnreachable") }, reached: undefined }),
      says: { Reachable: "False EndpointUnreachable", Ready: "False EndpointUnreachable" },
    },
    {
      name: "a release is refused",
      knowledge: good({ findings: { release: finding("SequenceWentBack") } }),
      says: { Trusted: "False SequenceWentBack", Ready: "False SequenceWentBack" },
    },
    {
      name: "the network has published nothing",
      knowledge: Object.assign(knowledgeOf(authority, undefined), {
        findings: { release: finding("NotYetKnown") },
      }),
      says: { Trusted: "Unknown NotYetKnown", Fresh: "Unknown NotYetKnown", Ready: "Unknown NotYetKnown" },
    },
    {
      name: "the snapshot is not the one that its digest names",
      knowledge: Object.assign(knowledgeOf(authority, release), {
        missed: new Map([[first.digest, { failures: 1, at: 9, finding: finding("SnapshotInvalid") }]]),
      }),
      says: {
        Trusted: "False SnapshotInvalid",
        Fresh: "Unknown NotYetKnown",
        Ready: "False SnapshotInvalid",
      },
    },
    {
      name: "the pin is not allowed",
      knowledge: good({ current: first.digest }),
      pin: second.digest,
      says: { Trusted: "False PinNotAllowed", Ready: "False PinNotAllowed" },
    },
    { name: "more than a quarter of its life is left", knowledge: good(), at: now + 22.4 * day, says: {} },
    {
      name: "a quarter is left: still well, and told",
      knowledge: good(),
      at: now + 22.5 * day,
      says: { Fresh: "True ExpiresSoon" },
    },
    {
      name: "it has expired",
      knowledge: good({ current: first.digest }),
      at: now + 30 * day,
      says: { Fresh: "False Expired", Ready: "False Expired" },
    },
    {
      name: "the account's key is missing",
      knowledge: good({ findings: { account: finding("AccountSecretNotFound") } }),
      says: { Ready: "False AccountSecretNotFound" },
    },
    {
      name: "a permission is missing",
      knowledge: good({ findings: { kube: finding("PermissionMissing") } }),
      says: { Ready: "False PermissionMissing" },
    },
    {
      name: "somebody else's ConfigMap has the name",
      knowledge: good({ configMap: { resourceVersion: "1", data: {}, ours: false } }),
      says: { Ready: "False SpecInvalid" },
    },
  ];
  test.each(rows)("$name", ({ knowledge, pin, at = now, says }) => {
    const { messages, ...told } = verdictsOf(observed({ knowledge, network: networkObject(pin), now: at }));
    expect(told).toEqual({ ...well, ...says });
    for (const { message } of Object.values(messages)) expect(message).not.toBe("");
  });

  test("Ready repeats reason and message of the first condition that is not well", () => {
    const knowledge = good({
      findings: { reach: finding("EndpointUnreachable"), release: finding("SequenceWentBack") },
    });
    expect(verdictsOf(observed({ knowledge })).messages.Ready).toMatchObject(finding("EndpointUnreachable"));
  });

  test("a network that refuses the account makes it not ready", () => {
    const refusal = { reason: "AccountSecretInvalid", message: "the feed answers 401" } as const;
    expect(verdictsOf(observed({ knowledge: good() }), refusal).Ready).toBe("False AccountSecretInvalid");
  });

  test("a digest for which there is no room waits, by name, with what it waits for", () => {
    const others = Array.from({ length: 16 }, (_, at) => authority.snapshot(`${at + 3}.0.0`));
    const all = [first, ...others].map(({ digest }) => ({ digest, expires: now + day }));
    const knowledge = knowledgeOf(authority, authority.release(first, { allowed: all }), [first, ...others]);
    knowledge.current = others[0]?.digest;
    const nodes = others.map(({ digest }) => node(digest, digest));
    const { Ready, messages } = verdictsOf(observed({ knowledge, nodes }));
    expect(Ready).toBe("False TooManyDigests");
    expect(messages.Ready.message).toContain(`config ${first.digest} waits`);
    for (const { digest } of others) expect(messages.Ready.message).toContain(digest);
  });
});

describe("the status", () => {
  test("is what the CRD allows, and counts the nodes", () => {
    const nodes = [node(undefined, undefined, true), node(undefined, undefined, false), node()];
    const status = statusOf(observed({ knowledge: good(), nodes }));
    expect(networkStatus.parse(status)).toEqual(status);
    expect(status).toMatchObject({
      observedGeneration: 1,
      config: {
        digest: first.digest,
        version: "1.0.0",
        releaseSequence: 1,
        releasedAt: "2026-01-01T00:00:00Z",
        expiresAt: "2026-01-31T00:00:00Z",
        runtimes: [{ engine: "openai" }],
        models: ["tiny"],
      },
      nodes: { total: 3, ready: 2, connected: 2 },
    });
  });

  test("computed twice from the same is the same, so nothing is written", () => {
    const status = statusOf(observed({ knowledge: good() }));
    expect(
      statusOf(observed({ knowledge: good(), network: networkObject(undefined, status), now: now + 1000 })),
    ).toEqual(status);
  });

  test("keeps the history of ten, newest first, each digest once", () => {
    const authority = makeAuthority();
    const versions = Array.from({ length: 12 }, (_, at) => authority.snapshot(`${at}.0.0`));
    const one = versions[0];
    let network = networkObject();
    for (const [at, version] of [...versions, ...(one ? [one] : [])].entries()) {
      const knowledge = knowledgeOf(authority, authority.release(version), [version]);
      network = networkObject(undefined, statusOf(observed({ knowledge, network, now: now + at * 60_000 })));
    }
    expect(network.status?.history?.map(({ version }) => Number.parseInt(version, 10))).toEqual([
      0, 11, 10, 9, 8, 7, 6, 5, 4, 3,
    ]);
    expect(network.status?.history?.[0]?.since).toBe("2026-01-01T00:12:00Z");
  });

  test("keeps the last config and never a lower sequence when there is none to move to", () => {
    const before = statusOf(observed({ knowledge: good() }));
    const knowledge = Object.assign(newKnowledge("uid-network", 7), { root: authority.root });
    expect(statusOf(observed({ knowledge, network: networkObject(undefined, before) })).config).toEqual({
      ...before.config,
      releaseSequence: 7,
    });
  });

  test("tells times beyond the year 9999 as its end", () => {
    const statement = authority.release(first, {
      allowed: [{ digest: first.digest, expires: Number.MAX_SAFE_INTEGER }],
    });
    const seen = observed({ knowledge: knowledgeOf(authority, statement, [first]) });
    expect(statusOf(seen).config?.expiresAt).toBe("9999-12-31T00:00:00Z");
  });

  test("is computed again when a quarter of the life is left, and at its end", () => {
    const seen = observed({ knowledge: good() });
    expect(turningPoints({ seen, plan: planNetwork(seen) })).toEqual([now + 22.5 * day, now + 30 * day]);
  });
});

describe("approval and maintenance windows", () => {
  const newer = authority.release(second, { sequence: 2 });
  const asking = (status?: Parameters<typeof networkObject>[1]) => {
    const network = networkObject(undefined, status);
    return {
      ...network,
      spec: { ...network.spec, config: { ...network.spec.config, apply: "Approve" as const } },
    };
  };
  const at = (knowledge: Knowledge) => Object.assign(knowledge, { current: first.digest });

  test("a config that waits is told with what it changes, and nodes stay", () => {
    const knowledge = at(knowledgeOf(authority, newer, [first, second]));
    const seen = observed({ knowledge, network: asking(statusOf(observed({ knowledge: good() }))) });
    const status = statusOf(seen);
    expect(networkStatus.parse(status)).toEqual(status);
    expect(status.config?.digest).toBe(first.digest);
    expect(status.pending).toMatchObject({ digest: second.digest, version: "2.0.0" });
    expect(verdictsOf(seen)).toMatchObject({ Fresh: "True ApprovalNeeded", Ready: "True AllWell" });
    expect(verdictsOf(seen).messages.Ready.message).toContain(
      "kubectl resultity approve testnet -n inference",
    );
  });

  test("its snapshot is fetched, or nobody could say what it changes", () => {
    const seen = observed({ knowledge: at(knowledgeOf(authority, newer, [first])), network: asking() });
    expect(planNetwork(seen).actions).toContainEqual({
      type: "fetch-snapshot",
      digest: second.digest,
      reason: "it waits for approval",
    });
  });

  test("a first config that waits makes the network not ready", () => {
    const seen = observed({ knowledge: good(), network: asking() });
    expect(verdictsOf(seen)).toMatchObject({ Fresh: "False ApprovalNeeded", Ready: "False ApprovalNeeded" });
  });

  test("windows are published with the config, looked at again when they open, and told when they never do", () => {
    const window = (schedule: string) => {
      const network = networkObject();
      const maintenanceWindows = [{ schedule, durationMinutes: 60, timeZone: "UTC" }];
      return {
        ...network,
        spec: { ...network.spec, config: { ...network.spec.config, maintenanceWindows } },
      };
    };
    const seen = observed({ knowledge: good(), network: window("0 2 * * *") });
    const plan = planNetwork(seen);
    expect(turningPoints({ seen, plan })).toContain(now + 2 * 3_600_000);
    expect(plan.actions).toContainEqual(
      expect.objectContaining({ type: "publish", config: expect.objectContaining({ mayRestart: false }) }),
    );
    expect(verdictsOf(observed({ knowledge: good(), network: window("0 0 31 2 *") })).Ready).toBe(
      "False SpecInvalid",
    );
  });
});
