import type { FastifyInstance } from "fastify";
import type { Clock } from "../../lib/clock.ts";
import { isBytes32 } from "../../protocol/keys.ts";
import { paths } from "../../protocol/http.ts";
import { sealLatest } from "../../protocol/config/latest.ts";
import type { RateLimit } from "../rate.ts";
import type { ServiceKey } from "../service-key.ts";
import type { NetworkConfig } from "./network-config.ts";

/** Serves root, release, snapshots and what is latest: public, everything signed by others but `latest`. */
export function configRoutes(
  app: FastifyInstance,
  {
    config,
    serviceKey,
    clock,
    rate,
  }: { config: NetworkConfig; serviceKey: ServiceKey; clock: Clock; rate: RateLimit },
): void {
  app.get(paths.root, (_request, reply) => {
    if (config.rootText === "") return reply.code(404).send({ error: "the service has no root yet" });
    return reply.type("application/json").header("cache-control", "no-cache").send(config.rootText);
  });

  app.get(paths.release, (request, reply) => {
    const { release } = config;
    if (!release) return reply.code(404).send({ error: "nothing is published yet" });
    reply.header("etag", release.etag).header("cache-control", "no-cache");
    const known = request.headers["if-none-match"]?.split(",").map((tag) => tag.trim().replace(/^W\//, ""));
    if (known?.includes(release.etag)) return reply.code(304).send();
    return reply.type("application/json").send(release.text);
  });

  app.get<{ Params: { digest: string } }>(paths.snapshot(":digest"), (request, reply) => {
    const text = config.snapshotText(request.params.digest);
    if (text === undefined) return reply.code(404).send({ error: "no such snapshot" });
    return reply
      .type("application/json")
      .header("etag", `"${request.params.digest}"`)
      .header("cache-control", "public, max-age=31536000, immutable")
      .send(text);
  });

  app.get<{ Querystring: { nonce?: unknown } }>(paths.latest, (request, reply) => {
    const { nonce } = request.query;
    if (typeof nonce !== "string" || !isBytes32(nonce))
      return reply.code(400).send({ error: "query: nonce must be 32 bytes in base64url" });
    // Each answer costs a signature, and anyone may ask.
    if (!rate.take(request.ip))
      return reply.code(429).header("retry-after", "5").send({ error: "too many requests" });
    const now = clock.now();
    const delegation = serviceKey.delegationAt(now);
    if (!delegation)
      return reply
        .code(503)
        .header("retry-after", "30")
        .send({ error: "the service's key is not delegated" });
    const body = { ...config.latest(nonce), network: config.network, time: now };
    return reply
      .type("application/json")
      .header("cache-control", "no-store")
      .send(sealLatest(body, serviceKey.key, delegation));
  });
}
