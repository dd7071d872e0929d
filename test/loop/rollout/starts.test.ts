import { describe, expect, it } from "vitest";
import { judgeStarts, type Start, type Story } from "./starts.ts";

const story: Story = {
  images: ["v1", "v2", "v3"],
  given: new Map([
    ["b", 10_900],
    ["late", 21_000],
    ["lost", 29_000],
  ]),
  turned: new Map(["a", "b", "late", "killed", "lost"].map((name) => [name, 10_000])),
  agentKills: new Map([["killed", 1]]),
  lost: { nodes: new Set(["lost"]), backAt: 20_000 },
};

/** A runtime that was started with these images at these times, its engine each time, its agent once. */
const node = (name: string, runs: readonly (readonly [string, number])[], agents = 1): Start[] => [
  ...runs.flatMap(([image, at]): Start[] => [
    { node: name, program: "runtime", image, at },
    { node: name, program: "engine", image, at: at + 1 },
  ]),
  ...Array.from({ length: agents }, (): Start => ({ node: name, program: "agent", image: "agent", at: 0 })),
];

const judge = (...starts: readonly Start[][]) =>
  judgeStarts([...new Set(starts.flat().map((start) => start.node))], starts.flat(), story);

describe("the starts of a roll", () => {
  it("may be one for each image on the way, one for a boot, one for a kill", () => {
    const report = judge(
      node("a", [
        ["v1", 1],
        ["v3", 12_000],
      ]),
      node("b", [
        ["v1", 1],
        ["v2", 5_000],
        ["v3", 12_000],
      ]),
      node(
        "killed",
        [
          ["v1", 1],
          ["v3", 12_000],
        ],
        2,
      ),
      node(
        "lost",
        [
          ["v1", 1],
          ["v1", 20_001],
          ["v3", 22_000],
        ],
        2,
      ),
    );
    expect(report).toEqual({ straight: 3, twice: 1, problems: [] });
  });

  it.each([
    [
      "a second start of an image",
      node("a", [
        ["v1", 1],
        ["v1", 2],
        ["v3", 3],
      ]),
      "first was started again at 2",
    ],
    [
      "a way by the target that was given up",
      node("late", [
        ["v1", 1],
        ["v2", 16_001],
        ["v3", 17_000],
      ]),
      "it was given the first target's image 11000 ms after it was told of the second",
    ],
    [
      "a roll that did not end",
      node("a", [
        ["v1", 1],
        ["v2", 2],
      ]),
      "its runtime went first → between",
    ],
    [
      "an agent's restart",
      node(
        "a",
        [
          ["v1", 1],
          ["v3", 2],
        ],
        2,
      ),
      "its agent was started 2 times, 1 had to be",
    ],
    [
      "an engine's restart",
      [
        ...node("a", [
          ["v1", 1],
          ["v3", 2],
        ]),
        { node: "a", program: "engine", image: "v3", at: 3 } as const,
      ],
      "its engine was started 3 times in 2 runs of the container",
    ],
    [
      "a second start after a boot",
      node(
        "lost",
        [
          ["v1", 1],
          ["v1", 20_001],
          ["v1", 20_002],
          ["v3", 3e4],
        ],
        2,
      ),
      "first was started again at 20002",
    ],
  ])("may not be %s", (_what, starts, said) => {
    expect(judge(starts).problems).toEqual([`${starts[0]?.node}: ${said}`]);
  });
});
