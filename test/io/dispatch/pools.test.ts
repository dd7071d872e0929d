import { expect, it } from "vitest";
import { DispatchNode } from "../../../src/io/dispatch/node.ts";
import { relist } from "../../../src/io/dispatch/placing.ts";
import { DispatchState } from "../../../src/io/dispatch/state.ts";
import { dispatchDefaults } from "../../../src/io/dispatch/types.ts";
import { nodeId, report } from "./floor.ts";

it("a node that names other models with each report leaves no trace of those before", () => {
  const state = new DispatchState(dispatchDefaults, { number: () => 0, token: () => "t" });
  const [node, other] = ["n1", "n2"].map((name) => new DispatchNode(nodeId(name), "acme"));
  if (!node || !other) throw new Error("no nodes");
  Object.assign(node, { connected: true, resumed: true });
  Object.assign(other, { connected: true, resumed: true, report: report({ models: ["m"] }) });
  relist(state, other);
  for (let at = 0; at < 100; at++) {
    node.report = report({ models: ["m", `m${at}`] });
    relist(state, node);
  }
  expect([...state.pools.keys()]).toEqual(["m", "m99"]);
  node.connected = false;
  relist(state, node);
  expect([...state.pools.keys()]).toEqual(["m"]);
});
