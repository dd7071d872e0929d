import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { join } from "node:path";
import { settleMs } from "../../src/operator/node/pace.ts";
import { type AuditEntry, isWrite, parseAuditLog } from "../testbed/audit.ts";
import { freePort } from "../testbed/ports.ts";
import { until } from "../testbed/until.ts";
import { type Loop, Service } from "./loop.ts";
import { bundle } from "./paths.ts";

/** User name of the operator's ServiceAccount, as the audit log has it. */
export const operatorUser = "system:serviceaccount:resultity-system:resultity-operator";

/** Starts one more operator beside the loop's own; its log is `<name>.log` in the bed's folder, its metrics are at `metricsURL`. */
export async function startOperator(
  loop: Loop,
  options: { name: string; kubeconfig: string; flags?: readonly string[] },
): Promise<Service & { readonly logFile: string; readonly metricsURL: string }> {
  const { name, kubeconfig, flags = [] } = options;
  const logFile = join(loop.bed.dir, `${name}.log`);
  const listen = `127.0.0.1:${await freePort()}`;
  const args = ["--kubeconfig", kubeconfig, "--metrics-listen", listen, ...flags];
  const start = () =>
    loop.bed.processes.spawn({
      name,
      command: process.execPath,
      args: [bundle("operator"), ...args],
      logFile,
      graceMs: 10_000,
    });
  return Object.assign(new Service(start), { logFile, metricsURL: `http://${listen}/metrics` });
}

/** Writes that change what the operator works on: not the Lease, not events; refused ones and dry runs left out. */
export const isRealWrite = (entry: AuditEntry): boolean =>
  isWrite(entry) &&
  entry.resource !== "leases" &&
  entry.resource !== "events" &&
  entry.code < 300 &&
  !entry.uri.includes("dryRun=All");

/** One request in few words, for the messages of failed assertions. */
export const requestLine = ({ verb, resource, subresource, name, code }: AuditEntry): string =>
  `${verb} ${resource}${subresource ? `/${subresource}` : ""} ${name} → ${code}`;

/** What one user has asked of the API server, as the audit log stands on disk; unlike `bed.audit` it asks nothing itself. */
export class AuditTail {
  /** Requests that {@link read} has found, in order. */
  readonly entries: AuditEntry[] = [];
  readonly #path: string;
  readonly #user: string;
  #offset = 0;
  #rest = "";

  constructor(loop: Loop, user: string) {
    this.#path = loop.bed.audit.path;
    this.#user = user;
  }

  read(): void {
    const file = openSync(this.#path, "r");
    try {
      const bytes = Buffer.alloc(fstatSync(file).size - this.#offset);
      this.#offset += readSync(file, bytes, 0, bytes.length, this.#offset);
      const text = this.#rest + bytes.toString("latin1");
      const end = text.lastIndexOf("\n") + 1;
      this.#rest = text.slice(end);
      this.entries.push(...parseAuditLog(text.slice(0, end)).filter(({ user }) => user === this.#user));
    } finally {
      closeSync(file);
    }
  }

  /** Writes so far. */
  writes(): number {
    this.read();
    return this.entries.filter(isRealWrite).length;
  }

  /** Resolves when there has been no write for `ms`: by default longer than a status may be kept back. */
  async untilQuiet(ms = settleMs + 1_500): Promise<void> {
    let [count, since] = [this.writes(), performance.now()];
    await until(
      "the operator to have nothing to write",
      () => {
        const now = this.writes();
        if (now !== count) [count, since] = [now, performance.now()];
        return performance.now() - since > ms;
      },
      { deadlineMs: 60_000, intervalMs: 100 },
    );
  }
}
