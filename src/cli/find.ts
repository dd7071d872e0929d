import { kinds, networkKind, nodeKind, poolKind } from "../api/v1alpha1/kinds.ts";
import type { ResultityNetwork } from "../api/v1alpha1/network.ts";
import type { ResultityNode } from "../api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../api/v1alpha1/pool.ts";
import type { Resource } from "../kube/resources.ts";
import { CliError } from "./errors.ts";
import type { Reader } from "./read.ts";
import { networks, nodes, pools } from "./resources.ts";
import { notFound } from "./status/view.ts";
import { type Subject, shortRef } from "./subject.ts";

/** An object that a name means. */
export type Found = ResultityNetwork | ResultityNode | ResultityNodePool;

/** The one object that the subject means. @throws CliError NotFound, Ambiguous */
export async function findSubject(reader: Reader, subject: Subject, namespace: string): Promise<Found> {
  const { kind, name } = subject;
  const wanted = (candidate: Found["kind"]) => kind === undefined || kind === candidate;
  const ref = { namespace, name };
  const found = await Promise.all([
    wanted(nodeKind.kind) ? reader.find(nodes, ref) : undefined,
    wanted(poolKind.kind) ? reader.find(pools, ref) : undefined,
    wanted(networkKind.kind) ? reader.find(networks, ref) : undefined,
  ]);
  const [first, ...others] = found.filter((object): object is Found => object !== undefined);
  if (!first) throw notFound(subject, namespace);
  if (others.length > 0) {
    const refs = [first, ...others].map((object) => shortRef(object.kind, name)).join(" or ");
    throw new CliError(
      "Ambiguous",
      `several objects in namespace ${namespace} are called ${name}: write ${refs}`,
    );
  }
  return first;
}

/** The object of one kind that the subject means. @throws CliError NotFound, Usage */
export async function findOne<T extends Found>(
  reader: Reader,
  { kind, name }: Subject,
  namespace: string,
  wanted: Resource<T>,
): Promise<T> {
  const found = kinds.find((candidate) => candidate.kind === wanted.kind);
  if (!found) throw new Error(`${wanted.kind} is not one of the kinds`);
  if (kind !== undefined && kind !== found.kind) {
    throw new CliError(
      "Usage",
      `${shortRef(kind, name)} is no ${found.shortName}, which this command takes: write ${shortRef(found.kind, "NAME")}`,
    );
  }
  const object = await reader.find(wanted, { namespace, name });
  if (!object) throw notFound({ kind: found.kind, name }, namespace);
  return object;
}
