/**
 * The program that the kubelet suite runs in its pods: plain JavaScript without dependencies, so that an image needs
 * Node alone. `node fixture.mjs <version> sidecar|engine [--option=value …]`
 *
 * Everything that it sees goes into a timeline, one JSON object a line: `{t, who, version, instance, event, …}`,
 * `t` in milliseconds since the epoch. Environment: `WHO` names the container, `TIMELINE` the file.
 *
 * sidecar: HTTP on POD_IP:9440
 *   GET  /startup /ready /live   200 or 503, as the switch of that name says (all on, unless `--off=startup,live`);
 *                                /live is 503 only while the engine runs
 *   GET  /drain?delay=<ms>       answers after the delay; events `drain-begin` and `drain-end`
 *   GET  /whoami                 {version, instance, who}
 *   POST /switch?<name>=on|off   turns a switch
 *   `--watch=/a,/b`              looks at the files every 20 ms; event `file` {path, content} at each change
 *   `--fails-as=<version>`       ends at once with code 1 if that is its version
 * engine: nothing on the network, unless
 *   `--listen=127.0.0.1:9999`    answers 200 there; event `listening`; `POD_IP` stands for the pod's address
 *   `--exit=<code>`              ends at once with the code
 *   `--deaf`                     ignores SIGTERM
 *   `--child`                    a child does the listening, which outlives it unless the kubelet ends it
 * both:
 *   `--write=/path:content`      writes a file before anything else; `--append` adds to one
 *   `--try=/a,/b`                reads the files once; event `try` {path, content} or {path, error}
 *   `--env=A,B`                  event `env` with the values
 */
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { appendFileSync, mkdirSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { dirname } from "node:path";

const [version, mode, ...rest] = process.argv.slice(2);
const options = new Map(
  rest.map((argument) => {
    const text = argument.replace(/^--/, "");
    const cut = text.indexOf("=");
    return cut === -1 ? [text, ""] : [text.slice(0, cut), text.slice(cut + 1)];
  }),
);
const listOf = (name) => (options.get(name) ?? "").split(",").filter((part) => part !== "");
const instance = randomUUID();
const who = process.env.WHO ?? mode;

function note(event, more = {}) {
  const line = JSON.stringify({ t: Date.now(), who, version, instance, event, ...more });
  console.log(line);
  const file = process.env.TIMELINE;
  if (!file) return;
  mkdirSync(dirname(file), { recursive: true });
  appendFileSync(file, `${line}\n`);
}

function contentOf(path) {
  try {
    return {
      content: statSync(path).isDirectory() ? readdirSync(path).join(" ") : readFileSync(path, "utf8"),
    };
  } catch (error) {
    return { error: error.code };
  }
}

for (const [option, write] of [
  ["write", writeFileSync],
  ["append", appendFileSync],
]) {
  const text = options.get(option);
  if (text) write(text.slice(0, text.indexOf(":")), text.slice(text.indexOf(":") + 1));
}

process.on("SIGTERM", () => {
  note("term");
  if (options.has("deaf")) return;
  note("exit", { code: 0 });
  process.exit(0);
});
note("start", { pid: process.pid, startedBy: process.ppid });
for (const path of listOf("try")) note("try", { path, ...contentOf(path) });
if (options.has("env")) {
  note("env", { values: Object.fromEntries(listOf("env").map((name) => [name, process.env[name] ?? null])) });
}

switch (mode) {
  case "sidecar":
    sidecar();
    break;
  case "engine":
    engine();
    break;
  default:
    note("exit", { code: 64, reason: `no such mode: ${mode}` });
    process.exit(64);
}

/** True once the engine has begun to heed SIGTERM: one that is told to stop before that does not hear it. */
function engineRuns() {
  const { content = "" } = contentOf(process.env.TIMELINE ?? "");
  const events = content.split("\n").filter((line) => line.includes('"who":"runtime"'));
  return events.at(-1)?.includes('"event":"start"') ?? false;
}

function sidecar() {
  if (options.get("fails-as") === version) {
    note("exit", { code: 1 });
    process.exit(1);
  }
  const off = new Set(listOf("off"));
  const server = createServer((request, response) => {
    const url = new URL(request.url ?? "/", "http://sidecar");
    const answer = (status, body) => {
      response.writeHead(status, { "content-type": "application/json" });
      response.end(JSON.stringify(body));
    };
    switch (url.pathname) {
      case "/startup":
      case "/ready":
        answer(off.has(url.pathname.slice(1)) ? 503 : 200, {});
        break;
      case "/live":
        answer(off.has("live") && engineRuns() ? 503 : 200, {});
        break;
      case "/whoami":
        answer(200, { version, instance, who });
        break;
      case "/switch":
        for (const [name, value] of url.searchParams) {
          if (value === "off") off.add(name);
          else off.delete(name);
          note("switch", { name, value });
        }
        answer(200, {});
        break;
      case "/drain":
        note("drain-begin");
        setTimeout(
          () => {
            note("drain-end");
            answer(200, {});
          },
          Number(url.searchParams.get("delay") ?? 0),
        );
        break;
      default:
        answer(404, {});
    }
  });
  server.listen(9440, process.env.POD_IP, () => note("listening", { host: process.env.POD_IP }));
  const seen = new Map();
  const look = () => {
    for (const path of listOf("watch")) {
      const { content } = contentOf(path);
      if (content === undefined || content === seen.get(path)) continue;
      seen.set(path, content);
      note("file", { path, content });
    }
  };
  look();
  setInterval(look, 20);
}

function engine() {
  if (options.has("exit")) {
    const code = Number(options.get("exit"));
    note("exit", { code });
    process.exit(code);
  }
  if (options.has("child")) {
    // In a session of its own, so that no signal to its parent's group reaches it.
    spawn(process.execPath, [process.argv[1], version, "engine", `--listen=${options.get("listen")}`], {
      detached: true,
      stdio: "inherit",
      env: { ...process.env, WHO: `${who}-child` },
    });
    return;
  }
  if (options.has("listen")) {
    const [name, port] = (options.get("listen") ?? "").split(":");
    const host = name === "POD_IP" ? process.env.POD_IP : name;
    const server = createServer((_request, response) => response.end("engine"));
    server.listen(Number(port), host, () => note("listening", { host }));
    return;
  }
  setInterval(() => {}, 1_000_000);
}
