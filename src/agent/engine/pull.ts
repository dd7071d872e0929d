import type { Timer } from "../../lib/clock.ts";
import type { Ports } from "../ports.ts";
import type { LiveModels } from "./adapter.ts";
import { engineHost } from "./argv.ts";

/** Longest silence of a pull: an engine that hashes what it has fetched says nothing meanwhile. */
const silenceMs = 1_800_000;
const maxLineBytes = 64 * 1024;
/** Parts of the largest models are some hundreds. */
const maxParts = 4096;

/** A model that an engine pulls. */
export interface Pulling {
  readonly model: string;
  /** Bytes of the parts that the engine has told of so far; 0 of 0 before the first. */
  readonly bytes: number;
  readonly total: number;
}

/**
 * Has an engine pull a model, and hears how far it is.
 *
 * @param signal ends it: the engine keeps what it has, and the next pull goes on with it.
 * @throws Error with the engine's own words when it fails.
 */
export function pullModel(
  { http, clock }: Pick<Ports, "http" | "clock">,
  live: LiveModels,
  { port, model }: { readonly port: number; readonly model: string },
  progress: (pulling: Pulling) => void,
  signal: AbortSignal,
): Promise<void> {
  const { path, body } = live.pull(model);
  return new Promise((resolve, reject) => {
    const parts = new Map<string, { readonly bytes: number; readonly total: number }>();
    let status = 0;
    let text = "";
    let done = false;
    let silence: Timer | undefined;
    const end = (error?: Error) => {
      silence?.cancel();
      signal.removeEventListener("abort", abort);
      exchange.abort();
      if (error) reject(error);
      else resolve();
    };
    const abort = () => end(new Error("not wanted any more"));
    const heard = () => {
      silence?.cancel();
      silence = clock.setTimer(
        () => end(new Error(`the engine has said nothing for ${silenceMs / 60_000} min`)),
        silenceMs,
      );
    };
    const line = (words: string) => {
      if (status !== 200 || words.trim() === "") return;
      const said = live.readPull(Buffer.from(words, "latin1").toString("utf8"));
      if (said === "done") done = true;
      else if (said) {
        parts.set(said.part, said);
        if (parts.size > maxParts) throw new Error(`the engine tells of more than ${maxParts} parts`);
        const sum = (of: "bytes" | "total") => [...parts.values()].reduce((all, part) => all + part[of], 0);
        progress({ model, bytes: sum("bytes"), total: sum("total") });
      }
    };
    const exchange = http.request(
      {
        method: "POST",
        url: `http://${engineHost}:${port}${path}`,
        headers: { "content-type": "application/json" },
        body: JSON.stringify(body),
      },
      {
        head: (head) => (status = head.status),
        data(bytes) {
          heard();
          text += Buffer.from(bytes).toString("latin1");
          try {
            const lines = status === 200 ? text.split("\n") : [text.slice(0, maxLineBytes)];
            text = lines.pop() ?? "";
            if (text.length > maxLineBytes) throw new Error("the engine's answer has a line without end");
            for (const words of lines) line(words);
          } catch (thrown) {
            end(thrown instanceof Error ? thrown : new Error(String(thrown)));
          }
        },
        end() {
          try {
            line(text);
          } catch (thrown) {
            end(thrown instanceof Error ? thrown : new Error(String(thrown)));
            return;
          }
          if (status !== 200) end(new Error(`the engine answered HTTP ${status}: ${text.slice(0, 200)}`));
          else end(done ? undefined : new Error("the engine ended the pull before it was done"));
        },
        failed: (error) => end(error),
      },
    );
    heard();
    signal.addEventListener("abort", abort);
    if (signal.aborted) abort();
  });
}
