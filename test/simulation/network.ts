import type { Dice } from "./random.ts";
import type { SimProcess } from "./process.ts";
import type { World } from "./world.ts";

/** To the service, or to the host of the link. */
export type Direction = "up" | "down";

/** The way between one host and the service: delay, and whether anything passes at all. */
export class Link {
  readonly name: string;
  readonly world: World;
  readonly dice: Dice;
  /** Added to every message, ms. */
  slowMs = 0;
  readonly #delayMs: number;
  readonly #blocked: Record<Direction, boolean> = { up: false, down: false };
  readonly #waiting = new Set<Pipe>();
  /** Connections that are open on it. */
  readonly sockets = new Set<Cuttable>();

  constructor(world: World, name: string, dice: Dice) {
    this.world = world;
    this.name = name;
    this.dice = dice;
    this.#delayMs = dice.between(0.2, 30);
  }

  get delay(): number {
    return this.#delayMs * this.dice.between(0.9, 1.4) + this.slowMs * this.dice.number();
  }

  passes(direction: Direction): boolean {
    return !this.#blocked[direction];
  }

  /** Nothing passes this way until {@link heal}; what is sent waits, as TCP sends it again. */
  block(direction: Direction): void {
    this.#blocked[direction] = true;
  }

  heal(): void {
    this.#blocked.up = false;
    this.#blocked.down = false;
    for (const pipe of this.#waiting) pipe.flush();
    this.#waiting.clear();
  }

  waits(pipe: Pipe): void {
    this.#waiting.add(pipe);
  }
}

/** A connection that faults may end. */
export interface Cuttable {
  /** Both ends see it broken. */
  cut(): void;
  /** From now on nothing arrives this way, and the sender is not told. */
  silence(direction: Direction): void;
}

/** One direction of one connection: what goes in comes out in the same order, after the link's delay. */
export class Pipe {
  readonly #link: Link;
  readonly #direction: Direction;
  readonly #to: () => SimProcess | undefined;
  #last = 0;
  #held: Parcel[] = [];
  #silent = false;
  /** Things that are under way. */
  inFlight = 0;

  /** @param to the process at the end: it takes things when it is not stopped. */
  constructor(link: Link, direction: Direction, to: () => SimProcess | undefined) {
    this.#link = link;
    this.#direction = direction;
    this.#to = to;
  }

  /** @param nobody called instead of `arrive` where the process is gone by then. */
  send(label: string, arrive: () => void | Promise<void>, nobody: () => void = () => {}): void {
    if (this.#silent) return;
    this.inFlight++;
    const parcel = { label, arrive, nobody };
    if (this.#held.length === 0 && this.#link.passes(this.#direction)) {
      this.#deliver(parcel);
      return;
    }
    this.#held.push(parcel);
    this.#link.waits(this);
  }

  get silent(): boolean {
    return this.#silent;
  }

  silence(): void {
    this.#silent = true;
    this.#held = [];
  }

  /** The link passes again. */
  flush(): void {
    const held = this.#held;
    this.#held = [];
    for (const parcel of held) this.#deliver(parcel);
  }

  #deliver({ label, arrive, nobody }: Parcel): void {
    const { world } = this.#link;
    this.#last = Math.max(this.#last, world.now + this.#link.delay);
    const run = () => {
      this.inFlight--;
      if (this.#silent) return undefined;
      return this.#to()?.alive === true ? arrive() : nobody();
    };
    world.plan(this.#last - world.now, label, run, () => this.#to()?.pausedUntil ?? 0);
  }
}

interface Parcel {
  readonly label: string;
  readonly arrive: () => void | Promise<void>;
  readonly nobody: () => void;
}
