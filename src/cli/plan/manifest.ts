import { parseAllDocuments } from "yaml";
import { networkKind, nodeKind, poolKind } from "../../api/v1alpha1/kinds.ts";
import { group } from "../../api/v1alpha1/meta.ts";
import type { ResultityNetwork } from "../../api/v1alpha1/network.ts";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import type { ResultityNodePool } from "../../api/v1alpha1/pool.ts";
import type { Draft, KubeObject } from "../../kube/object.ts";
import type { Resource } from "../../kube/resources.ts";
import { CliError } from "../errors.ts";
import type { Reader, Writer } from "../read.ts";
import { networks, nodes, pools } from "../resources.ts";

/** An object as it is, where it is, and as it would be. */
export interface Change<T> {
  readonly before: T | undefined;
  readonly after: T;
}

/** What a manifest would change. */
export interface Changes {
  readonly networks: readonly Change<ResultityNetwork>[];
  readonly pools: readonly Change<ResultityNodePool>[];
  readonly nodes: readonly Change<ResultityNode>[];
}

interface Document {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly labels?: Record<string, string>;
    readonly annotations?: Record<string, string>;
  };
  readonly spec: object;
}

/**
 * Reads a manifest and has the API server say what its objects would be, had it been applied: defaults filled in, and refused where
 * it would refuse them. Nothing is stored. @throws CliError Usage, KubeError
 */
export async function readChanges(
  text: string,
  namespace: string,
  api: { readonly reader: Reader; readonly writer: Writer },
): Promise<Changes> {
  const documents = documentsIn(text);
  const of = <T extends KubeObject>(resource: Resource<T>) =>
    Promise.all(
      documents
        .filter(({ kind }) => kind === resource.kind)
        .map((document) => propose(document, document.metadata.namespace ?? namespace, resource, api)),
    );
  // One after the other: what is wrong with the first is said first.
  return { networks: await of(networks), pools: await of(pools), nodes: await of(nodes) };
}

function documentsIn(text: string): readonly Document[] {
  const kinds = [networkKind.kind, poolKind.kind, nodeKind.kind];
  const documents: Document[] = [];
  for (const document of parseAllDocuments(text)) {
    const [error] = document.errors;
    if (error) throw new CliError("Usage", `the manifest is no YAML: ${error.message}`);
    const value: unknown = document.toJS();
    if (
      isDocument(value) &&
      value.apiVersion.startsWith(`${group}/`) &&
      kinds.some((kind) => kind === value.kind)
    )
      documents.push(value);
  }
  if (documents.length === 0)
    throw new CliError(
      "Usage",
      `the manifest holds no ${kinds.join(", ")} of ${group} with a name and a spec`,
    );
  return documents;
}

function isDocument(value: unknown): value is Document {
  const isObject = (thing: unknown): thing is Record<string, unknown> =>
    typeof thing === "object" && thing !== null;
  return (
    isObject(value) &&
    typeof value["apiVersion"] === "string" &&
    typeof value["kind"] === "string" &&
    isObject(value["metadata"]) &&
    typeof value["metadata"]["name"] === "string" &&
    isObject(value["spec"])
  );
}

async function propose<T extends KubeObject>(
  { apiVersion, kind, metadata, spec }: Document,
  namespace: string,
  resource: Resource<T>,
  { reader, writer }: { readonly reader: Reader; readonly writer: Writer },
): Promise<Change<T>> {
  const { name, labels, annotations } = metadata;
  const before = await reader.find(resource, { namespace, name });
  const there: Document["metadata"] = before?.metadata ?? { name };
  const kept = {
    ...there,
    namespace,
    labels: { ...there.labels, ...labels },
    annotations: { ...there.annotations, ...annotations },
  };
  // What the user wrote: the API server is asked just to check it.
  const merged = before ? appliedTo(specOf(before), spec, lastApplied(there)) : spec;
  const draft: Draft<T> = JSON.parse(JSON.stringify({ apiVersion, kind, metadata: kept, spec: merged }));
  const dryRun = { dryRun: true };
  const after = before
    ? await writer.update(resource, draft, dryRun)
    : await writer.create(resource, draft, dryRun);
  return { before, after };
}

type Fields = Readonly<Record<string, unknown>>;

const isFields = (thing: unknown): thing is Fields =>
  typeof thing === "object" && thing !== null && !Array.isArray(thing);

const specOf = (object: unknown): unknown => (isFields(object) ? object["spec"] : undefined);

/** Annotation in which `kubectl apply` keeps what it applied last. */
const lastAppliedAnnotation = "kubectl.kubernetes.io/last-applied-configuration";

/** The spec that was applied last; undefined where nobody knows. */
function lastApplied({ annotations }: Document["metadata"]): unknown {
  try {
    return specOf(JSON.parse(annotations?.[lastAppliedAnnotation] ?? "null"));
  } catch {
    return undefined;
  }
}

/**
 * What `kubectl apply` makes of a field: what the manifest says, without what it said last time and says no more. What it never said
 * stays: an autoscaler's `replicas`, a pin of `rollout undo`, a pause, an approval. Lists are taken as a whole.
 */
function appliedTo(live: unknown, wanted: unknown, before: unknown): unknown {
  if (!isFields(live) || !isFields(wanted)) return wanted;
  const last = isFields(before) ? before : {};
  const kept = Object.entries(live).filter(([key]) => !(key in wanted) && !(key in last));
  const said = Object.entries(wanted).filter(([, value]) => value !== null);
  return Object.fromEntries([
    ...kept,
    ...said.map(([key, value]) => [key, appliedTo(live[key], value, last[key])] as const),
  ]);
}
