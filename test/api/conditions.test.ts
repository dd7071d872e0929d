import { expect, test } from "vitest";
import {
  findCondition,
  isTrue,
  maxMessageLength,
  setCondition,
  type Condition,
  type NodeConditionType,
} from "../../src/api/v1alpha1/conditions.ts";

const t0 = Date.UTC(2030, 0, 1, 12, 0, 0, 789);
const ready = {
  type: "Ready",
  status: "True",
  reason: "AllWell",
  message: "",
  observedGeneration: 1,
} as const;
const none: readonly Condition<NodeConditionType>[] = [];

test("a new condition is added with the time of its transition in whole seconds", () => {
  expect(setCondition(none, ready, t0)).toEqual([{ ...ready, lastTransitionTime: "2030-01-01T12:00:00Z" }]);
});

test("lastTransitionTime stays when reason, message or generation change and moves when status does", () => {
  const first = setCondition(none, ready, t0);
  const second = setCondition(first, { ...ready, reason: "Other", observedGeneration: 2 }, t0 + 60_000);
  expect(second).toEqual([
    { ...ready, reason: "Other", observedGeneration: 2, lastTransitionTime: "2030-01-01T12:00:00Z" },
  ]);
  const third = setCondition(second, { ...ready, status: "Unknown" }, t0 + 120_000);
  expect(third[0]?.lastTransitionTime).toBe("2030-01-01T12:02:00Z");
});

test("what is the same answers the list itself, so that nobody writes it", () => {
  const list = setCondition(none, ready, t0);
  expect(setCondition(list, ready, t0 + 60_000)).toBe(list);
});

test("other conditions keep their place and content, and the given list is not changed", () => {
  const list = setCondition(setCondition(none, ready, t0), { ...ready, type: "Connected" }, t0);
  const before = structuredClone(list);
  const next = setCondition(list, { ...ready, status: "False" }, t0);
  expect(list).toEqual(before);
  expect(next.map(({ type }) => type)).toEqual(["Ready", "Connected"]);
  expect(next[1]).toBe(list[1]);
});

test("a message over the bound is cut, and cut the same each time", () => {
  const list = setCondition(none, { ...ready, message: "x".repeat(maxMessageLength + 1) }, t0);
  expect(list[0]?.message).toHaveLength(maxMessageLength);
  expect(setCondition(list, { ...ready, message: "x".repeat(maxMessageLength + 1) }, t0)).toBe(list);
});

test("a condition that nobody has set is neither found nor true", () => {
  const list = setCondition(none, ready, t0);
  expect(findCondition(undefined, "Ready")).toBeUndefined();
  expect(isTrue(list, "Connected")).toBe(false);
  expect(isTrue(list, "Ready")).toBe(true);
});
