import { describe, expect, it } from "vitest";
import { renderStatus } from "../../src/cli/status/render.ts";
import { type Listed, narrow, statusView } from "../../src/cli/status/view.ts";
import { plainScreen, terminal } from "../../src/cli/text/screen.ts";
import { makePool } from "../operator/pool/fleet.ts";
import { condition, controlledBy, digest, network, node, now } from "./objects.ts";

const chat = {
  ...makePool({ replicas: 2 }),
  status: {
    observedGeneration: 1,
    readyReplicas: 2,
    availableReplicas: 1,
    updatedReplicas: 1,
    rollout: {
      target: digest("b"),
      updated: 1,
      total: 2,
      waitingOn: { node: "chat-1", reason: "ImagePullFailed: no such image", since: "2026-01-01T00:30:00Z" },
    },
    conditions: [condition("Ready", "False WaitingForNode: chat-1 cannot go on")],
  },
};
const image = `registry.example/engine@${digest("e")}`;
const listed: Listed = {
  networks: [
    network("True AllWell: nodes move to it", {
      config: {
        digest: digest("b"),
        version: "2.0",
        releaseSequence: 7,
        expiresAt: "2026-01-04T01:00:00Z",
      },
      nodes: { total: 3, ready: 1, connected: 2 },
    }),
  ],
  pools: [chat],
  nodes: [
    node("solo", "False Parked: parked: spec.replicas is 0", {}),
    controlledBy(
      chat,
      node(
        "chat-10",
        "True AllWell: it serves",
        {
          hostName: "host-1",
          config: { target: digest("b"), applied: digest("b") },
          runtime: { engine: "openai", image },
        },
        { Connected: "True SessionOpen" },
      ),
    ),
    controlledBy(
      chat,
      node(
        "chat-2",
        `False ImagePullFailed: image ${image} cannot be pulled`,
        { config: { target: digest("b"), applied: digest("a") } },
        { Connected: "False SessionClosed" },
      ),
    ),
  ],
};
const render = (some: Listed, options: { allNamespaces?: boolean } = {}) =>
  renderStatus(statusView(some), { now, allNamespaces: false, screen: plainScreen, ...options });

describe("status", () => {
  it("tells of networks, pools and nodes whether each is well, and if not why", () => {
    expect(render(listed)).toBe(
      `Networks
NAME     ENVIRONMENT  CONFIG        VERSION  RELEASE  EXPIRES  NODES-READY  READY  SINCE  WHY
testnet  Testnet      bbbbbbbbbbbb  2.0      7        in 3d    1/3          True   60m    AllWell

Pools
NAME  NODES-READY  AVAILABLE  UPDATED  WANTED  TARGET        WAITING-ON  WAITING-SINCE  READY  SINCE  WHY
chat  2            1          1        2       bbbbbbbbbbbb  chat-1      30m            False  60m    WaitingForNode: chat-1 cannot go on

Nodes
NAME     HOST    ENGINE  IMAGE         TARGET        APPLIED       CONNECTED  READY  SINCE  WHY
chat-2   -       openai  -             bbbbbbbbbbbb  aaaaaaaaaaaa  False      False  60m    ImagePullFailed: image registry.example/engine@eeeeeeeeeeee cannot be pulled
chat-10  host-1  openai  eeeeeeeeeeee  bbbbbbbbbbbb  bbbbbbbbbbbb  True       True   60m    AllWell
solo     -       openai  -             -             -             Unknown    False  60m    Parked: parked: spec.replicas is 0`,
    );
  });

  it("counts those that are parked beside those that are wanted", () => {
    const pools = [{ ...chat, status: { ...chat.status, parkedReplicas: 1 } }];
    expect(render({ networks: [], pools, nodes: [] })).toMatch(/chat +2 +1 +1 +2 \(1 parked\) +bbbbbbbbbbbb/);
  });

  it("says when the operator has not looked, or not at the newest spec", () => {
    const { status: _, ...fresh } = node("fresh", "True AllWell");
    const edited = node("edited", "True AllWell", { observedGeneration: 0 });
    const text = render({ networks: [], pools: [], nodes: [fresh, edited] });
    expect(text).toMatch(/fresh +openai +Unknown +Unknown +- +NotReported: the operator has not looked/);
    expect(text).toMatch(/edited .* AllWell \(the operator has not seen the newest spec yet\)/);
  });

  it("adds the namespace where it is about all of them", () => {
    expect(render(listed, { allNamespaces: true })).toMatch(/NAMESPACE +NAME.*\ninference +testnet/);
  });

  it("shows on a screen those that are not well before the others, and how many it leaves out", () => {
    const many = Array.from({ length: 60 }, (_, at) =>
      node(`n-${at}`, at === 57 ? "False EngineFailed: it does not start" : "True AllWell"),
    );
    const view = statusView({ networks: [], pools: [], nodes: many });
    const options = { now, allNamespaces: false };
    const text = renderStatus(view, { ...options, screen: terminal(120, { colours: false }) });
    expect(text).toContain("EngineFailed");
    expect(text).toContain("… and 20 more nodes, all Ready");
    expect(text.split("\n").length).toBeLessThan(50);
    expect(renderStatus(view, { ...options, screen: plainScreen })).toContain("n-59");
  });
});

describe("status NAME", () => {
  const names = ({ networks, pools, nodes }: Listed) =>
    [...networks, ...pools, ...nodes].map(({ metadata }) => metadata.name);
  it.each([
    [{ kind: undefined, name: "testnet" }, ["testnet", "chat", "solo", "chat-10", "chat-2"]],
    [{ kind: undefined, name: "chat" }, ["testnet", "chat", "chat-10", "chat-2"]],
    [{ kind: undefined, name: "chat-2" }, ["testnet", "chat", "chat-2"]],
    [{ kind: "ResultityNode" as const, name: "solo" }, ["testnet", "solo"]],
  ])("%j: it and what belongs to it", (subject, expected) => {
    expect(names(narrow(listed, subject, "inference"))).toEqual(expected);
  });

  it("names object, namespace and the way out when there is none", () => {
    expect(() => narrow(listed, { kind: undefined, name: "chta" }, "inference")).toThrow(
      'there is no network, pool or node "chta" in namespace inference: "kubectl resultity status -n inference" shows',
    );
    expect(() => narrow(listed, { kind: "ResultityNodePool", name: "solo" }, "inference")).toThrow(
      "there is no rpool/solo",
    );
  });
});
