import { createReadStream } from "node:fs";
import { createInterface } from "node:readline";
import { isRealWrite, operatorUser } from "../../loop/operator-run.ts";
import { type AuditEntry, type AuditMark, parseAuditLog } from "../../testbed/audit.ts";
import type { ControlPlane } from "../../testbed/control-plane.ts";

/** Requests answered since the mark that `wanted` lets through. Line by line: of a large fleet there are more than a string may hold. */
export async function audited(
  { audit }: ControlPlane,
  mark: AuditMark,
  wanted: (entry: AuditEntry) => boolean,
): Promise<readonly AuditEntry[]> {
  // What was answered before this is written by then.
  const { offset: end } = await audit.mark();
  const found: AuditEntry[] = [];
  if (end <= mark.offset) return found;
  const input = createReadStream(audit.path, { start: mark.offset, end: end - 1 });
  for await (const line of createInterface({ input })) {
    for (const entry of parseAuditLog(`${line}\n`)) if (wanted(entry)) found.push(entry);
  }
  return found;
}

export const ofOperator = ({ user }: AuditEntry): boolean => user === operatorUser;

/** Writes of the operator that change what it works on. */
export const operatorWrote = (entry: AuditEntry): boolean => ofOperator(entry) && isRealWrite(entry);
