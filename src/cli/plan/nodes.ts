import type { ResultityNetwork } from "../../api/v1alpha1/network.ts";
import type { ResultityNode } from "../../api/v1alpha1/node.ts";
import type { ConfigDigest } from "../../protocol/fields.ts";
import {
  type AimConfig,
  childSpec,
  isHeldBack,
  isLeaving,
  isParked,
  type Outlook,
  outlookOf,
  type PoolObservation,
  wantedDigest,
} from "../../operator/pool/plan.ts";
import type { Forecast } from "./forecast.ts";

/** What is known of a network beside what a pool's planner asks for. */
export interface Surroundings {
  /** As it is, and as it is to be. */
  readonly network: ResultityNetwork;
  readonly proposed: ResultityNetwork;
  readonly config: AimConfig;
  /** Why the network's config is not known; each move then counts as one that interrupts jobs. */
  readonly problem: string | undefined;
  /** Digests of the images that a host has, as far as nodes there run them. */
  readonly imagesAt: ReadonlyMap<string, ReadonlySet<string>>;
}

/** Why a node does not move though it is to: a person, a rule, or a neighbour. */
export type HeldBy = "parked" | "paused" | "partition" | "window" | "approval" | "budget";

/** What becomes of one node. */
export interface NodePlan {
  readonly node: string;
  readonly host?: string;
  /** The largest of the steps; `none` = it is as it should be; `unknown` = that cannot be told from here. */
  readonly does: (Outlook & { readonly refused?: undefined })["does"] | "delete" | "none";
  /** All of them, in order. */
  readonly steps: readonly { readonly action: string; readonly reason: string }[];
  /** Whether its jobs are interrupted. */
  readonly interrupts: boolean;
  readonly held?: HeldBy;
  /** It is not carried out, and stops the others once it has been told. */
  readonly refused?: { readonly reason: string; readonly message: string };
  /** Image that its host has to fetch first. */
  readonly fetches?: string;
}

const nothing = { does: "none", steps: [], interrupts: false } as const;

/** What a change does to nodes of one network. Nodes that are alike are asked once. */
export class Outlooks {
  readonly #around: Surroundings;
  readonly #now: number;
  readonly #known = new Map<string, Outlook>();
  readonly #texts = new WeakMap<ResultityNode["spec"], string>();

  constructor(around: Surroundings, now: number) {
    this.#around = around;
    this.#now = now;
  }

  /** Whether anything is known of what configs do. */
  get informed(): boolean {
    return this.#around.config.release !== undefined;
  }

  of(node: ResultityNode, spec: ResultityNode["spec"], digest: string): Outlook {
    const { network, proposed, config } = this.#around;
    const key = `${this.#textOf(node.spec)} ${this.#textOf(spec)} ${node.status?.config?.applied} ${digest}`;
    const before = this.#known.get(key);
    if (before) return before;
    const shared = ({ spec: { agent, endpoints } }: ResultityNetwork) => ({
      agentImage: agent.image,
      endpoints,
    });
    const outlook = outlookOf({
      node,
      from: shared(network),
      to: { ...shared(proposed), spec, digest: digest as ConfigDigest },
      config,
      now: this.#now,
    });
    this.#known.set(key, outlook);
    return outlook;
  }

  /** What a spec says; of thousands of nodes it is asked several times. */
  #textOf(spec: ResultityNode["spec"]): string {
    const known = this.#texts.get(spec);
    if (known !== undefined) return known;
    const { replicas: _replicas, identity: _identity, ...own } = spec;
    const text = JSON.stringify(own);
    this.#texts.set(spec, text);
    return text;
  }

  /** The same for people, with what the host has to fetch. */
  plan(
    node: ResultityNode,
    spec: ResultityNode["spec"],
    digest: string | undefined,
    held?: HeldBy,
  ): NodePlan {
    const host = node.status?.hostName;
    const named = { node: node.metadata.name, ...(host === undefined ? {} : { host }) };
    if (digest === undefined || !this.informed) return { ...named, ...nothing, does: "unknown" };
    const outlook = this.of(node, spec, digest);
    if (outlook.refused) return { ...named, ...nothing, refused: outlook.refused };
    const { does, steps, interrupts, image } = outlook;
    const moves = does !== "none" || node.status?.config?.applied !== digest;
    const fetches = host !== undefined && this.#lacks(host, image) && bringsImage.has(does);
    return {
      ...named,
      does: does === "none" && moves ? "live" : does,
      steps,
      interrupts,
      ...(held === undefined || !moves ? {} : { held }),
      ...(fetches ? { fetches: image } : {}),
    };
  }

  #lacks(host: string, image: string): boolean {
    return !this.#around.imagesAt.get(host)?.has(digestOfImage(image));
  }
}

const bringsImage: ReadonlySet<string> = new Set(["patch-runtime", "recreate", "unknown"]);

const digestOfImage = (image: string): string => image.slice(image.lastIndexOf("@") + 1);

/** Images by host, as nodes that run there show them. */
export function imagesAt(nodes: readonly ResultityNode[]): ReadonlyMap<string, ReadonlySet<string>> {
  const images = new Map<string, Set<string>>();
  for (const { status } of nodes) {
    const { hostName, runtime } = status ?? {};
    if (hostName === undefined || !runtime) continue;
    const there = images.get(hostName) ?? new Set();
    images.set(hostName, there.add(digestOfImage(runtime.image)));
  }
  return images;
}

/** What becomes of each node of a pool, those that are to come and to go among them. */
export function nodePlans(
  seen: PoolObservation,
  ahead: Forecast,
  outlooks: Outlooks,
  approval: string | undefined,
): readonly NodePlan[] {
  const { pool } = seen;
  const wanted = approval ?? wantedDigest(seen);
  const held = new Set(ahead.held);
  const gone = new Set(ahead.steps.filter(({ does }) => does.includes("retire")).map(({ node }) => node));
  // What each child has of its own changes nothing in what becomes of it.
  const spec = { ...childSpec(pool.spec), replicas: 1 };
  const plans = seen.children.map((child): NodePlan => {
    const { name } = child.metadata;
    if (isLeaving(child) || gone.has(name))
      return { node: name, ...nothing, does: "delete", interrupts: true };
    const by = heldBy(seen, child, held.has(name), approval !== undefined);
    return outlooks.plan(child, spec, wanted, by);
  });
  const there = new Set(seen.children.map(({ metadata }) => metadata.name));
  const created = ahead.steps.filter(({ node, does }) => does.includes("create") && !there.has(node));
  return [...plans, ...created.map(({ node }) => ({ node, ...nothing, does: "create" as const }))];
}

function heldBy(
  seen: PoolObservation,
  child: ResultityNode,
  isHeld: boolean,
  unapproved: boolean,
): HeldBy | undefined {
  if (isParked(child)) return "parked";
  if (unapproved) return "approval";
  if (isHeldBack(seen.pool, child)) return "partition";
  if (!isHeld) return undefined;
  if (seen.pool.spec.strategy.paused) return "paused";
  return seen.mayRestart ? "budget" : "window";
}
