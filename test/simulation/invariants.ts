import type { JobRow, ReceiptRow } from "../../src/io/store/port.ts";
import { terminalStates } from "../../src/io/store/port.ts";
import type { Happening, Invariant, SeenFrame } from "./happenings.ts";
import {
  appliedIsAllowed,
  attemptKey,
  type DurableOffer,
  outputIsContiguous,
  resultKeptUntilAcked,
  resultOnDisk,
  type SignedReleases,
} from "./invariants-node.ts";
import type { SimNode } from "./node.ts";
import type { SimSocket } from "./socket.ts";
import { Violation } from "./world.ts";

/**
 * What must hold after every step (FAULTS.md, "Invariants"), judged from what wires, disks and stores have shown and from
 * nothing that agents or service say of themselves inside.
 */

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

/** A frame that comes a second time ends the session and does nothing else: 4412, one of the handshake 4401 as well. */
function replayEndsSession(): Invariant {
  const due = new Map<SimSocket, { readonly what: string; readonly codes: readonly number[] }>();
  const over = new Set<SimSocket>();
  return {
    saw(happening) {
      if (happening.is === "ended") {
        over.add(happening.socket);
        if (due.get(happening.socket)?.codes.includes(happening.code) === true) due.delete(happening.socket);
      }
      if (happening.is !== "arrived" || happening.frame.forged !== "replayed") return;
      const { socket, kind, node, direction } = happening.frame;
      const codes = handshakeKinds.has(kind) ? [4401, 4412] : [4412];
      if (!over.has(socket)) due.set(socket, { what: `${kind} of ${node.name} (${direction})`, codes });
    },
    stepOver() {
      for (const { what } of due.values()) throw new Violation("B01", `a replayed frame was taken: ${what}`);
    },
  };
}

const handshakeKinds: ReadonlySet<string> = new Set(["challenge", "hello", "ready"]);

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
