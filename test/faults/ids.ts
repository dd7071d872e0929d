/**
 * The faults and bad inputs that the system is held against: F01–F47 are faults of its surroundings, B01–B34 what a peer may
 * send. Each has tests whose names begin with its id; `npm run faults` prints what they say.
 */

const range = (letter: "F" | "B", first: number, last: number): string[] =>
  Array.from({ length: last - first + 1 }, (_, at) => `${letter}${String(first + at).padStart(2, "0")}`);

/** Every id there is, in the order of the table. */
export const faultIds: readonly string[] = [...range("F", 1, 47), ...range("B", 1, 34)];

/** Ids that must have a passing test by now, by the part of the work that they belong to. A further part adds its own. */
const dueByPart: Readonly<Record<string, readonly string[]>> = {
  "protocol and agent": [
    ...range("F", 19, 27),
    ...range("F", 38, 40),
    "F43",
    "F45",
    ...range("B", 1, 25),
    ...range("B", 31, 34),
  ],
  operator: [...range("F", 1, 18), "F41", "F42", "F44", "F46", "F47", ...range("B", 26, 29)],
};

export const dueFaultIds: ReadonlySet<string> = new Set(Object.values(dueByPart).flat());
