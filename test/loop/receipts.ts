import { io } from "./authority.ts";
import type { Loop } from "./loop.ts";
import { account } from "./loop.ts";

/** Job of each receipt of the loop's account, in the order of its chain, as `io receipts export` prints it. */
export async function receiptJobs(loop: Loop): Promise<string[]> {
  const chain = await io(["receipts", "export", account, "--data", loop.ioData]);
  return chain
    .split("\n")
    .filter((line) => line !== "")
    .map((countersign) => String(claims(String(claims(countersign)["receipt"]))["job"]));
}

function claims(jws: string): Record<string, unknown> {
  return JSON.parse(Buffer.from(jws.split(".")[1] ?? "", "base64url").toString()) as Record<string, unknown>;
}
