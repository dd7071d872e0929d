/**
 * What of a pool is in service, as the events of the API server tell it. Whom a fault took away is counted apart: of those the
 * operator learns late, and can then only hold the others back.
 */

/** One node as an event shows it. */
export interface NodeView {
  /** Its conditions say that it serves, and so does its pod. */
  readonly available: boolean;
  /** Told to move, and not there yet. */
  readonly moving: boolean;
}

/** What a pool may lose. */
export interface Budget {
  readonly size: number;
  readonly maxUnavailable: number;
  /** How long the operator may not know of what is out of service, ms. Default 2,000. */
  readonly noticeMs?: number;
}

/** A moment of the pool: how many nodes are in service, and who took the others. */
export interface Sample {
  /** Wall time, ms. */
  readonly at: number;
  readonly available: number;
  readonly byOperator: number;
  readonly byFault: number;
}

/** Whether what follows is a fault's doing: it is until {@link Capacity.over}, and then, `ending`, until the node is in service. */
type Fault = "lasting" | "ending" | undefined;

interface Known {
  readonly view: NodeView;
  readonly fault: Fault;
  /** Wall time, ms, since when it is out of service; and since when the API shows it so. */
  readonly outSince: number | undefined;
  readonly shownSince: number | undefined;
}

/** Counts nodes in and out of service. */
export class Capacity {
  readonly samples: Sample[] = [];
  /** Each time that a node left service and no fault had taken it. Wall times, ms. */
  readonly departures: { readonly name: string; readonly at: number }[] = [];
  /** Whatever of it was beyond the budget and no fault's doing. */
  readonly problems: string[] = [];
  readonly #budget: Required<Budget>;
  readonly #nodes = new Map<string, Known>();
  #counting = false;

  constructor(budget: Budget) {
    this.#budget = { noticeMs: 2_000, ...budget };
  }

  /** The pool is whole: from now on what leaves is counted. */
  begin(): void {
    this.#counting = true;
  }

  /**
   * A fault takes these nodes now, whatever the API still says of them: it may tell of that late, when they are back already,
   * and tell what was before later still.
   */
  fault(names: Iterable<string>, at: number): void {
    for (const name of names) {
      const known = this.#known(name);
      this.#nodes.set(name, { ...known, fault: "lasting", outSince: known.outSince ?? at });
    }
    this.#sample(at);
  }

  /** The fault is over: those that the API shows in service are, the others when it does. */
  over(names: Iterable<string>, at: number): void {
    for (const name of names) {
      const known = this.#known(name);
      if (known.fault !== undefined)
        this.#nodes.set(
          name,
          known.view.available
            ? { ...known, fault: undefined, outSince: undefined }
            : { ...known, fault: "ending" },
        );
    }
    this.#sample(at);
  }

  /** Takes in an event about a node. */
  see(name: string, view: NodeView, at: number): void {
    const before = this.#nodes.get(name);
    let fault = before?.fault;
    if (fault === "ending" && view.available) fault = undefined;
    const known: Known = {
      view,
      fault,
      outSince: !view.available || fault !== undefined ? (before?.outSince ?? at) : undefined,
      shownSince: view.available ? undefined : (before?.shownSince ?? at),
    };
    this.#nodes.set(name, known);
    if (!before) return;
    const wasIn = before.outSince === undefined;
    if (wasIn && known.outSince !== undefined) this.#left(name, before.view, at);
    if (wasIn && view.moving && !before.view.moving) this.#told(name, at);
    if (wasIn !== (known.outSince === undefined)) this.#sample(at);
  }

  #known(name: string): Known {
    const known = this.#nodes.get(name);
    if (!known) throw new Error(`no event has told of a node ${name}`);
    return known;
  }

  /** A node is out of service and no fault took it. */
  #left(name: string, before: NodeView, at: number): void {
    const { maxUnavailable } = this.#budget;
    if (!this.#counting) return;
    this.departures.push({ name, at });
    if (!before.moving) this.problems.push(`${name} left at ${at} though it was not told to move`);
    const out = [...this.#nodes.values()].filter((each) => each.outSince !== undefined && !each.fault);
    if (out.length > maxUnavailable)
      this.problems.push(
        `${name} left at ${at}: the operator has ${out.length} nodes out of service, ${maxUnavailable} may be`,
      );
  }

  /** The operator tells a node that serves to go: there must be room beside all that it knows to be away or to go. */
  #told(name: string, at: number): void {
    const { maxUnavailable, noticeMs } = this.#budget;
    const away = [...this.#nodes.values()].filter(
      ({ view, shownSince }) => view.moving || (shownSince !== undefined && at - shownSince >= noticeMs),
    );
    if (this.#counting && away.length > maxUnavailable)
      this.problems.push(
        `${name} was told to go at ${at}: with it ${away.length} are away or go, ${maxUnavailable} may`,
      );
  }

  #sample(at: number): void {
    if (!this.#counting) return;
    const all = [...this.#nodes.values()];
    const out = all.filter(({ outSince }) => outSince !== undefined);
    const byFault = out.filter(({ fault }) => fault !== undefined).length;
    this.samples.push({ at, available: all.length - out.length, byOperator: out.length - byFault, byFault });
  }

  /** Most that the operator had out of service at once; most that faults had. */
  get mostByOperator(): number {
    return Math.max(0, ...this.samples.map(({ byOperator }) => byOperator));
  }

  get mostByFault(): number {
    return Math.max(0, ...this.samples.map(({ byFault }) => byFault));
  }

  /** Fewest that were in service at once, whoever took the others. */
  get lowest(): number {
    return Math.min(this.#budget.size, ...this.samples.map(({ available }) => available));
  }
}
