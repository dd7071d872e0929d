import { ProtocolError } from "../codes.ts";
import type { RuntimeEntry, Snapshot } from "./snapshot.ts";

/** What a node is, as far as the choice of its runtime goes. */
export interface RuntimeWish {
  readonly engine: string;
  /** GPU product of the host; undefined = unknown. */
  readonly gpuProduct?: string | undefined;
  /** Image that the node's spec narrows to; must be one that the snapshot lists, by digest. */
  readonly image?: string | undefined;
  /** Models that the node's spec asks for; empty = all that the snapshot has for the engine. */
  readonly models: readonly string[];
}

/** Runtime and models of one node under one snapshot. */
export interface Selection {
  readonly runtime: RuntimeEntry;
  readonly models: readonly string[];
}

const imageDigest = (image: string): string => image.slice(image.lastIndexOf("@") + 1);

/**
 * Picks the runtime entry and the models of a node. Operator and agent call this same function, so they agree. The
 * first entry wins that is for the engine and for the GPU product; an entry for the product beats one for any.
 *
 * @throws {ProtocolError} `no_runtime` names what was looked for.
 */
export function selectRuntime(snapshot: Snapshot, wish: RuntimeWish): Selection {
  const ofEngine = snapshot.runtimes.filter(({ engine }) => engine === wish.engine);
  if (ofEngine.length === 0) {
    const listed = [...new Set(snapshot.runtimes.map(({ engine }) => engine))].join(", ");
    throw new ProtocolError(
      "no_runtime",
      `config ${snapshot.version} has no runtime for engine ${wish.engine}; it has ${listed}`,
    );
  }
  const ofProduct = ofEngine.filter(
    ({ gpu_products: products }) => wish.gpuProduct !== undefined && products.includes(wish.gpuProduct),
  );
  const forAny = ofEngine.filter(({ gpu_products: products }) => products.length === 0);
  const candidates = [...ofProduct, ...forAny];
  const { image } = wish;
  const runtime =
    image === undefined
      ? candidates[0]
      : candidates.find((entry) => imageDigest(entry.image) === imageDigest(image));
  if (!runtime) {
    const what = image === undefined ? `GPU product ${wish.gpuProduct ?? "(unknown)"}` : `image ${image}`;
    throw new ProtocolError(
      "no_runtime",
      `config ${snapshot.version} approves no ${wish.engine} runtime for ${what}`,
    );
  }
  const approved = snapshot.models
    .filter(({ engines }) => engines.length === 0 || engines.includes(wish.engine))
    .map(({ name }) => name);
  const models = wish.models.length === 0 ? approved : wish.models.filter((name) => approved.includes(name));
  if (wish.models.length > 0 && models.length === 0) {
    throw new ProtocolError(
      "no_runtime",
      `config ${snapshot.version} approves none of the models ${wish.models.slice(0, 4).join(", ")}`,
    );
  }
  return { runtime, models };
}
