#!/usr/bin/env node
/**
 * A small OpenAI-compatible inference engine for tests and the demo. It has no model: the answer to a prompt is a
 * sequence of words derived from the SHA-256 of model and messages, so the same request always gets the same text and a
 * client can check every byte of it.
 *
 * Flags: --host (127.0.0.1) --port (8000) --model NAME (repeatable) --token-delay-ms (20) --start-delay-ms (0)
 *   --log FILE (appends one JSON line per request begun and ended, with the `x-request-id` that came with it, and size and
 *   SHA-256 of a large body)
 *   --weights FILE (must be there; its SHA-256 goes into the log line of the start)
 *   --refuse-tests (answers an agent's test request with 500)
 *   --fail-every N (each Nth request is answered with 500; those of the agent's own tests do not count)
 *   --version TEXT (answered by GET /version, written into each log line; default: $ENGINE_VERSION)
 * A request's `answer_bytes` makes a plain answer longer by so many. Switches while it runs: POST /__switch {"mode": …, "tokenDelayMs": …, "times": n} with mode
 *   ok | error (500) | reject (400) | hang (no answer) | stall (stops in mid-answer) | garbage | endless | huge (a right
 *   answer of 1 GiB) | mute (no answer to anything) | crash (exit in mid-answer) | die (exit at once). `times` limits the mode to the next n requests.
 *   The answer has these, and in "sent" how many bytes of the last huge answer have gone out.
 *   "polls": "endless" | "ok" does that to health and lists of models, which a mode leaves alone.
 */
import { createHash } from "node:crypto";
import { appendFileSync, readFileSync } from "node:fs";
import { once } from "node:events";
import { createServer } from "node:http";
import { setTimeout as wait } from "node:timers/promises";
import { parseArgs } from "node:util";
import { answerWords } from "./answer.ts";

const { values: flags } = parseArgs({
  options: {
    host: { type: "string", default: "127.0.0.1" },
    port: { type: "string", default: "8000" },
    model: { type: "string", multiple: true, default: [] },
    "token-delay-ms": { type: "string", default: "20" },
    "start-delay-ms": { type: "string", default: "0" },
    log: { type: "string" },
    weights: { type: "string" },
    "refuse-tests": { type: "boolean", default: false },
    "fail-every": { type: "string" },
    version: { type: "string", default: process.env.ENGINE_VERSION ?? "1" },
  },
});

const weights =
  flags.weights === undefined
    ? undefined
    : createHash("sha256").update(readFileSync(flags.weights)).digest("hex");
const state = {
  polls: "ok",
  mode: "ok",
  times: Infinity,
  sent: 0,
  tokenDelayMs: Number(flags["token-delay-ms"]),
};
const modes = [
  "ok",
  "error",
  "reject",
  "hang",
  "stall",
  "garbage",
  "endless",
  "huge",
  "mute",
  "crash",
  "die",
];
const maxBody = 64 * 1024 * 1024;

function log(entry) {
  const line = `${JSON.stringify({ time: Date.now(), pid: process.pid, version: flags.version, ...entry })}\n`;
  if (flags.log) appendFileSync(flags.log, line);
  else process.stdout.write(line);
}

function json(response, status, body) {
  response.writeHead(status, { "content-type": "application/json" });
  response.end(JSON.stringify(body));
}

const fail = (message, type = "invalid_request_error") => ({
  error: { message, type, param: null, code: null },
});

async function readBody(request) {
  const parts = [];
  let size = 0;
  for await (const part of request) {
    size += part.length;
    if (size > maxBody) throw new Error("body too large");
    parts.push(part);
  }
  return Buffer.concat(parts).toString("utf8");
}

let asked = 0;

function takeMode() {
  const { mode } = state;
  if (mode === "ok" && ++asked % Number(flags["fail-every"]) === 0) return "error";
  if (mode !== "ok" && --state.times <= 0) Object.assign(state, { mode: "ok", times: Infinity });
  return mode;
}

async function complete(request, response) {
  const id = String(request.headers["x-request-id"] ?? "");
  const raw = await readBody(request);
  const body = JSON.parse(raw);
  // The agent's own: no job, so no mode is used up by it.
  if (id === "" && body.max_tokens === 1) return answerTest(body, response);
  const mode = takeMode();
  const large =
    raw.length > 100_000
      ? { bytes: Buffer.byteLength(raw), sha256: createHash("sha256").update(raw).digest("hex") }
      : {};
  log({ event: "begin", id, model: body.model, stream: body.stream === true, mode, ...large });
  const abort = new AbortController();
  response.on("close", () => abort.abort());
  let outcome = "aborted";
  try {
    outcome = await answer(body, mode, request, response, abort.signal);
  } catch (error) {
    if (!abort.signal.aborted) throw error;
  } finally {
    log({ event: "end", id, outcome });
  }
}

function answerTest({ model }, response) {
  const refused = flags["refuse-tests"] || !flags.model.includes(model);
  log({ event: "test", model, outcome: refused ? "refused" : "answered" });
  if (refused) return json(response, 500, fail("out of memory", "server_error"));
  const message = { role: "assistant", content: "word" };
  json(response, 200, { model, choices: [{ index: 0, message, finish_reason: "length" }] });
}

async function answer(body, mode, request, response, signal) {
  const { model, messages } = body;
  if (!flags.model.includes(model)) {
    json(response, 404, fail(`model ${String(model).slice(0, 80)} is not loaded`));
    return "unknown-model";
  }
  if (!Array.isArray(messages) || messages.length === 0) {
    json(response, 400, fail("messages must be a non-empty array"));
    return "bad-request";
  }
  switch (mode) {
    case "error":
      json(response, 500, fail("switched to fail", "server_error"));
      return "error";
    case "reject":
      json(response, 400, fail("switched to reject"));
      return "reject";
    case "die":
      process.exit(3);
      break;
    case "hang":
      await wait(3_600_000, undefined, { signal });
      return "hang";
    case "garbage":
      response.writeHead(200, { "content-type": "application/json" });
      response.end("\u0000\u0001{]not json");
      return "garbage";
    case "endless":
      response.writeHead(200, { "content-type": "text/event-stream" });
      while (!signal.aborted) {
        if (!response.write(`data: ${"x".repeat(64 * 1024)}\n\n`)) await wait(1, undefined, { signal });
      }
      return "endless";
  }
  if (mode === "huge") return await answerHuge(body.stream === true, response, signal);
  const count = Math.min(4096, body.max_completion_tokens ?? body.max_tokens ?? 24);
  const text = answerWords(model, messages, count);
  const promptTokens = JSON.stringify(messages).split(/\s+/).length;
  const usage = { prompt_tokens: promptTokens, completion_tokens: count, total_tokens: promptTokens + count };
  const base = { id: `chatcmpl-${request.headers["x-request-id"] ?? "none"}`, created: 1_700_000_000, model };
  const breakAt = mode === "crash" || mode === "stall" ? Math.ceil(count / 2) : Infinity;
  const stream = body.stream === true;
  if (stream) response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" });
  const send = (delta, finish) =>
    response.write(
      `data: ${JSON.stringify({ ...base, object: "chat.completion.chunk", choices: [{ index: 0, delta, finish_reason: finish }] })}\n\n`,
    );
  if (stream) send({ role: "assistant", content: "" }, null);
  for (const [at, word] of text.entries()) {
    if (at === breakAt) {
      if (mode === "crash") process.exit(4);
      await wait(3_600_000, undefined, { signal });
    }
    if (state.tokenDelayMs > 0) await wait(state.tokenDelayMs, undefined, { signal });
    if (stream) send({ content: at === 0 ? word : ` ${word}` }, null);
  }
  if (stream) {
    send({}, "stop");
    if (body.stream_options?.include_usage) {
      response.write(
        `data: ${JSON.stringify({ ...base, object: "chat.completion.chunk", choices: [], usage })}\n\n`,
      );
    }
    response.end("data: [DONE]\n\n");
  } else {
    const padding = "0123456789abcdef".repeat(Math.ceil((body.answer_bytes ?? 0) / 16));
    const message = { role: "assistant", content: text.join(" ") + padding.slice(0, body.answer_bytes ?? 0) };
    json(response, 200, {
      ...base,
      object: "chat.completion",
      choices: [{ index: 0, message, finish_reason: "stop" }],
      usage,
    });
  }
  return "completed";
}

/** Sends for as long as anyone reads. */
function endless(response) {
  response.writeHead(200, { "content-type": "application/json" });
  const more = () => {
    while (!response.destroyed && response.write(`"${"x".repeat(64 * 1024)}",`));
  };
  response.on("drain", more);
  more();
}

/** An answer that is right in all but its size. */
async function answerHuge(stream, response, signal) {
  const words = "word ".repeat(12_800);
  const [head, part, tail] = stream
    ? [
        "",
        `data: ${JSON.stringify({ choices: [{ index: 0, delta: { content: words } }] })}\n\n`,
        "data: [DONE]\n\n",
      ]
    : ['{"choices":[{"index":0,"message":{"role":"assistant","content":"', words, '"}}]}'];
  const parts = Math.ceil(1024 ** 3 / part.length);
  response.writeHead(200, {
    "content-type": stream ? "text/event-stream" : "application/json",
    "content-length": String(head.length + parts * part.length + tail.length),
  });
  response.write(head);
  for (let at = 0; at < parts; at++) {
    state.sent = at * part.length;
    if (!response.write(part)) await once(response, "drain", { signal });
    signal.throwIfAborted();
  }
  response.end(tail);
  return "completed";
}

async function change(request, response) {
  const wanted = JSON.parse(await readBody(request));
  if (wanted.mode !== undefined && !modes.includes(wanted.mode)) {
    json(response, 400, fail(`mode must be one of ${modes.join(", ")}`));
    return;
  }
  if (wanted.mode !== undefined) Object.assign(state, { mode: wanted.mode, times: wanted.times ?? Infinity });
  if (wanted.polls !== undefined) state.polls = wanted.polls;
  if (wanted.tokenDelayMs !== undefined) state.tokenDelayMs = Number(wanted.tokenDelayMs);
  json(response, 200, { mode: state.mode, tokenDelayMs: state.tokenDelayMs, sent: state.sent });
}

const server = createServer((request, response) => {
  const route = `${request.method} ${new URL(request.url ?? "/", "http://engine").pathname}`;
  const handle = async () => {
    // The port stays open, and nobody answers.
    if (state.mode === "mute" && route !== "POST /__switch") return undefined;
    if (state.polls === "endless" && request.method === "GET") return endless(response);
    switch (route) {
      case "GET /health":
        return json(response, 200, {});
      case "GET /version":
        return json(response, 200, { version: flags.version });
      case "GET /v1/models":
        return json(response, 200, {
          object: "list",
          data: flags.model.map((id) => ({
            id,
            object: "model",
            created: 1_700_000_000,
            owned_by: "test-engine",
          })),
        });
      case "POST /v1/chat/completions":
        return complete(request, response);
      case "POST /__switch":
        return change(request, response);
      default:
        return json(response, 404, fail(`no route ${route.slice(0, 80)}`));
    }
  };
  handle().catch((error) => {
    if (response.headersSent) response.destroy();
    else json(response, 400, fail(`bad request: ${error.message}`));
  });
});

let open = 0;
server.on("connection", (socket) => {
  open++;
  socket.on("close", () => open--);
});
process.on("SIGTERM", () => {
  log({ event: "stop", open });
  process.exit(0);
});

await wait(Number(flags["start-delay-ms"]));
server.listen(Number(flags.port), flags.host, () => {
  const start = { event: "start", host: flags.host, port: server.address().port, models: flags.model };
  log(weights === undefined ? start : { ...start, weights });
});
