import { openReceipt, verifyChain } from "../../src/protocol/receipt.ts";
import { terminalStates } from "../../src/io/store/port.ts";
import type { Request } from "./client.ts";
import type { Run } from "./engine.ts";
import type { SimNode } from "./node.ts";
import type { Scene } from "./scene.ts";
import { Violation } from "./world.ts";

/** Worlds up to here are watched until every penalty has decayed. */
const smallWorld = 12;
const lookEveryMs = 500;
const commentLine = /^:.*\n\n/gm;

/** When the faults have stopped everything must become well again by itself; then what was done is added up. */
export async function checkEnd(scene: Scene, withinMs: number): Promise<void> {
  const { world } = scene;
  scene.republish();
  const until = world.now + withinMs;
  while (world.now < until && notYet(scene) !== undefined) await world.run(world.now + lookEveryMs);
  const missing = notYet(scene);
  if (missing !== undefined)
    throw new Violation("I8", `${missing}, ${withinMs / 1000} s after the faults stopped`);
  await everyNodeIsOffered(scene);
  await jobsEnded(scene);
  const runs = runsByMark(scene);
  answersAreWhatEnginesSaid(scene, runs);
  await asyncJobsEnded(scene, runs);
  await receiptsAddUp(scene);
}

/** What is not well yet; undefined = all is. */
function notYet(scene: Scene): string | undefined {
  scene.republish();
  scene.unbanAll();
  const { io } = scene.service;
  if (!io) return "the service does not run";
  for (const node of scene.nodes) {
    const report = node.agent?.report();
    if (node.agent?.figures.connected !== true) return `${node.name} has no session`;
    if (report?.config.applied !== scene.releases.get(scene.newest)?.current)
      return `${node.name} does not run the current config`;
    if (!report?.load.accepting) return `${node.name} takes no jobs: ${report?.load.reason}`;
    if (node.agent.figures.held > 0) return `${node.name} holds a job`;
  }
  if (io.desk.live.size > 0) return `${io.desk.live.size} jobs are not over`;
  if (io.dispatch.unfinished > 0) return `${io.dispatch.unfinished} jobs are not over for dispatch`;
  for (const { open, consumer } of scene.clients) if (open > 0) return `${consumer} waits`;
  return undefined;
}

/** Penalties decay: a node that is well gets jobs again. As many jobs at once as there are nodes, so all are needed. */
async function everyNodeIsOffered(scene: Scene): Promise<void> {
  const { world, nodes, clients } = scene;
  if (nodes.length > smallWorld) return;
  const [client] = clients;
  const offered = new Set<SimNode>();
  const before = scene.witness.onSent;
  scene.witness.onSent = (frame) => {
    if (frame.kind === "offer") offered.add(frame.node);
  };
  for (let round = 0; round < 20 && offered.size < nodes.length; round++) {
    if (round > 0) await world.run(world.now + 60_000);
    for (const _ of nodes) client?.ask(false, { tokens: 3 });
    await world.run(world.now + 20_000, () => client?.open === 0);
  }
  scene.witness.onSent = before;
  const without = nodes.filter((node) => !offered.has(node)).map(({ name }) => name);
  if (without.length > 0)
    throw new Violation("F34", `${without.join(", ")} get no offers, 20 minutes after the faults stopped`);
  // What was told last is still on its way to the disk.
  const until = world.now + 60_000;
  while (world.now < until && notYet(scene) !== undefined) await world.run(world.now + lookEveryMs);
}

/** No job is lost: each that a client knows of, and each that the store knows of, has come to its one end. */
async function jobsEnded(scene: Scene): Promise<void> {
  const rows = new Map((await scene.service.disk.kept.jobs({ limit: 10_000 })).map((row) => [row.id, row]));
  for (const row of rows.values())
    if (!terminalStates.has(row.state)) throw new Violation("I2", `job ${row.id} is ${row.state} for ever`);
  const ids = new Set<string>();
  for (const request of scene.clients.flatMap(({ requests }) => requests)) {
    const { job, mark, status } = request;
    if (job === "") continue;
    if (ids.has(job)) throw new Violation("I2", `job ${job} answers two requests`);
    ids.add(job);
    const row = rows.get(job as never);
    // Between a client's answer and the disk lies a moment in which the service may die (docs/protocol.md).
    const serviceDied = request.serviceLife !== scene.service.lives;
    if (!row && !serviceDied) throw new Violation("I2", `job ${job} of ${mark} is not in the store`);
    const committed = row?.state === "COMMITTED" || row?.state === "CONFIRMED";
    if (isWhole(request) && status === 200 && !committed && !serviceDied)
      throw new Violation("I3", `${mark} was answered, and job ${job} is ${row?.state}`);
  }
}

/** Every asynchronous job that was taken has ended once, and its answer is what one engine has said. */
async function asyncJobsEnded(scene: Scene, runs: ReadonlyMap<string, readonly Run[]>): Promise<void> {
  const rows = new Map(
    (await scene.service.disk.kept.jobs({ limit: 10_000 })).map((row) => [String(row.id), row]),
  );
  const marks = new Map<string, string>();
  for (const { mark, job, status, result } of scene.clients.flatMap(({ asyncRequests }) => asyncRequests)) {
    const row = rows.get(job);
    if (!row?.durable) throw new Violation("I3", `job ${job} of ${mark} was taken, and is not in the store`);
    if (marks.has(job)) throw new Violation("I2", `${mark} and ${marks.get(job)} have one job`);
    marks.set(job, mark);
    const committed = row.state === "COMMITTED" || row.state === "CONFIRMED";
    if ((status === "completed") !== (committed && row.httpStatus === 200))
      throw new Violation("I2", `job ${job} is ${status} for its client, and ${row.state}`);
    const said = runs.get(mark)?.some(({ said: text, whole }) => whole && text === result?.text);
    if (status === "completed" && said !== true)
      throw new Violation("F19", `${mark} was answered what no engine said: ${result?.text.slice(0, 200)}`);
  }
  // A submission whose 202 was lost was sent again under its key: none has a second job.
  const durable = [...rows.values()].filter((row) => row.durable).length;
  if (durable !== marks.size)
    throw new Violation("I2", `${marks.size} asynchronous jobs were submitted, ${durable} are in the store`);
}

function isWhole({ state, status, stream, text }: Request): boolean {
  if (state !== "ended" || status !== 200) return false;
  return !stream || text.endsWith("data: [DONE]\n\n");
}

/** What engines have said, by the mark of the request. */
function runsByMark(scene: Scene): ReadonlyMap<string, readonly Run[]> {
  const runs = new Map<string, Run[]>();
  for (const { engine } of scene.nodes)
    for (const run of engine.runs) {
      const known = runs.get(run.mark);
      if (known) known.push(run);
      else runs.set(run.mark, [run]);
    }
  return runs;
}

/** What a client has read is what one engine has said, from its beginning, and all of it if it was told so. */
function answersAreWhatEnginesSaid(scene: Scene, runs: ReadonlyMap<string, readonly Run[]>): void {
  for (const request of scene.clients.flatMap(({ requests }) => requests)) {
    const { mark, status, stream, state } = request;
    const of = runs.get(mark) ?? [];
    if (status !== 200) continue;
    if (!stream) {
      if (state === "ended" && !of.some(({ said, whole }) => whole && said === request.text))
        throw new Violation("F39", `${mark} was answered what no engine said: ${request.text.slice(0, 200)}`);
      continue;
    }
    const { data, error } = eventsOf(request.text);
    const source = of.find(({ said }) => said.startsWith(data));
    if (!source && data === "") continue;
    if (!source) throw new Violation("F39", `${mark} read what no engine said: ${data.slice(-200)}`);
    const done = data.endsWith("data: [DONE]\n\n");
    if (done && !(source.whole && source.said === data))
      throw new Violation("F39", `${mark} read [DONE] before the end`);
    if (state === "ended" && !done && !error)
      throw new Violation("F39", `${mark}: the stream ended without [DONE] and without an error`);
    if (done && error) throw new Violation("F39", `${mark} read an error after [DONE]`);
  }
}

/** Takes keep-alives and the service's own last event out of a stream. */
function eventsOf(text: string): { readonly data: string; readonly error: boolean } {
  const plain = text.replaceAll(commentLine, "");
  const at = plain.lastIndexOf('data: {"error"');
  return at === -1 ? { data: plain, error: false } : { data: plain.slice(0, at), error: true };
}

/** Every account's chain verifies, has a link for each committed job and none else, and sums to what the jobs say. */
async function receiptsAddUp(scene: Scene): Promise<void> {
  const { kept } = scene.service.disk;
  const { network, nodes } = scene;
  const byNode = new Map(nodes.map((node) => [String(node.nodeId), node]));
  const rows = await kept.jobs({ limit: 10_000 });
  const state = new Map(rows.map((row) => [row.id, row]));
  const links = new Set<string>();
  const perNode = new Map<string, number>();
  for (const [account] of scene.accounts) {
    const receipts = await kept.receipts(account, 1, 100_000);
    const chain = verifyChain(
      receipts.map(({ countersign }) => countersign),
      network.service,
    );
    receipts.forEach(({ job, node, attempt }, at) => {
      const link = chain[at];
      const signer = byNode.get(node);
      const row = state.get(job);
      if (!link || !signer || !row) throw new Violation("I2", `the receipt of ${job} has no job or no node`);
      const receipt = openReceipt(link.receipt, signer.key);
      if (receipt.job !== job || receipt.attempt !== attempt || receipt.node_id !== node)
        throw new Violation("I4", `the receipt of ${job} is for another job, attempt or node`);
      if (receipt.network !== network.name)
        throw new Violation("I5", `the receipt of ${job} is of ${receipt.network}`);
      if (
        row.promptTokens !== link.metered.prompt_tokens ||
        row.completionTokens !== link.metered.completion_tokens
      )
        throw new Violation("I2", `the receipt of ${job} and the job differ in tokens`);
      links.add(job);
      perNode.set(node, (perNode.get(node) ?? 0) + 1);
    });
  }
  for (const { id, state: end, outcome } of rows) {
    const earned =
      end === "COMMITTED" || end === "CONFIRMED" || (end === "INTERRUPTED" && outcome === "failed");
    if (earned !== links.has(id)) throw new Violation("I2", `job ${id} is ${end}, receipt: ${links.has(id)}`);
  }
  for (const { nodeId, jobsCommitted } of (await kept.load()).nodes)
    if (jobsCommitted !== (perNode.get(nodeId) ?? 0))
      throw new Violation(
        "I2",
        `node ${nodeId} counts ${jobsCommitted} commits, receipts say ${perNode.get(nodeId)}`,
      );
  for (const node of nodes) for (const countersign of node.earned) verifyEarned(scene, node, countersign);
  for (const job of links) scene.committed.add(job);
}

/** What an agent has been given as earned is in its account's chain. */
function verifyEarned(scene: Scene, node: SimNode, countersign: string): void {
  if (!scene.service.disk.hasReceipt(countersign))
    throw new Violation("I3", `${node.name} was given a receipt that is in no chain`);
}
