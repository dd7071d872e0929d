/**
 * Makes nodes as the operator does, but without looking at anything: reads a {@link BareJob} from stdin, does all its writes, `parallel`
 * nodes at once and each node's in order, over HTTP/2, and prints how long that took in ms.
 */
import { connect } from "node:http2";
import { text } from "node:stream/consumers";

/** One write, with `{name}` where the node's name stands. */
export interface BareWrite {
  readonly method: "POST" | "PATCH";
  readonly path: string;
  readonly type: string;
  readonly body: string;
}

/** What the client is to do. */
export interface BareJob {
  readonly server: string;
  readonly ca: string;
  readonly token: string;
  readonly names: readonly string[];
  readonly parallel: number;
  /** Each node's, in order. */
  readonly writes: readonly BareWrite[];
}

const job: BareJob = JSON.parse(await text(process.stdin));
const session = connect(job.server, { ca: job.ca });

/** `{uid of <path>}` stands for the UID of what the write to that path has made. */
const uidPattern = /\{uid of ([^\s}]+)\}/g;

function write(
  { method, path, type, body }: BareWrite,
  name: string,
  uids: Map<string, string>,
): Promise<void> {
  const filled = body
    .replaceAll("{name}", name)
    .replace(uidPattern, (_all, of: string) => uids.get(of) ?? "");
  return new Promise((resolve, reject) => {
    const stream = session.request({
      ":method": method,
      ":path": path.replaceAll("{name}", name),
      authorization: `Bearer ${job.token}`,
      accept: "application/json",
      "content-type": type,
      "content-length": String(Buffer.byteLength(filled)),
    });
    let status = 0;
    let answer = "";
    stream.setEncoding("utf8");
    stream.on("response", (headers) => (status = Number(headers[":status"])));
    stream.on("data", (part: string) => (answer += part));
    stream.once("error", reject);
    stream.once("end", () => {
      if (status >= 300)
        reject(new Error(`${method} ${path} for ${name}: ${status} ${answer.slice(0, 500)}`));
      else {
        const { metadata }: { metadata: { uid: string } } = JSON.parse(answer);
        uids.set(path.split("?")[0] ?? path, metadata.uid);
        resolve();
      }
    });
    stream.end(filled);
  });
}

const left = [...job.names];
const started = performance.now();
await Promise.all(
  Array.from({ length: job.parallel }, async () => {
    for (let name = left.shift(); name !== undefined; name = left.shift()) {
      const uids = new Map<string, string>();
      for (const each of job.writes) await write(each, name, uids);
    }
  }),
);
console.log(performance.now() - started);
session.close();
