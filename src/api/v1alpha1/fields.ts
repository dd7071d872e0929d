/**
 * Field schemas that several kinds share, and the means to write a rule once for both checkers: the API server, which
 * reads CEL from the CRD, and zod. Messages say what is wrong and what to write instead; the API server puts the
 * field's path before them.
 */
import { z } from "zod";

/** One validation rule of a field. */
export interface Rule<T> {
  /** CEL over `self`, and `oldSelf` for a rule about a change (Kubernetes docs, "CRD validation rules"). */
  readonly cel: string;
  readonly message: string;
  /** The same rule for zod. Absent where only the API server can tell: a change from the stored object. */
  readonly check?: (value: T) => boolean;
}

/** `schema` with `rules` for zod and, as `x-kubernetes-validations`, for the API server. */
export function withRules<S extends z.ZodType>(schema: S, ...rules: readonly Rule<z.output<S>>[]): S {
  let ruled: z.ZodType = schema;
  for (const { check, message } of rules) {
    if (check) ruled = ruled.refine((value) => check(value as z.output<S>), { message });
  }
  const validations = rules.map(({ cel, message }) => ({ rule: cel, message }));
  // refine() and meta() keep the type of what they are called on; the loop above loses it.
  return ruled.meta({ "x-kubernetes-validations": validations }) as S;
}

/** A rule that a string matches `pattern`, which must mean the same in RE2: no look-around, no back reference. */
export function matching(pattern: RegExp, message: string): Rule<string> {
  return {
    cel: `self.matches(${JSON.stringify(pattern.source)})`,
    message,
    check: (value) => pattern.test(value),
  };
}

/** A rule that the field never changes once the object exists. */
export function immutable(message: string): Rule<unknown> {
  return { cel: "self == oldSelf", message };
}

/** A rule that exactly one of `names` is set in an object. */
export function exactlyOne<Name extends string>(
  names: readonly Name[],
  message: string,
): Rule<{ [N in Name]?: unknown }> {
  const count = names.map((name) => `(has(self.${name}) ? 1 : 0)`).join(" + ");
  return {
    cel: `${count} == 1`,
    message,
    check: (value) => names.filter((name) => value[name] !== undefined).length === 1,
  };
}

/** A list that server-side apply merges by `keys`, which are unique together. */
export function listMap<S extends z.ZodType>(item: S, keys: readonly string[], maxItems: number) {
  return z
    .array(item)
    .max(maxItems)
    .meta({ "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": keys });
}

/** A list of distinct scalars. */
export function listSet<S extends z.ZodType>(item: S, maxItems: number) {
  return z.array(item).max(maxItems).meta({ "x-kubernetes-list-type": "set" });
}

/** A list that is replaced as a whole. */
export function listAtomic<S extends z.ZodType>(item: S, maxItems: number) {
  return z.array(item).max(maxItems).meta({ "x-kubernetes-list-type": "atomic" });
}

const dnsLabelPattern = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?$/;

/** Name of a DNS label (RFC 1123): at most 63 lower-case letters, digits and dashes. */
export const dnsLabel = () => z.string().min(1).max(63).regex(dnsLabelPattern);

/** Name of a Kubernetes object whose names are DNS subdomains (Secret, ConfigMap, claim, class). */
export const objectName = () =>
  z
    .string()
    .min(1)
    .max(253)
    .regex(/^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/);

/** Key of an entry in a ConfigMap or Secret. */
export const dataKey = () =>
  z
    .string()
    .min(1)
    .max(253)
    .regex(/^[-._a-zA-Z0-9]+$/);

/** Value of a label. */
export const labelValue = () =>
  z
    .string()
    .max(63)
    .regex(/^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$/);

const qualifiedNamePattern = /^([a-z0-9]([-a-z0-9.]*[a-z0-9])?\/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$/;

/** Key of a label, name of a resource or topology: an optional DNS prefix and a name. */
export const qualifiedName = () => z.string().min(1).max(317).regex(qualifiedNamePattern);

/** A map whose keys are label keys, annotation keys or resource names. */
export const qualifiedMap = <S extends z.ZodType>(value: S, maxProperties: number) =>
  withRules(z.record(qualifiedName(), value).meta({ maxProperties }), ...qualifiedKeys);

/** The rule about the keys of a {@link qualifiedMap}: a CRD's schema can bound values, not keys. */
export const qualifiedKeys: readonly Rule<Record<string, unknown>>[] = [
  {
    cel: `self.all(k, k.size() <= 317 && k.matches(${JSON.stringify(qualifiedNamePattern.source)}))`,
    message: "keys must be a name of letters, digits and - _ . after an optional DNS prefix and a slash",
  },
];

const digestPattern = /^sha256:[0-9a-f]{64}$/;

/** Digest of a config snapshot, as a user writes it. */
export const digest = () =>
  withRules(
    z.string().max(71),
    matching(digestPattern, 'must be a digest: "sha256:" and 64 lower-case hex digits'),
  );

/** Digest in a status, where no person needs a message. */
export const observedDigest = () => z.string().max(71).regex(digestPattern);

const imagePattern =
  /^([A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{1,5})?\/)?[a-z0-9][a-z0-9._/-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?@sha256:[0-9a-f]{64}$/;

/** A container image by digest. A tag beside the digest is allowed and means nothing. */
export const image = () =>
  withRules(
    z.string().max(512),
    matching(
      imagePattern,
      'must name the image by digest, since a tag can be moved: write "registry/name@sha256:<64 hex digits>" (look it up with `crane digest` or `docker buildx imagetools inspect`)',
    ),
  );

const quantityPattern = /^([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$/;

/** A Kubernetes quantity that is not negative: `4`, `"500m"`, `"16Gi"`. */
export const quantity = () =>
  z
    .union([z.int().min(0), z.string().max(32).regex(quantityPattern)])
    .meta({ "x-kubernetes-int-or-string": true, minimum: 0, maxLength: 32, pattern: quantityPattern.source });

/** A time as RFC 3339, for a status. */
export const time = () => z.string().max(64).meta({ format: "date-time" });

/** A count in a status. */
export const count = () => z.int().min(0).max(2_147_483_647);

/** The generation of the spec that a status or condition is about. */
export const observedGeneration = () =>
  z
    .int()
    .min(0)
    .describe(
      "The metadata.generation of the spec that this was computed from; older than the object's means not yet looked at.",
    );

const modelNamePattern = /^[A-Za-z0-9][A-Za-z0-9._:/@+-]*$/;

/** Name of a model as the network's config spells it, for example `llama3:8b` or `meta-llama/Llama-3.1-8B`. */
export const modelName = () =>
  withRules(z.string().min(1).max(255), {
    cel: `self.matches(${JSON.stringify(modelNamePattern.source)}) && !self.matches("/[.][.](/|$)")`,
    message:
      "must be a model name as the network's config spells it: letters, digits and . _ : / @ + -, with no part that is `..`",
    check: (name) => modelNamePattern.test(name) && !/\/\.\.(\/|$)/.test(name),
  });

/** Name of an account, a subcloud or an engine at the network. */
export const networkName = () =>
  z
    .string()
    .min(1)
    .max(63)
    .regex(/^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$/);

/** The inference servers that a node can run; `openai` is any server that speaks OpenAI's API. */
export const engines = ["vllm", "ollama", "sglang", "llamacpp", "openai"] as const;
export const engine = () => z.enum(engines);
export type Engine = (typeof engines)[number];
