/** `npm run rollout -- [--nodes N] [--clients N] [--max-unavailable N]`: the rollout under faults, with what it cost. */
import { parseArgs } from "node:util";
import { buildBundles } from "../build.ts";
import { rolloutUnderFaults } from "./story.ts";

const { values } = parseArgs({
  options: {
    nodes: { type: "string", default: "200" },
    clients: { type: "string", default: "24" },
    "max-unavailable": { type: "string" },
  },
});
await buildBundles();
const began = performance.now();
const report = await rolloutUnderFaults({
  nodes: Number(values.nodes),
  clients: Number(values.clients),
  ...(values["max-unavailable"] === undefined ? {} : { maxUnavailable: Number(values["max-unavailable"]) }),
  log: (line) => console.log(`${((performance.now() - began) / 1000).toFixed(1)} ${line}`),
});
const { capacity, jobs } = report;
const { problems, mostByOperator, mostByFault, lowest } = capacity;
const told = { ...report, capacity: { problems, mostByOperator, mostByFault, lowest } };
console.log(
  JSON.stringify(
    { ...told, jobs: { ...jobs, retried: jobs.retried.length, interrupted: jobs.interrupted.length } },
    null,
    2,
  ),
);
const all = [
  ...problems,
  ...jobs.problems,
  ...report.starts.problems,
  ...report.pods,
  ...report.wentForNothing,
  ...report.writesAfter,
];
process.exitCode = all.length > 0 ? 1 : 0;
