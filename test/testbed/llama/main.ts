/** `npx node test/testbed/llama/main.ts`: builds the llama.cpp engine of the tests, or says that it is there. */
import { messageOf } from "../../../src/lib/errors.ts";
import { buildLlama } from "./llama.ts";

try {
  const began = performance.now();
  const { python } = await buildLlama((line) => void process.stderr.write(`${line}\n`));
  process.stdout.write(`llama.cpp engine  ${((performance.now() - began) / 1000).toFixed(1)} s  ${python}\n`);
} catch (thrown) {
  process.stderr.write(`${messageOf(thrown)}\n`);
  process.exitCode = 1;
}
