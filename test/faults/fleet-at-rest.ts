/**
 * A fleet at rest, as one version of the operator left it: every object that it made or wrote, and what its network served.
 * Recorded once with that version, and put before later ones, which must find nothing to do.
 */
import type { FeedNode } from "../../src/protocol/feed.ts";
import type { ScriptedIo } from "../operator/network/scripted-io.ts";
import type { KubeObject } from "../testbed/kube-json.ts";
import { until } from "../testbed/until.ts";
import type { Scene, Stand } from "./operator-scene.ts";

/** Where the recorded networks' service listens: its address is part of the recorded objects. */
export const recordedAddress = { host: "127.87.114.1", port: 28_114 };

/** What was recorded. The keys in it are of this test alone. */
export interface RecordedFleet {
  readonly namespace: string;
  readonly io: {
    readonly root: string;
    readonly release: string;
    /** Exact bytes by digest. */
    readonly snapshots: Readonly<Record<string, string>>;
    readonly told: readonly FeedNode[];
  };
  readonly objects: readonly RecordedObject[];
}

interface RecordedObject extends KubeObject {
  readonly metadata: KubeObject["metadata"] & { readonly managedFields?: readonly unknown[] };
  readonly status?: object;
}

/** Kinds that are recorded. */
const kinds = [
  ["v1", "ConfigMap", "configmaps"],
  ["v1", "Secret", "secrets"],
  ["resultity.com/v1alpha1", "ResultityNetwork", "resultitynetworks"],
  ["resultity.com/v1alpha1", "ResultityNodePool", "resultitynodepools"],
  ["resultity.com/v1alpha1", "ResultityNode", "resultitynodes"],
  ["policy/v1", "PodDisruptionBudget", "poddisruptionbudgets"],
  ["v1", "Pod", "pods"],
] as const;

function pathOf(namespace: string, apiVersion: string, plural: string): string {
  const root = apiVersion.includes("/") ? `/apis/${apiVersion}` : `/api/${apiVersion}`;
  return `${root}/namespaces/${namespace}/${plural}`;
}

/** Records a scene as it is now. */
export async function recordFleet(scene: Scene): Promise<RecordedFleet> {
  const { namespace, io } = scene;
  const objects: RecordedObject[] = [];
  for (const [apiVersion, kind, plural] of kinds) {
    for (const found of await scene.list<RecordedObject>(pathOf(namespace, apiVersion, plural))) {
      // Comes with every namespace.
      if (found.metadata.name === "kube-root-ca.crt") continue;
      const { managedFields: _, ...metadata } = found.metadata;
      // Only what is applied depends on who owns which field.
      const owned = apiVersion === "v1" && kind !== "ConfigMap" ? metadata : found.metadata;
      objects.push({ ...found, apiVersion, kind, metadata: owned });
    }
  }
  const snapshots = [...io.snapshots].map(([digest, bytes]) => [digest, bytes.toString("utf8")]);
  return {
    namespace,
    io: {
      root: io.root ?? "",
      release: io.release ?? "",
      snapshots: Object.fromEntries(snapshots),
      told: scene.told,
    },
    objects,
  };
}

/** As JSON with a line for each object, so that two recordings can be compared. */
export function recordedText({ objects, ...rest }: RecordedFleet): string {
  const lines = objects.map((object) => JSON.stringify(object));
  return `${JSON.stringify({ ...rest, objects: [] }).slice(0, -2)}\n${lines.join(",\n")}\n]}\n`;
}

/** Has the service serve what was recorded. */
export function serveRecorded(io: ScriptedIo, { io: served }: RecordedFleet): void {
  io.root = served.root;
  io.release = served.release;
  for (const [digest, text] of Object.entries(served.snapshots)) io.snapshots.set(digest, Buffer.from(text));
}

/** Makes the recorded objects anew, whole: spec, status and who owns which field, with the UIDs that the API server gives now. */
export async function restoreFleet({ kube }: Stand, { namespace, objects }: RecordedFleet): Promise<void> {
  const make = (path: string, body: object) => kube.create<RecordedObject>(path, body);
  await make("/api/v1/namespaces", { apiVersion: "v1", kind: "Namespace", metadata: { name: namespace } });
  await until("the default ServiceAccount", () =>
    kube.get(`/api/v1/namespaces/${namespace}/serviceaccounts/default`),
  );
  const uids = new Map<string, string>();
  const waiting = [...objects];
  while (waiting.length > 0) {
    const at = waiting.findIndex((object) => ownersOf(object).every((uid) => uids.has(uid)));
    const [next] = waiting.splice(Math.max(0, at), 1);
    if (!next || at < 0) throw new Error("an owner of what was recorded was not");
    const made = await restore(make, kube, namespace, next, uids);
    uids.set(next.metadata.uid ?? "", made.metadata.uid ?? "");
  }
}

interface Owned {
  readonly metadata: { readonly ownerReferences?: readonly { readonly uid: string }[] };
}

const ownersOf = (object: KubeObject & Owned): string[] =>
  (object.metadata.ownerReferences ?? []).map(({ uid }) => uid);

async function restore(
  make: (path: string, body: object) => Promise<RecordedObject>,
  kube: Stand["kube"],
  namespace: string,
  recorded: RecordedObject,
  uids: ReadonlyMap<string, string>,
): Promise<RecordedObject> {
  const kind = kinds.find(
    ([apiVersion, name]) => apiVersion === recorded.apiVersion && name === recorded.kind,
  );
  if (!kind) throw new Error(`${recorded.kind} is not one of the kinds that are restored`);
  const collection = pathOf(namespace, kind[0], kind[2]);
  const path = `${collection}/${recorded.metadata.name}`;
  let text = JSON.stringify(recorded);
  for (const [before, now] of uids) text = text.replaceAll(before, now);
  const { status, metadata, ...rest }: RecordedObject = JSON.parse(text);
  const {
    uid: _uid,
    resourceVersion: _version,
    generation,
    managedFields,
    creationTimestamp: _time,
    ...kept
  }: RecordedObject["metadata"] & { creationTimestamp?: string } = metadata;
  const made = await make(collection, { ...rest, metadata: kept });
  if (status) {
    // An object that was edited before it was recorded is at its first generation here.
    const observed = JSON.stringify(status).replaceAll(
      `"observedGeneration":${generation}`,
      `"observedGeneration":${made.metadata.generation}`,
    );
    await kube.patch(`${path}/status`, "merge", { status: JSON.parse(observed) });
  }
  if (managedFields) await kube.patch(path, "merge", { metadata: { managedFields } });
  return made;
}

/** Tries `start` until the recorded address is free: another run on this machine may have it. */
export async function whenFree<T>(start: () => Promise<T>): Promise<T> {
  return (
    await until("the recorded address to be free", async () => ({ value: await start() }), {
      deadlineMs: 120_000,
      intervalMs: 500,
    })
  ).value;
}
