import type { ResultityNodePool } from "../api/v1alpha1/pool.ts";
import type { KubeObject } from "../kube/object.ts";
import type { Resource } from "../kube/resources.ts";
import { approve, type Change, follow, park, pause, promote, undo } from "./change.ts";
import { findOne, findSubject } from "./find.ts";
import type { Options } from "./options.ts";
import { isRefused, type PlansView, planOf, planOfChanges } from "./plan/command.ts";
import { readChanges } from "./plan/manifest.ts";
import { renderPlans } from "./plan/render.ts";
import { listAll, type Reader, readEvents, readPod, readPool, type Writer } from "./read.ts";
import { networks, nodes, pools } from "./resources.ts";
import { historyView, renderHistory, renderRollout, rolloutView } from "./rollout.ts";
import { renderStatus } from "./status/render.ts";
import { narrow, statusView } from "./status/view.ts";
import type { Subject } from "./subject.ts";
import type { Screen } from "./text/screen.ts";
import { whyNetwork } from "./why/network.ts";
import { whyNode } from "./why/node.ts";
import { whyPool } from "./why/pool.ts";
import { renderWhy } from "./why/render.ts";
import type { WhyView } from "./why/view.ts";

/** What every command works with. */
export interface Session {
  readonly reader: Reader;
  readonly writer: Writer;
  /** Of the objects, where the command is not about all namespaces. */
  readonly namespace: string;
  /** Wall time, ms. */
  readonly now: number;
  readonly screen: Screen;
  /** Text of a file, `-` for standard input. */
  readonly readFile: (path: string) => Promise<string>;
}

/** What a command has to say. */
export interface Answer {
  /** For stdout. */
  readonly text: string;
  /** For stderr: that there is nothing to show, as kubectl says it. */
  readonly remark?: string;
  /** Exit code, where it is not 0. */
  readonly code?: 1;
}

/** Runs one command. @throws CliError, KubeError */
export async function run(options: Options, session: Session): Promise<Answer> {
  const { command, subject, output } = options;
  if (command === "status") return status(options, session);
  if (options.file !== undefined) {
    const changes = await readChanges(await session.readFile(options.file), session.namespace, session);
    return planAnswer(await planOfChanges(session.reader, changes, session.now), output, session.screen);
  }
  if (!subject) throw new Error(`${command} was given no object`);
  const { reader, namespace, now, screen } = session;
  switch (command) {
    case "plan": {
      const view = await planOf(reader, subject, options.digest, namespace, now);
      return planAnswer(view, output, screen);
    }
    case "approve": {
      const network = await findOne(reader, subject, namespace, networks);
      return make(approve(network, options.digest), networks, network, session);
    }
    case "park":
    case "unpark": {
      const node = await findOne(reader, subject, namespace, nodes);
      return make(park(node, command === "park"), nodes, node, session);
    }
    case "rollout":
      return rollout(options, await findOne(reader, subject, namespace, pools), session);
    case "why":
      break;
    default:
      command satisfies never;
  }
  const view = await why(subject, session);
  return output === "json" ? json(view) : { text: renderWhy(view, { now, screen }) };
}

async function rollout(
  { verb, digest, output }: Options,
  pool: ResultityNodePool,
  session: Session,
): Promise<Answer> {
  const { reader, namespace, now, screen } = session;
  const name = pool.spec.template.spec.networkRef.name;
  const network = await reader.find(networks, { namespace, name });
  switch (verb) {
    case "pause":
    case "resume":
      return make(pause(pool, verb === "pause"), pools, pool, session);
    case "undo":
      return make(undo(pool, network, digest), pools, pool, session);
    case "promote":
      return make(promote(pool, network), pools, pool, session);
    case "follow":
      return make(follow(pool, network), pools, pool, session);
    case "history": {
      const view = historyView(pool, network);
      return output === "json" ? json(view) : { text: renderHistory(view, { now, screen }) };
    }
    case "status":
    case undefined: {
      const view = rolloutView(pool);
      return output === "json" ? json(view) : { text: renderRollout(view, now) };
    }
  }
}

/** Writes one field, or nothing where all is as asked. @throws KubeError */
async function make<T extends KubeObject>(
  { patch, says }: Change,
  resource: Resource<T>,
  object: T,
  { writer }: Session,
): Promise<Answer> {
  const { namespace, name } = object.metadata;
  if (patch.length > 0) await writer.jsonPatch(resource, { namespace, name }, patch);
  return { text: says };
}

async function status(
  { subject, allNamespaces, output }: Options,
  { reader, namespace, now, screen }: Session,
): Promise<Answer> {
  const listed = await listAll(reader, allNamespaces ? undefined : namespace);
  const view = statusView(subject ? narrow(listed, subject, namespace) : listed);
  if (output === "json") return json(view);
  if (view.networks.length + view.pools.length + view.nodes.length > 0) {
    return { text: renderStatus(view, { now, allNamespaces, screen }) };
  }
  const remark = allNamespaces
    ? "No networks, pools or nodes found."
    : `No networks, pools or nodes found in namespace ${namespace}: -n chooses another, -A shows all.`;
  return { text: "", remark };
}

async function why(subject: Subject, { reader, namespace, now }: Session): Promise<WhyView> {
  const found = await findSubject(reader, subject, namespace);
  const events = readEvents(reader, found.metadata);
  switch (found.kind) {
    case "ResultityNetwork": {
      const { items } = await reader.list(nodes, { namespace });
      return whyNetwork(found, items, await events, now);
    }
    case "ResultityNodePool":
      return whyPool(found, await readPool(reader, found, now), await events);
    case "ResultityNode": {
      const [network, pod] = await Promise.all([
        reader.find(networks, { namespace, name: found.spec.networkRef.name }),
        readPod(reader, found),
      ]);
      return whyNode({ node: found, network, pod, events: await events, now });
    }
  }
}

function planAnswer(view: PlansView, output: Options["output"], screen: Screen): Answer {
  const answer = output === "json" ? json(view) : { text: renderPlans(view, screen) };
  return isRefused(view) ? { ...answer, code: 1 } : answer;
}

function json(view: object): Answer {
  return { text: JSON.stringify(view, undefined, 2) };
}
