// oxlint-disable oxc/no-async-endpoint-handlers -- fastify awaits its handlers
import type { FastifyInstance } from "fastify";
import {
  envelopeContentType,
  httpHeartbeatSchema,
  httpHeartbeatTyp,
  paths,
  pingSchema,
  pingTyp,
} from "../../protocol/http.ts";
import { nodeReported } from "../nodes.ts";
import { smallBody } from "../transfer/body.ts";
import { answer, hearNode, type RegistrationParts, tooMany } from "./envelope.ts";
import { changeKey } from "./key-change.ts";
import { register } from "./register.ts";

/** Most bytes of a request of a node. */
const bodyLimit = 128 * 1024;

/** What a node says by HTTP: registration, key change, ping, heartbeat. Answers are signed by the service. */
export function registrationRoutes(root: FastifyInstance, parts: RegistrationParts): void {
  const { clock, nonces, rates, baseUrls } = parts;
  void root.register((app, _options, done) => {
    app.removeAllContentTypeParsers();
    app.addContentTypeParser(envelopeContentType, smallBody(bodyLimit));
    const urlsOf = (path: string) => baseUrls.map((base) => `${base}${path}`);
    // Before the body is read.
    app.addHook("onRequest", (request, reply, go) => {
      if (rates.ip.take(request.ip)) go();
      else tooMany(reply);
    });

    app.get(paths.nonce, (_request, reply) =>
      reply.header("cache-control", "no-store").send({ nonce: nonces.issue(clock.now()) }),
    );

    app.post(paths.register, async (request, reply) =>
      answer(parts, reply, (text) => register(parts, text, urlsOf(paths.register)), request.body),
    );

    app.post(paths.keyChange, async (request, reply) => {
      const hear = (text: string) => changeKey(parts, request.ip, text, urlsOf(paths.keyChange));
      return answer(parts, reply, hear, request.body);
    });

    app.post(paths.ping, async (request, reply) => {
      const form = { ip: request.ip, typ: pingTyp, schema: pingSchema, urls: urlsOf(paths.ping) };
      return answer(parts, reply, (text) => hearNode(parts, text, form, () => ({})), request.body);
    });

    app.post(paths.heartbeat, async (request, reply) => {
      const form = {
        ip: request.ip,
        typ: httpHeartbeatTyp,
        schema: httpHeartbeatSchema,
        urls: urlsOf(paths.heartbeat),
      };
      const hear = (text: string) =>
        hearNode(parts, text, form, (node, payload) => {
          nodeReported(node, payload.report);
          parts.nodes.changed(node);
          return { latest: parts.config.latest(payload.nonce) };
        });
      return answer(parts, reply, hear, request.body);
    });
    done();
  });
}
