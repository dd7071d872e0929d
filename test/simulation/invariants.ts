import type { JobRow, ReceiptRow } from "../../src/io/store/port.ts";
import { terminalStates } from "../../src/io/store/port.ts";
import type { Happening, Invariant, SeenFrame } from "./happenings.ts";
import type { SimNode } from "./node.ts";
import type { SimSocket } from "./socket.ts";
import { Violation } from "./world.ts";

/**
 * What must hold after every step (FAULTS.md, "Invariants"), judged from what wires, disks and stores have shown and from
 * nothing that agents or service say of themselves inside.
 */

/** Releases that the network has signed, by sequence: which configs each allows. */
export type SignedReleases = ReadonlyMap<
  number,
  { readonly network: string; readonly allowed: readonly string[] }
>;

const attemptKey = (job: string, attempt: number): string => `${job} ${attempt}`;

/** Results that an acknowledging frame calls committed. */
function committedIn({ kind, payload }: SeenFrame): readonly { job: string; attempt: number }[] {
  if (kind === "ack")
    return (payload["results"] as { job: string; attempt: number; status: string }[]).filter(
      ({ status }) => status === "committed",
    );
  if (kind === "verdict")
    return (payload["jobs"] as { job: string; attempt: number; action: string }[]).filter(
      ({ action }) => action === "committed",
    );
  return [];
}

function receiptsIn(happening: Happening): readonly ReceiptRow[] {
  if (happening.is !== "asked" && happening.is !== "durable") return [];
  return happening.changes.flatMap((change) => (change.put === "receipt" ? [change.row] : []));
}

function rowsIn(happening: Happening): readonly JobRow[] {
  if (happening.is !== "asked" && happening.is !== "durable") return [];
  return happening.changes.flatMap((change) => (change.put === "job" ? [change.row] : []));
}

/** A job is committed at most once. */
function oneCommit(): Invariant {
  const committed = new Map<string, number>();
  return {
    saw(happening) {
      if (happening.is !== "durable") return;
      for (const { job, attempt } of receiptsIn(happening)) {
        if (committed.has(job))
          throw new Violation(
            "I2",
            `job ${job} is committed again (attempt ${attempt}, before ${committed.get(job)})`,
          );
        committed.set(job, attempt);
      }
    },
  };
}

/** A job has one terminal state. What a crash kept from the disk did not happen. */
function oneTerminalState(): Invariant {
  const durable = new Map<string, string>();
  let asked = new Map<string, string>();
  const same = (a: string, b: string) => a === b || (a === "COMMITTED" && b === "CONFIRMED");
  return {
    saw(happening) {
      if (happening.is === "service-died") asked = new Map(durable);
      for (const { id, state } of rowsIn(happening)) {
        if (!terminalStates.has(state)) continue;
        const known = happening.is === "asked" ? asked : durable;
        const before = known.get(id);
        if (before !== undefined && happening.is === "asked")
          throw new Violation("I2", `job ${id} ends as ${state}, and has ended as ${before}`);
        if (before !== undefined && !same(before, state))
          throw new Violation("I2", `job ${id} is kept as ${state}, and had ended as ${before}`);
        known.set(id, state);
      }
    },
  };
}

/** What the service acknowledges to a node as committed is in its store by then. */
function ackAfterDurable(): Invariant {
  const durable = new Set<string>();
  return {
    saw(happening) {
      if (happening.is === "durable")
        for (const { job, attempt } of receiptsIn(happening)) durable.add(attemptKey(job, attempt));
      if (happening.is !== "sent" || happening.frame.direction !== "down") return;
      for (const { job, attempt } of committedIn(happening.frame)) {
        if (!durable.has(attemptKey(job, attempt)))
          throw new Violation("I3", `attempt ${attempt} of ${job} is acknowledged and not durable`);
      }
    },
  };
}

/** What clients are told of asynchronous jobs, taken or answered, is in the store by then. */
function toldAfterDurable(): Invariant {
  const taken = new Set<string>();
  const answered = new Set<string>();
  return {
    saw(happening) {
      if (happening.is === "durable") {
        for (const change of happening.changes)
          if (change.put === "submission") taken.add(change.submission.job);
        for (const { id, state } of rowsIn(happening))
          if (state === "COMMITTED" || state === "CONFIRMED") answered.add(id);
      }
      if (happening.is === "promised" && !taken.has(happening.job))
        throw new Violation("I3", `job ${happening.job} is promised and not durable`);
      if (happening.is === "answered" && !answered.has(happening.job))
        throw new Violation("I3", `the answer of job ${happening.job} is told and not durable`);
    },
  };
}

/** Attempts, tokens and nodes of asynchronous jobs are durable before they are offered. */
function offeredAfterDurable(): Invariant {
  const durable = new Set<string>();
  return {
    saw(happening) {
      if (happening.is === "durable")
        for (const change of happening.changes)
          if (change.put === "attempt") durable.add(`${change.attempt.job} ${change.attempt.token}`);
      if (happening.is !== "sent" || happening.frame.kind !== "offer" || happening.frame.forged) return;
      const { job, token, attempt, durable: lasts } = happening.frame.payload as DurableOffer;
      if (lasts === true && !durable.has(`${job} ${token}`))
        throw new Violation("I3", `attempt ${attempt} of asynchronous job ${job} is offered and not durable`);
    },
  };
}

interface DurableOffer {
  readonly job: string;
  readonly attempt: number;
  readonly token: string;
  readonly durable?: boolean;
}

/** The result of a durable job is on the node's disk when it is told, and stays there until the node may forget it. */
function resultOnDisk(): Invariant {
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

interface Lease {
  readonly attempt: number;
  readonly token: string;
  readonly node: SimNode;
}

/** Attempts of a job only grow. */
function attemptsGrow(): Invariant {
  const newest = new Map<string, number>();
  return {
    saw(happening) {
      if (happening.is !== "sent" || happening.frame.kind !== "offer" || happening.frame.forged) return;
      const { job, attempt } = happening.frame.payload as { job: string; attempt: number };
      const before = newest.get(job) ?? 0;
      if (attempt <= before)
        throw new Violation("I4", `attempt ${attempt} of ${job} is offered after attempt ${before}`);
      newest.set(job, attempt);
    },
  };
}

/** What commits is the attempt that was offered last, by the node that it was offered to, told with its token. */
function commitOfCurrentAttempt(): Invariant {
  const newest = new Map<string, Lease>();
  const told = new Set<string>();
  const toldKey = (node: SimNode, job: string, attempt: number, token: string) =>
    `${node.name} ${job} ${attempt} ${token}`;
  return {
    saw(happening) {
      if (happening.is === "sent" && happening.frame.kind === "offer") {
        const { job, attempt, token } = happening.frame.payload as {
          job: string;
          attempt: number;
          token: string;
        };
        newest.set(job, { attempt, token, node: happening.frame.node });
      }
      if (happening.is === "arrived" && happening.frame.kind === "result") {
        const { job, attempt, token } = happening.frame.payload as {
          job: string;
          attempt: number;
          token: string;
        };
        told.add(toldKey(happening.frame.node, job, attempt, token));
      }
      if (happening.is !== "asked") return;
      for (const { job, attempt, node } of receiptsIn(happening)) {
        const lease = newest.get(job);
        if (lease?.attempt !== attempt || lease.node.nodeId !== node)
          throw new Violation(
            "I4",
            `attempt ${attempt} of ${job} commits, attempt ${lease?.attempt} was offered last (to ${lease?.node.name})`,
          );
        if (!told.has(toldKey(lease.node, job, attempt, lease.token)))
          throw new Violation(
            "I4",
            `attempt ${attempt} of ${job} commits, and no result came with its token`,
          );
      }
    },
  };
}

/** A node gets jobs of its own network alone. */
function ownNetwork(network: string): Invariant {
  return {
    saw(happening) {
      if (happening.is !== "sent" || happening.frame.kind !== "offer") return;
      const { node, payload } = happening.frame;
      if (node.network !== network)
        throw new Violation(
          "I5",
          `job ${payload["job"]} of ${network} is offered to ${node.name} of ${node.network}`,
        );
    },
  };
}

interface OnDisk {
  known: number;
  release: number;
  applied: string;
}

/**
 * What a node applies, the newest release that it has allows; releases on its disk never go back, and are its own
 * network's.
 */
function appliedIsAllowed(releases: SignedReleases): Invariant {
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

/** A frame that comes a second time ends the session, 4412, and does nothing else. */
function replayEndsSession(): Invariant {
  const due = new Map<SimSocket, string>();
  const over = new Set<SimSocket>();
  return {
    saw(happening) {
      if (happening.is === "ended") {
        over.add(happening.socket);
        if (happening.code === 4412) due.delete(happening.socket);
      }
      if (happening.is !== "arrived" || happening.frame.forged !== "replayed") return;
      const { socket, kind, node, direction } = happening.frame;
      if (!over.has(socket)) due.set(socket, `${kind} of ${node.name} (${direction})`);
    },
    stepOver() {
      for (const what of due.values()) throw new Violation("B01", `a replayed frame was taken: ${what}`);
    },
  };
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
function resultKeptUntilAcked(): Invariant {
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
function outputIsContiguous(): Invariant {
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

/** All of them, for one world. */
export function allInvariants(world: {
  readonly network: string;
  readonly releases: SignedReleases;
}): readonly Invariant[] {
  return [
    oneCommit(),
    oneTerminalState(),
    ackAfterDurable(),
    toldAfterDurable(),
    offeredAfterDurable(),
    resultOnDisk(),
    attemptsGrow(),
    commitOfCurrentAttempt(),
    ownNetwork(world.network),
    appliedIsAllowed(world.releases),
    replayEndsSession(),
    resultKeptUntilAcked(),
    outputIsContiguous(),
  ];
}
