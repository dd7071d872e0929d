import { createHash } from "node:crypto";
import { closeSync, openSync, readdirSync, readSync, statSync } from "node:fs";
import { join } from "node:path";
import { messageOf } from "../../../lib/errors.ts";
import { snapshotSchema } from "../../../protocol/config/snapshot.ts";
import { type WeightFile, weightsDigest } from "../../../protocol/config/weights.ts";
import { type Command, CommandError } from "../command.ts";

/** Writes what a config says of a model's weights, from the folder that has them. */
export const configWeights: Command = {
  name: "config weights",
  positionals: ["MODEL", "DIR"],
  summary: "Hashes the files of a model and prints its entry for `models` of a config, as JSON.",
  details:
    "Nodes fetch <source>/<path> of each file and take it only with this hash; the engine's command names the folder as\n" +
    "{model_path}. Files whose names begin with a dot are left out; links are followed.\n" +
    "  io config weights org/model ./model --source https://weights.example.com/org/model",
  flags: [
    {
      name: "source",
      value: "URL",
      help: "where nodes find the files; the first is tried first",
      multiple: true,
    },
    { name: "engine", value: "NAME", help: "engine that may serve it (default: any)", multiple: true },
  ],
  run({ args, out, note }) {
    const dir = args.at(1);
    const sources = args.all("source");
    const files = listed(dir, "");
    const entry = {
      name: args.at(0),
      engines: args.all("engine"),
      files,
      ...(sources.length > 0 && { sources }),
    };
    const checked = snapshotSchema.shape.models.safeParse([entry]);
    if (!checked.success) {
      const [issue] = checked.error.issues;
      const [, field = "", at, ...rest] = issue?.path ?? [];
      const which = field === "files" && typeof at === "number" ? ` (${files[at]?.path ?? ""})` : "";
      const place = [field, at, ...rest].filter((part) => part !== undefined).join(".");
      throw new CommandError(
        "refused",
        `${dir}: ${place || "the entry"}${which} is not as docs/protocol.md §2.5 says: paths are of letters, digits and . _ @ + = , -, at most 256 files`,
      );
    }
    out(JSON.stringify(entry, null, 1));
    note(`${files.length} file(s), identity ${weightsDigest(files)}`);
  },
};

function listed(dir: string, prefix: string): WeightFile[] {
  try {
    return readdirSync(join(dir, prefix))
      .filter((name) => !name.startsWith("."))
      .sort()
      .flatMap((name) => {
        const path = prefix === "" ? name : `${prefix}/${name}`;
        const seen = statSync(join(dir, path));
        if (seen.isDirectory()) return listed(dir, path);
        return [{ path, sha256: hashOf(join(dir, path)), size: seen.size }];
      });
  } catch (error) {
    throw new CommandError("refused", `${dir}: ${messageOf(error)}`);
  }
}

/** Piece by piece: a file of weights is larger than memory. */
function hashOf(path: string): string {
  const hash = createHash("sha256");
  const piece = Buffer.alloc(4 * 1024 * 1024);
  const file = openSync(path, "r");
  try {
    for (let read = readSync(file, piece); read > 0; read = readSync(file, piece))
      hash.update(piece.subarray(0, read));
  } finally {
    closeSync(file);
  }
  return hash.digest("hex");
}
