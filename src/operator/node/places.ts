import type { NetworkSpec } from "../../api/v1alpha1/network.ts";

/** What the owner of a network says about images: `spec.images`. */
export interface ImagePolicy {
  /** Other places of images. `source`: registry, or the beginning of a name up to a slash. */
  readonly mirrors: readonly { readonly source: string; readonly mirrors: readonly string[] }[];
  /** Beginnings of names that may be run; empty = all that the network's config lists. */
  readonly allowed: readonly string[];
  /** Beginnings of names that may not, whatever `allowed` says. */
  readonly denied: readonly string[];
}

export const noImagePolicy: ImagePolicy = { mirrors: [], allowed: [], denied: [] };

/** What a network's spec says. */
export function imagePolicyOf({ images }: NetworkSpec): ImagePolicy {
  const { mirrors = [], allowed = [], denied = [] } = images ?? {};
  return { mirrors, allowed, denied };
}

/** Whether `image` lies under `prefix`: the same name, or one that goes on with a slash, a tag or a digest. */
function isUnder(image: string, prefix: string): boolean {
  const trimmed = prefix.replace(/\/+$/, "");
  return image.startsWith(trimmed) && /^($|[/:@])/.test(image.slice(trimmed.length));
}

/** Why the owner does not let an image run; undefined where it may. The signed name counts, not the mirror's. */
export function refusalOf(image: string, { allowed, denied }: ImagePolicy): string | undefined {
  const deny = denied.find((prefix) => isUnder(image, prefix));
  if (deny !== undefined) return `spec.images.denied of the network lists ${deny}`;
  if (allowed.length === 0 || allowed.some((prefix) => isUnder(image, prefix))) return undefined;
  return `spec.images.allowed of the network lists ${allowed.join(", ")} only`;
}

/**
 * Where an image is to be had, in the order in which it is tried: the mirrors of the longest source that it lies under,
 * then its own place. The digest is the same everywhere.
 */
export function placesOf(image: string, { mirrors }: ImagePolicy): readonly [string, ...string[]] {
  const [longest] = mirrors
    .filter(({ source }) => isUnder(image, source))
    .sort((a, b) => b.source.length - a.source.length);
  if (!longest) return [image];
  const rest = image.slice(longest.source.replace(/\/+$/, "").length);
  const [first = image, ...more] = longest.mirrors.map((mirror) => `${mirror.replace(/\/+$/, "")}${rest}`);
  return [first, ...more, image];
}

/** The place to try after one from which the image does not come; undefined after the last. */
export function nextPlace(tried: string, places: readonly string[]): string | undefined {
  return places[places.indexOf(tried) + 1];
}
