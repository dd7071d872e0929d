import type { Invariant, SeenFrame } from "./happenings.ts";
import type { SimNode } from "./node.ts";
import type { SimSocket } from "./socket.ts";
import { Violation } from "./world.ts";

/** What must hold at the nodes: of their results, their output and their config. See `invariants.ts`. */

/** Releases that the network has signed, by sequence: which configs each allows. */
export type SignedReleases = ReadonlyMap<
  number,
  { readonly network: string; readonly allowed: readonly string[] }
>;

/** An attempt as one text. */
export const attemptKey = (job: string, attempt: number): string => `${job} ${attempt}`;

/** What an offer says, as the wire shows it. */
export interface DurableOffer {
  readonly job: string;
  readonly attempt: number;
  readonly token: string;
  readonly durable?: boolean;
}

/** The result of a durable job is on the node's disk when it is told, and stays there until the node may forget it. */
export function resultOnDisk(): Invariant {
  /** By node: attempts of durable jobs, results told and not released. */
  const durable = new Map<SimNode, Set<string>>();
  const told = new Map<SimNode, Set<string>>();
  const of = (map: Map<SimNode, Set<string>>, node: SimNode) => {
    let set = map.get(node);
    if (!set) map.set(node, (set = new Set()));
    return set;
  };
  return {
    saw(happening) {
      if (happening.is === "wiped") told.delete(happening.node);
      if (happening.is === "disk" && happening.path.startsWith(resultsDir)) {
        const name = happening.path.slice(resultsDir.length);
        if (happening.content === undefined && of(told, happening.node).has(name))
          throw new Violation(
            "I3",
            `${happening.node.name} deletes the result of ${name}, which nobody has acknowledged`,
          );
      }
      if (happening.is !== "sent" && happening.is !== "arrived") return;
      const { node, direction, kind, payload, forged } = happening.frame;
      if (happening.is === "arrived" && direction === "down") {
        if (kind === "offer") {
          const { job, attempt, durable: lasts } = payload as DurableOffer;
          if (lasts === true) of(durable, node).add(`${job}.${attempt}`);
          for (const name of of(told, node))
            if (name.startsWith(`${job}.`) && name !== `${job}.${attempt}`) of(told, node).delete(name);
        }
        for (const { job, attempt } of released(kind, payload)) of(told, node).delete(`${job}.${attempt}`);
      }
      if (happening.is !== "sent" || direction !== "up" || forged !== undefined || kind !== "result") return;
      const name = `${payload["job"]}.${payload["attempt"]}`;
      if (!of(durable, node).has(name)) return;
      if (!node.disk.content.has(`${resultsDir}${name}`))
        throw new Violation("I3", `${node.name} tells the result of ${name}, which is not on its disk`);
      of(told, node).add(name);
    },
  };
}

const resultsDir = "/state/results/";

interface OnDisk {
  known: number;
  release: number;
  applied: string;
}

/**
 * What a node applies, the newest release that it has allows; releases on its disk never go back, and are its own
 * network's.
 */
export function appliedIsAllowed(releases: SignedReleases): Invariant {
  const disks = new Map<SimNode, OnDisk>();
  return {
    saw(happening) {
      if (happening.is === "wiped") disks.delete(happening.node);
      if (happening.is !== "disk" || !happening.path.startsWith("/state/") || !happening.content) return;
      const { node, path, content } = happening;
      const disk = disks.get(node) ?? { known: 0, release: 0, applied: "" };
      disks.set(node, disk);
      const text = content.toString();
      if (path === "/state/known-release") {
        if (Number(text) < disk.known)
          throw new Violation("I6", `${node.name} knew release ${disk.known}, and now ${text}`);
        disk.known = Number(text);
      } else if (path === "/state/release.json") {
        const release = releaseOf(text);
        if (release.network !== node.network)
          throw new Violation("I6", `${node.name} of ${node.network} takes a release of ${release.network}`);
        if (release.sequence < Math.max(disk.known, disk.release))
          throw new Violation(
            "I6",
            `${node.name} takes release ${release.sequence}, and knows of ${disk.known}`,
          );
        disk.release = release.sequence;
      } else if (path === "/state/applied.json") {
        const { digest } = JSON.parse(text) as { digest: string };
        // What is applied already stays, also when it is withdrawn: then it takes no jobs.
        if (digest === disk.applied) return;
        disk.applied = digest;
        // A newer one may be in its memory alone: its disk was full when it came.
        const allows = [...releases].some(
          ([sequence, { allowed }]) => sequence >= disk.release && allowed.includes(digest),
        );
        if (!allows)
          throw new Violation(
            "I6",
            `${node.name} applies ${digest}, which no release from ${disk.release} on allows`,
          );
      }
    },
  };
}

function releaseOf(statement: string): { readonly network: string; readonly sequence: number } {
  const { payload } = JSON.parse(statement) as { payload: string };
  return JSON.parse(Buffer.from(payload, "base64url").toString()) as { network: string; sequence: number };
}

interface Told {
  readonly job: string;
  readonly attempt: number;
  readonly life: number;
  readonly durable: boolean;
}

/**
 * A node that has told a result keeps it until it hears what has become of it: its next session names it. The result of
 * a durable job outlives the node's process as well.
 */
export function resultKeptUntilAcked(): Invariant {
  /** By node. */
  const kept = new Map<SimNode, Map<string, Told>>();
  const durable = new Set<string>();
  const resuming = new Map<SimSocket, Set<string>>();
  const of = (node: SimNode) => {
    let told = kept.get(node);
    if (!told) kept.set(node, (told = new Map()));
    return told;
  };
  return {
    saw(happening) {
      if (happening.is === "wiped") kept.delete(happening.node);
      if (happening.is !== "sent" && happening.is !== "arrived") return;
      const { node, socket, direction, kind, payload, forged } = happening.frame;
      if (happening.is === "arrived" && direction === "down") {
        if (kind === "offer") {
          const {
            job,
            attempt,
            durable: lasts,
          } = payload as { job: string; attempt: number; durable?: boolean };
          if (lasts === true) durable.add(attemptKey(job, attempt));
          // A newer attempt revokes the older ones.
          for (const [key, told] of of(node))
            if (told.job === job && told.attempt < attempt) of(node).delete(key);
        }
        for (const { job, attempt } of released(kind, payload)) of(node).delete(attemptKey(job, attempt));
      }
      if (happening.is !== "sent" || direction !== "up" || forged !== undefined) return;
      if (kind === "result") {
        const { job, attempt } = payload as { job: string; attempt: number };
        const key = attemptKey(job, attempt);
        of(node).set(key, { job, attempt, life: node.lives, durable: durable.has(key) });
      } else if (kind === "resume") {
        const named = resuming.get(socket) ?? new Set();
        resuming.set(socket, named);
        for (const { job, attempt } of payload["jobs"] as { job: string; attempt: number }[])
          named.add(attemptKey(job, attempt));
        if (payload["last"] !== true) return;
        for (const [key, told] of of(node)) {
          if (told.life !== node.lives && !told.durable) of(node).delete(key);
          else if (!named.has(key))
            throw new Violation(
              "I3",
              `${node.name} has told the result of ${key}, heard no more of it, and forgot it`,
            );
        }
      }
    },
  };
}

/** Attempts that the service lets a node forget. */
function released(kind: string, payload: SeenFrame["payload"]): readonly { job: string; attempt: number }[] {
  if (kind === "ack") return payload["results"] as { job: string; attempt: number }[];
  if (kind === "cancel") return [payload as { job: string; attempt: number }];
  if (kind === "heartbeat-ack") return payload["lost"] as { job: string; attempt: number }[];
  if (kind === "verdict")
    return (payload["jobs"] as { job: string; attempt: number; action: string }[]).filter(
      ({ action }) => action !== "keep",
    );
  return [];
}

/** Output goes on where the service has asked for it, without a gap and without a repetition. */
export function outputIsContiguous(): Invariant {
  /** Next offset by connection and attempt. */
  const next = new Map<SimSocket, Map<string, number>>();
  return {
    saw(happening) {
      if (happening.is !== "sent" && happening.is !== "arrived") return;
      const { node, socket, direction, kind, payload, forged } = happening.frame;
      if (forged !== undefined) return;
      let offsets = next.get(socket);
      if (!offsets) next.set(socket, (offsets = new Map()));
      if (happening.is === "arrived" && direction === "down" && kind === "verdict") {
        for (const { job, attempt, action, offset } of payload["jobs"] as {
          job: string;
          attempt: number;
          action: string;
          offset: number;
        }[])
          if (action === "keep") offsets.set(attemptKey(job, attempt), offset);
      }
      if (happening.is !== "sent" || kind !== "chunk") return;
      const { job, attempt, offset, data } = payload as {
        job: string;
        attempt: number;
        offset: number;
        data: string;
      };
      const key = attemptKey(job, attempt);
      const expected = offsets.get(key) ?? 0;
      if (offset !== expected)
        throw new Violation("F40", `${node.name} sends ${key} from byte ${offset}, wanted from ${expected}`);
      offsets.set(key, offset + Buffer.byteLength(data));
    },
  };
}
