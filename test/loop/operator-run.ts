import { join } from "node:path";
import { type AuditEntry, isWrite } from "../testbed/audit.ts";
import { freePort } from "../testbed/ports.ts";
import { type Loop, Service } from "./loop.ts";
import { bundle } from "./paths.ts";

/** User name of the operator's ServiceAccount, as the audit log has it. */
export const operatorUser = "system:serviceaccount:resultity-system:resultity-operator";

/** Starts one more operator beside the loop's own; its log is `<name>.log` in the bed's folder. */
export async function startOperator(
  loop: Loop,
  options: { name: string; kubeconfig: string; flags?: readonly string[] },
): Promise<Service & { readonly logFile: string }> {
  const { name, kubeconfig, flags = [] } = options;
  const logFile = join(loop.bed.dir, `${name}.log`);
  const args = ["--kubeconfig", kubeconfig, "--metrics-listen", `127.0.0.1:${await freePort()}`, ...flags];
  const start = () =>
    loop.bed.processes.spawn({
      name,
      command: process.execPath,
      args: [bundle("operator"), ...args],
      logFile,
      graceMs: 10_000,
    });
  return Object.assign(new Service(start), { logFile });
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
