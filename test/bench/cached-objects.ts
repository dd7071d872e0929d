import { createServer, type ServerResponse } from "node:http";
import { configOf, snapshotOf } from "../operator/node/network.ts";
import { nodeOf, World } from "../operator/node/world.ts";

/** An API server's face over plain HTTP with nodes that serve and their pods; it answers lists and watches. */
export interface ObjectServer {
  readonly url: string;
  /** Bytes of a node and its pod as JSON, with what the API server adds. */
  readonly bytesEach: number;
  close(): Promise<void>;
}

const version = "1000000";

/** What the API server keeps of who set which field: as long as the object itself. */
function fieldsOf(value: unknown): object {
  if (Array.isArray(value)) {
    return Object.fromEntries(
      value.map((item: unknown) =>
        typeof item === "object" && item !== null && "name" in item
          ? [`k:{"name":${JSON.stringify(item.name)}}`, { ".": {}, ...fieldsOf(item) }]
          : [`v:${JSON.stringify(item)}`, {}],
      ),
    );
  }
  if (typeof value !== "object" || value === null) return {};
  return Object.fromEntries(Object.entries(value).map(([key, field]) => [`f:${key}`, fieldsOf(field)]));
}

/** An object as the API server would store it. */
function stored(
  object: { readonly metadata: object; readonly spec?: unknown; readonly status?: unknown },
  managers: readonly [spec: string, status: string],
) {
  const managed = (manager: string, fields: object, subresource?: string) => ({
    manager,
    operation: "Apply",
    apiVersion: "v1",
    time: "2026-01-01T00:00:00Z",
    fieldsType: "FieldsV1",
    fieldsV1: fields,
    ...(subresource ? { subresource } : {}),
  });
  const managedFields = [
    managed(managers[0], { "f:metadata": fieldsOf(object.metadata), "f:spec": fieldsOf(object.spec) }),
    managed(managers[1], { "f:status": fieldsOf(object.status) }, "status"),
  ];
  return { ...object, metadata: { ...object.metadata, managedFields } };
}

/** Text of node and pod number `at`, by kind. */
function makeTexts(): (kind: "nodes" | "pods", at: number) => string {
  const world = new World(nodeOf({}, "gpu-00000"), configOf([snapshotOf("v1")]));
  world.untilServing();
  const { node, pod } = world;
  if (!pod) throw new Error("a node that serves has a pod");
  const template = {
    nodes: JSON.stringify(stored(node, ["resultity.com/pool", "resultity.com/node"])),
    pods: JSON.stringify(stored(pod, ["resultity-operator", "kubelet"])),
  };
  return (kind, at) => {
    const number = String(at).padStart(5, "0");
    return template[kind]
      .replaceAll("gpu-00000", `gpu-${number}`)
      .replaceAll('"uid":"pod-1"', `"uid":"6f1c2b7e-0000-4000-8000-0000000${number}"`)
      .replaceAll("host-1", `host-${number}`)
      .replace(/"resourceVersion":"\d+"/, `"resourceVersion":"${100_000 + at}"`);
  };
}

/** Starts a server with `count` nodes and as many pods. */
export async function startObjectServer(count: number): Promise<ObjectServer> {
  const textOf = makeTexts();
  const server = createServer((request, response) => {
    const url = new URL(request.url ?? "/", "http://x");
    const plural = url.pathname.slice(url.pathname.lastIndexOf("/") + 1);
    // Prefetches are pods too, by another label.
    const prefetches = url.searchParams.get("labelSelector")?.includes("prefetch") ?? false;
    const kind =
      plural === "resultitynodes" ? "nodes" : plural === "pods" && !prefetches ? "pods" : undefined;
    response.writeHead(200, { "content-type": "application/json" });
    void answer(response, url.searchParams, kind ? texts(kind) : []);
  });
  const texts = function* (kind: "nodes" | "pods") {
    for (let at = 0; at < count; at++) yield textOf(kind, at);
  };
  const answer = async (response: ServerResponse, query: URLSearchParams, objects: Iterable<string>) => {
    const write = async (text: string) => {
      if (!response.write(text)) await new Promise((resolve) => response.once("drain", resolve));
    };
    if (query.get("watch") === "true") {
      if (query.get("sendInitialEvents") !== "true") return response.flushHeaders();
      for (const object of objects) await write(`{"type":"ADDED","object":${object}}\n`);
      const metadata = { resourceVersion: version, annotations: { "k8s.io/initial-events-end": "true" } };
      await write(`${JSON.stringify({ type: "BOOKMARK", object: { metadata } })}\n`);
      return undefined;
    }
    await write(`{"kind":"List","apiVersion":"v1","metadata":{"resourceVersion":"${version}"},"items":[`);
    let between = "";
    for (const object of objects) {
      await write(`${between}${object}`);
      between = ",";
    }
    return response.end("]}");
  };
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  if (typeof address !== "object" || !address) throw new Error("the server has no port");
  return {
    url: `http://127.0.0.1:${address.port}`,
    bytesEach: textOf("nodes", 0).length + textOf("pods", 0).length,
    close: () =>
      new Promise((resolve) => {
        server.close(() => resolve());
        server.closeAllConnections();
      }),
  };
}
