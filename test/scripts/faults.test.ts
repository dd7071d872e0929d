import { describe, expect, it } from "vitest";
import { dueFaultIds, faultIds } from "../faults/ids.ts";
import { faultLine, faultProblems, faultTable, idsOf, type Report } from "../faults/table.ts";

/** A report with one file per entry: path → tests as `[title, status]`, a title with ` > ` being one in a `describe`. */
function reportOf(files: Readonly<Record<string, readonly (readonly [string, string])[]>>): Report {
  return {
    testResults: Object.entries(files).map(([name, tests]) => ({
      name: `/somewhere/test/${name}`,
      status: tests.some(([, status]) => status === "failed") ? "failed" : "passed",
      assertionResults: tests.map(([text, status]) => {
        const titles = text.split(" > ");
        return {
          ancestorTitles: titles.slice(0, -1),
          title: titles.at(-1) ?? "",
          fullName: titles.join(" "),
          status,
        };
      }),
    })),
  };
}

const due = new Set(["F19", "F20", "B01"]);
const ids = ["F01", "F19", "F20", "B01"];

describe("the table of faults", () => {
  it.each([
    ["F24 a late result", ["F24"]],
    ["F24: a late result", ["F24"]],
    ["B18, B19 fragments", ["B18", "B19"]],
    ["B18 B19 fragments", ["B18", "B19"]],
    ["F24", ["F24"]],
    ["after F24 and B01", []],
    ["F240 is none", []],
    ["refused (B07)", []],
  ])("reads the ids of %j", (title, expected) => {
    expect(idsOf(title)).toEqual(expected);
  });

  it("counts tests, their repetitions and their factors", () => {
    const rows = faultTable(
      reportOf({
        "integration/a.test.ts": [
          ["F19 killed once", "passed"],
          ["F19 killed often [×30]", "passed"],
          ["F20 B01 > slower [time ×1/60]", "passed"],
          ["an unrelated one", "failed"],
        ],
        "agent/b.test.ts": [["F19 a part", "passed"]],
      }),
      ids,
      due,
    );
    expect(rows.map(faultLine)).toEqual([
      "F01  not due",
      "F19  passed          tried 31×, in parts 1×",
      "F20  passed          tried 1×, time ×1/60",
      "B01  passed          tried 1×, time ×1/60",
    ]);
    expect(faultProblems(rows)).toEqual([]);
  });

  it("says which due ids were not tried: skipped tests and tests of a part alone do not count", () => {
    const rows = faultTable(
      reportOf({
        "integration/a.test.ts": [
          ["F19 skipped", "skipped"],
          ["B01 fine", "passed"],
        ],
        "agent/b.test.ts": [["F20 a part", "passed"]],
      }),
      ids,
      due,
    );
    expect(rows.map(({ outcome }) => outcome)).toEqual(["none", "none", "none", "passed"]);
    expect(faultProblems(rows).map((problem) => problem.slice(0, 10))).toEqual(["F19 is due", "F20 is due"]);
  });

  it("says what failed, also where another test of the id passed, and of ids that are not due", () => {
    const rows = faultTable(
      reportOf({
        "integration/a.test.ts": [
          ["F19 well", "passed"],
          ["F19 badly", "failed"],
          ["F20 well", "passed"],
          ["B01 well", "passed"],
          ["F01 badly", "failed"],
        ],
      }),
      ids,
      due,
    );
    expect(faultProblems(rows)).toEqual(["F01 failed: F01 badly", "F19 failed: F19 badly"]);
    expect(faultLine(rows[0] ?? expect.fail())).toBe("F01  not due, failed tried 1×");
  });

  it("has a row for every id once, and every due id is one of them", () => {
    expect(faultIds).toHaveLength(81);
    expect(new Set(faultIds).size).toBe(81);
    expect([...dueFaultIds].filter((id) => !faultIds.includes(id))).toEqual([]);
  });
});
