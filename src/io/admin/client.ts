import { request as httpRequest } from "node:http";
import { join } from "node:path";
import { CommandError } from "./command.ts";

/** Path of the admin socket in a data folder. */
export function socketPath(data: string): string {
  return join(data, "admin.sock");
}

/**
 * Asks the running service over its admin socket.
 *
 * @throws {CommandError} `unavailable` when no service listens there, `refused` with the service's words.
 */
export async function askService(
  data: string,
  method: "GET" | "POST",
  path: string,
  body?: unknown,
): Promise<unknown> {
  const { status, text } = await exchange(data, method, path, body);
  const answer: unknown = text === "" ? undefined : JSON.parse(text);
  if (status < 300) return answer;
  const error =
    typeof answer === "object" && answer !== null && "error" in answer
      ? String(answer.error)
      : `HTTP ${status}`;
  throw new CommandError("refused", error);
}

function exchange(
  data: string,
  method: string,
  path: string,
  body: unknown,
): Promise<{ status: number; text: string }> {
  return new Promise((resolve, reject) => {
    const fail = (cause: Error) =>
      reject(
        new CommandError(
          "unavailable",
          `no service answers on ${socketPath(data)}: start \`io serve --data ${data}\`, or name its folder with --data`,
          { cause },
        ),
      );
    const payload = body === undefined ? undefined : JSON.stringify(body);
    const request = httpRequest(
      {
        socketPath: socketPath(data),
        method,
        path,
        headers:
          payload === undefined
            ? {}
            : { "content-type": "application/json", "content-length": Buffer.byteLength(payload) },
      },
      (response) => {
        const parts: Buffer[] = [];
        response.on("data", (part: Buffer) => parts.push(part));
        response.on("end", () =>
          resolve({ status: response.statusCode ?? 0, text: Buffer.concat(parts).toString() }),
        );
        response.on("error", fail);
      },
    );
    request.on("error", fail);
    request.end(payload);
  });
}
