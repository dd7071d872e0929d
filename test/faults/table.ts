/**
 * The table of faults, derived from a report of vitest's JSON reporter and nothing else. What a test's name says:
 *
 * - it begins with the ids that it shows: `F24 …`, `B18 B19 …`; so may the name of a `describe` around it;
 * - `[×20]`: the fault is injected so often within this one test;
 * - `[time ×1/60]`: times are shortened by that factor.
 */

/** As much of the reporter's file as is read here. */
export interface Report {
  readonly testResults: readonly {
    /** Path of the file. */
    readonly name: string;
    readonly status: string;
    readonly message?: string;
    readonly assertionResults: readonly ReportedTest[];
  }[];
}

/** A test of a report. */
export interface ReportedTest {
  readonly ancestorTitles: readonly string[];
  readonly title: string;
  readonly fullName: string;
  /** `passed`, `failed`, or a word for one that did not run. */
  readonly status: string;
}

/** One line of the table. */
export interface FaultRow {
  readonly id: string;
  readonly due: boolean;
  /** `none`: no test that injects it into the real component has run. */
  readonly outcome: "passed" | "failed" | "none";
  /** How often the fault was injected into the real component, and how often into a part of it. */
  readonly tried: number;
  readonly triedInParts: number;
  /** Factors by which times were shortened, such as `1/60`. */
  readonly timeFactors: readonly string[];
  /** Tests of it that failed. */
  readonly failed: readonly string[];
}

/** Tests of real processes and sockets are in this folder; those elsewhere show parts. */
const realFolder = "/test/integration/";

/** Ids with which a title begins. */
export function idsOf(title: string): string[] {
  const head = /^(?:[FB]\d{2}[:,]? +)*/.exec(`${title} `)?.[0] ?? "";
  return head.match(/[FB]\d{2}/g) ?? [];
}

/** The table: a row for each of `ids`, in their order. */
export function faultTable(report: Report, ids: readonly string[], due: ReadonlySet<string>): FaultRow[] {
  const tests = report.testResults.flatMap(({ name, assertionResults }) =>
    assertionResults
      .filter(({ status }) => status === "passed" || status === "failed")
      .map((test) => ({
        ...test,
        real: name.replaceAll("\\", "/").includes(realFolder),
        ids: new Set([...test.ancestorTitles, test.title].flatMap(idsOf)),
      })),
  );
  return ids.map((id) => {
    const own = tests.filter((test) => test.ids.has(id));
    const real = own.filter((test) => test.real);
    const failed = own.filter(({ status }) => status === "failed").map(({ fullName }) => fullName);
    const outcome = failed.length > 0 ? "failed" : real.length > 0 ? "passed" : "none";
    return {
      id,
      due: due.has(id),
      outcome,
      tried: timesOf(real),
      triedInParts: timesOf(own.filter((test) => !test.real)),
      timeFactors: [...new Set(own.flatMap(({ fullName }) => factorsIn(fullName)))],
      failed,
    };
  });
}

const timesOf = (tests: readonly ReportedTest[]): number =>
  tests.reduce((sum, { title }) => sum + Number(/\[×(\d+)\]/.exec(title)?.[1] ?? 1), 0);

const factorsIn = (name: string): string[] =>
  [...name.matchAll(/\[time ×(1\/\d+)\]/g)].map(([, factor = ""]) => factor);

/** A row as people read it. */
export function faultLine({ id, due, outcome, tried, triedInParts, timeFactors }: FaultRow): string {
  const what = due ? outcome : outcome === "none" ? "not due" : `not due, ${outcome}`;
  const times = [
    ...(tried > 0 ? [`tried ${tried}×`] : []),
    ...(triedInParts > 0 ? [`in parts ${triedInParts}×`] : []),
    ...timeFactors.map((factor) => `time ×${factor}`),
  ];
  return `${id}  ${what.padEnd(16)}${times.join(", ")}`.trimEnd();
}

/** Due ids that no test has injected into the real component, each with what is missing. */
export function untriedFaults(rows: readonly FaultRow[]): string[] {
  return rows
    .filter(({ due, tried }) => due && tried === 0)
    .map(({ id }) => `${id} is due, and no test in test/integration whose name begins with it has run`);
}

/** What is wrong with a table: due ids that were not tried, and failures. */
export function faultProblems(rows: readonly FaultRow[]): string[] {
  return [
    ...rows.flatMap(({ id, failed }) => failed.map((name) => `${id} failed: ${name}`)),
    ...untriedFaults(rows),
  ];
}
