/** Vectors of the documents that releases allow, and of what a node makes of them. */
import type { RuntimeWish } from "../../src/protocol/config/select.ts";
import { digestOf, type Snapshot } from "../../src/protocol/config/snapshot.ts";
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
    of("no limits", "schema", changed({ limits: undefined })),
    of("max_jobs 0", "schema", changed({ limits: { ...snapshot.limits, max_jobs: 0 } })),
    of("duplicate keys", "malformed", snapshotText.replace('"network"', '"version":"1","network"')),
  ];
  const hashed = (text: string): object => ({ text, digest: digestOf(Buffer.from(text)) });
  return {
    about:
      "`cases`: is `text` (its UTF-8 bytes) the snapshot `digest` of `network`? `digests`: digests of texts.",
    cases,
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
