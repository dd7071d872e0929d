/** Vectors of the documents that releases allow, and of what a node makes of them. */
import type { RuntimeWish } from "../../src/protocol/config/select.ts";
import { digestOf, type Snapshot } from "../../src/protocol/config/snapshot.ts";
import { type WeightFile, weightsDigest } from "../../src/protocol/config/weights.ts";
import { type Case, digest, network, snapshot, snapshotText } from "./fixed.ts";

export function snapshotVectors(): object {
  const of = (
    name: string,
    verdict: string,
    text: string,
    wanted: string = digestOf(Buffer.from(text)),
    of_ = network,
  ): Case => ({
    name,
    verdict,
    digest: wanted,
    network: of_,
    text,
  });
  const changed = (change: Record<string, unknown>): string => JSON.stringify({ ...snapshot, ...change });
  const [runtime] = snapshot.runtimes;
  const file = (path: string): WeightFile => ({ path, sha256: "e".repeat(64), size: 3 });
  const withFiles = (files: readonly object[], more: object = {}): string =>
    changed({ models: [{ name: "org/small", engines: [], files, ...more }] });
  const sources = [
    "https://weights.test/org/small/resolve/main",
    "http://10.0.0.7:8080",
    "file:///srv/weights",
  ];
  const paths = [
    ["that climbs", "../key.jwk"],
    ["that climbs inside", "a/../../b"],
    ["that is absolute", "/etc/passwd"],
    ["with NUL", "a\u0000b"],
    ["with a backslash", "a\\b"],
    ["with an empty part", "a//b"],
    ["that ends with a slash", "a/"],
    ["that is the folder itself", "."],
    ["of 256 characters", "a".repeat(256)],
    ["of 64 KiB", "a".repeat(65_536)],
    ["with a space", "a b"],
    ["with an escape", "%2e%2e/b"],
    ["in other letters", "gewichte-ä"],
  ] as const;
  const cases: Case[] = [
    of("as published", "valid", snapshotText),
    of("other white space, its own digest", "valid", JSON.stringify(snapshot, null, 2)),
    of("an unknown member", "valid", changed({ hint: 1 })),
    of(
      "other white space, the first one's digest",
      "digest_mismatch",
      JSON.stringify(snapshot, null, 2),
      digest,
    ),
    of("a newline added", "digest_mismatch", `${snapshotText}\n`, digest),
    of("for another network", "wrong_network", snapshotText, digest, "mainnet"),
    {
      name: "262145 bytes",
      verdict: "too_large",
      digest: digestOf(Buffer.from(" ".repeat(262_145))),
      network,
      repeat: [[" ", 262_145]],
    },
    of("no runtimes", "schema", changed({ runtimes: [] })),
    of(
      "an image by tag",
      "schema",
      changed({ runtimes: [{ ...runtime, image: "registry.test/vllm:latest" }] }),
    ),
    of("an unknown launcher", "schema", changed({ runtimes: [{ ...runtime, launcher: "systemd" }] })),
    of("a model that climbs", "schema", changed({ models: [{ name: "a/../../b", engines: [] }] })),
    of(
      "a model with files and sources",
      "valid",
      withFiles([file("config.json"), file("weights/model-00001-of-00002.safetensors")], { sources }),
    ),
    of("a model with files that nobody need fetch", "valid", withFiles([file("model.gguf")])),
    of("a file of no bytes", "valid", withFiles([{ ...file("empty"), size: 0 }])),
    of("sources without files", "schema", changed({ models: [{ name: "m", engines: [], sources }] })),
    of("a model of no files", "schema", withFiles([])),
    of("257 files", "schema", withFiles(Array.from({ length: 257 }, (_, at) => file(`part-${at}`)))),
    of("the same path twice", "schema", withFiles([file("a"), file("a")])),
    of("a path that is another one's folder", "schema", withFiles([file("a/b"), file("a")])),
    of("a file of -1 bytes", "schema", withFiles([{ ...file("a"), size: -1 }])),
    of("a file's hash in capitals", "schema", withFiles([{ ...file("a"), sha256: "E".repeat(64) }])),
    ...paths.map(([what, path]) => of(`a file's path ${what}`, "schema", withFiles([file(path)]))),
    ...[
      "ftp://weights.test/x",
      "https://user:secret@weights.test/x",
      "https://weights.test/x?sig=1",
      "https:///x",
      "file://host/x",
      "weights",
    ].map((source) => of(`the source ${source}`, "schema", withFiles([file("a")], { sources: [source] }))),
    of("no limits", "schema", changed({ limits: undefined })),
    of("max_jobs 0", "schema", changed({ limits: { ...snapshot.limits, max_jobs: 0 } })),
    of("duplicate keys", "malformed", snapshotText.replace('"network"', '"version":"1","network"')),
  ];
  const listed = (files: readonly WeightFile[]): object => ({ files, digest: weightsDigest(files) });
  const hashed = (text: string): object => ({ text, digest: digestOf(Buffer.from(text)) });
  return {
    about:
      "`cases`: is `text` (its UTF-8 bytes) the snapshot `digest` of `network`? `digests`: digests of texts. `weights`: identities of lists of files.",
    cases,
    weights: [
      listed([file("model.gguf")]),
      listed([file("b"), file("a/c"), file("a-b"), file("B")]),
      listed([{ path: "empty", sha256: "0".repeat(64), size: 0 }]),
    ],
    digests: [hashed(""), hashed("{}"), hashed('{"ä":"😀"}'), hashed(snapshotText)],
  };
}

export function selectVectors(): object {
  const of = (
    name: string,
    wish: RuntimeWish,
    chosen?: { runtime: number; models: readonly string[] },
  ): Case => ({
    name,
    verdict: chosen ? "valid" : "no_runtime",
    wish,
    ...chosen,
  });
  const all = ["org/small", "org/large:fp8"];
  const h100 = "NVIDIA-H100-80GB-HBM3";
  const image = (at: number): string => snapshot.runtimes[at]?.image ?? "";
  const mirrored = `mirror.test/x@${image(1).slice(image(1).lastIndexOf("@") + 1)}`;
  const onlyFor: Snapshot = { ...snapshot, runtimes: snapshot.runtimes.slice(1, 2) };
  const cases: Case[] = [
    of("product unknown: the entry for any", { engine: "vllm", models: [] }, { runtime: 0, models: all }),
    of(
      "a product with an entry of its own",
      { engine: "vllm", gpuProduct: h100, models: [] },
      { runtime: 1, models: all },
    ),
    of(
      "a product without one",
      { engine: "vllm", gpuProduct: "NVIDIA-L4", models: [] },
      { runtime: 0, models: all },
    ),
    of(
      "models are only those for the engine",
      { engine: "ollama", models: [] },
      { runtime: 2, models: ["org/small"] },
    ),
    of(
      "models in the order in which the node asks",
      { engine: "vllm", models: ["org/large:fp8", "org/small"] },
      { runtime: 0, models: ["org/large:fp8", "org/small"] },
    ),
    of(
      "models that are not approved fall away",
      { engine: "vllm", models: ["other", "org/small"] },
      { runtime: 0, models: ["org/small"] },
    ),
    of(
      "an image narrows by digest, wherever it lies",
      { engine: "vllm", gpuProduct: h100, image: mirrored, models: [] },
      { runtime: 1, models: all },
    ),
    of(
      "an image narrows to the entry for any",
      { engine: "vllm", gpuProduct: h100, image: image(0), models: [] },
      { runtime: 0, models: all },
    ),
    of("an image for another product", {
      engine: "vllm",
      gpuProduct: "NVIDIA-L4",
      image: image(1),
      models: [],
    }),
    of("an image that is not listed", { engine: "vllm", image: `x@sha256:${"d".repeat(64)}`, models: [] }),
    of("an engine that is not listed", { engine: "sglang", models: [] }),
    of("an engine in another case", { engine: "VLLM", models: [] }),
    of("none of the models approved", { engine: "vllm", models: ["other"] }),
    {
      ...of("only entries for another product", { engine: "vllm", gpuProduct: "NVIDIA-L4", models: [] }),
      snapshot: onlyFor,
    },
  ];
  return {
    about:
      "Which runtime entry (its index in `runtimes`) and which models a node gets of `snapshot`, or of the case's own.",
    snapshot,
    cases,
  };
}
