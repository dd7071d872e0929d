const second = 1000;
const minute = 60 * second;
const hour = 60 * minute;
const day = 24 * hour;

/** A duration in ms as kubectl's AGE column has it: `42s`, `17m`, `5h`, `3d`. Under zero counts as zero. */
export function duration(ms: number): string {
  const positive = Math.max(0, ms);
  if (positive < 2 * minute) return `${Math.floor(positive / second)}s`;
  if (positive < 2 * hour) return `${Math.floor(positive / minute)}m`;
  if (positive < 2 * day) return `${Math.floor(positive / hour)}h`;
  return `${Math.floor(positive / day)}d`;
}

/** How long ago an RFC 3339 time was; empty where there is none. `now` in ms. */
export function ago(time: string | undefined, now: number): string {
  const at = time === undefined ? Number.NaN : Date.parse(time);
  return Number.isNaN(at) ? "" : duration(now - at);
}

/** `in 3d`, or `expired 2h ago`. */
export function expiry(time: string | undefined, now: number): string {
  const at = time === undefined ? Number.NaN : Date.parse(time);
  if (Number.isNaN(at)) return "";
  return at > now ? `in ${duration(at - now)}` : `expired ${duration(now - at)} ago`;
}

/** First twelve digits of a digest, as container tools show it. */
export function shortDigest(digest: string | undefined): string {
  return digest?.replace(/^sha256:/, "").slice(0, 12) ?? "";
}

/** Digest of an image reference, short; a reference without one as it is. */
export function shortImage(image: string | undefined): string {
  if (image === undefined) return "";
  const at = image.lastIndexOf("@");
  return at < 0 ? image : shortDigest(image.slice(at + 1));
}

/** A message whose digests are short. */
export function shortened(message: string): string {
  return message.replaceAll(/sha256:([0-9a-f]{12})[0-9a-f]{52}/g, "$1");
}

/** `1 node`, `2 nodes`. */
export function counted(count: number, word: string): string {
  return `${count} ${word}${count === 1 ? "" : "s"}`;
}
