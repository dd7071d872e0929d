import type { Dispatcher } from "undici";
import type { ResultityNetwork } from "../../api/v1alpha1/network.ts";
import { fullJitter, type Random } from "../../lib/backoff.ts";
import type { Clock } from "../../lib/clock.ts";
import type { Logger } from "../../lib/logger.ts";
import { ProtocolError } from "../../protocol/codes.ts";
import { maxSnapshotBytes } from "../../protocol/config/snapshot.ts";
import type { ConfigDigest } from "../../protocol/fields.ts";
import { paths } from "../../protocol/http.ts";
import { decodeUtf8 } from "../../protocol/jws.ts";
import type { Knowledge } from "./knowledge.ts";
import { type Finding, Refusal } from "./refusal.ts";
import { endpointUrl, fetchFrom, SourceError } from "./source.ts";
import { believeRelease, believeServedRoot, believeSnapshot } from "./trust.ts";

/** With what a network's documents are fetched. */
export interface FetchContext {
  readonly dispatcher: Dispatcher;
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
}

/** Waits after fetches that failed, ms. */
export const fetchBackoff = { base: 1_000, cap: 60_000 };
/** Most bytes of a root or release statement as served: payload and signatures of the largest one, and room for white space. */
const maxStatementBytes = 512 * 1024;

/** What one endpoint gave. `answered`: it serves this network's documents, believed or not. */
interface Visit {
  readonly endpoint: string;
  readonly answered: boolean;
  readonly reach?: Finding;
  readonly served?: Finding;
  readonly release?: Finding;
}

/**
 * Asks the endpoints in order for the newest root and release, until one gives both in a form that is believed. What is
 * believed goes into `knowledge`; what is not leaves it as it was and becomes a finding. Never rejects for what an
 * endpoint does.
 */
export async function refreshDocuments(
  network: ResultityNetwork,
  knowledge: Knowledge,
  context: FetchContext,
  signal: AbortSignal,
): Promise<void> {
  const visits: Visit[] = [];
  for (const endpoint of network.spec.endpoints) {
    const visit = await visitEndpoint(endpoint, knowledge, context, signal);
    visits.push(visit);
    if (isWell(visit)) break;
  }
  const best = visits.find(isWell) ?? visits.find(({ answered }) => answered) ?? visits[0];
  if (!best) return;
  knowledge.reached = best.answered ? best.endpoint : undefined;
  const { reach, served, release } = best;
  knowledge.findings = { ...knowledge.findings, reach, served, release };
  schedule(network, knowledge, context, isWell(best));
}

function isWell({ reach, served, release }: Visit): boolean {
  return !reach && !served && !release;
}

function schedule(
  { spec }: ResultityNetwork,
  knowledge: Knowledge,
  { clock, random }: FetchContext,
  well: boolean,
): void {
  const interval = spec.config.refreshIntervalSeconds * 1000;
  knowledge.failures = well ? 0 : knowledge.failures + 1;
  const wait = well
    ? interval
    : fullJitter(
        knowledge.failures - 1,
        { ...fetchBackoff, cap: Math.max(interval, fetchBackoff.base) },
        random,
      );
  knowledge.fetchAt = clock.monotonic() + wait;
}

async function visitEndpoint(
  endpoint: string,
  knowledge: Knowledge,
  context: FetchContext,
  signal: AbortSignal,
): Promise<Visit> {
  let served: Finding | undefined;
  try {
    served = await visitRoot(endpoint, knowledge, context, signal);
    const release = await visitRelease(endpoint, knowledge, context, signal);
    return { endpoint, answered: true, ...(served && { served }), ...(release && { release }) };
  } catch (error) {
    if (!(error instanceof SourceError)) throw error;
    context.logger.debug({ endpoint, error: error.message }, "an endpoint of the network did not serve");
    return { endpoint, answered: false, reach: reachFinding(error), ...(served && { served }) };
  }
}

function reachFinding(error: SourceError): Finding {
  if (error.code === "unreachable") {
    return {
      reason: "EndpointUnreachable",
      message: `${error.message}. Check spec.endpoints, and that the operator's pod may reach it (NetworkPolicy, proxy, DNS)`,
    };
  }
  return {
    reason: "EndpointRefused",
    message: `${error.message}. Check that spec.endpoints has the base URL of the network's IO service`,
  };
}

/** Follows a rotation of the root, if the endpoint serves one. */
async function visitRoot(
  endpoint: string,
  knowledge: Knowledge,
  context: FetchContext,
  signal: AbortSignal,
): Promise<Finding | undefined> {
  const url = endpointUrl(endpoint, paths.root);
  const known = knowledge.root;
  if (!known) return undefined;
  const etag = etagFor(knowledge, url, known.statement.payload);
  const answer = await fetchFrom(
    { endpoint, path: paths.root, maxBytes: maxStatementBytes, etag, signal },
    context,
  );
  if (!answer) return undefined;
  return findingOf(url, () => {
    const root = believeServedRoot(decodeUtf8(answer.bytes), known, endpoint);
    if (root !== known) {
      context.logger.info(
        { network: root.network, version: root.version },
        "the network has rotated its root",
      );
      knowledge.root = root;
      knowledge.rotations.push(root);
    }
    if (answer.etag !== undefined)
      knowledge.tags.set(url, { etag: answer.etag, payload: root.statement.payload });
  });
}

async function visitRelease(
  endpoint: string,
  knowledge: Knowledge,
  context: FetchContext,
  signal: AbortSignal,
): Promise<Finding | undefined> {
  const url = endpointUrl(endpoint, paths.release);
  const { root } = knowledge;
  if (!root) return undefined;
  const etag = etagFor(knowledge, url, knowledge.release?.statement.payload);
  let answer: Awaited<ReturnType<typeof fetchFrom>>;
  try {
    answer = await fetchFrom(
      { endpoint, path: paths.release, maxBytes: maxStatementBytes, etag, signal },
      context,
    );
  } catch (error) {
    if (error instanceof SourceError && error.status === 404) return nothingPublished(endpoint, knowledge);
    throw error;
  }
  if (!answer) return undefined;
  const { bytes } = answer;
  return findingOf(url, () => {
    const release = believeRelease(decodeUtf8(bytes), root, knowledge, endpoint);
    if (release !== knowledge.release) {
      const { network, sequence, current } = release.release;
      context.logger.info({ network, sequence, current, endpoint }, "a newer release was verified");
      knowledge.release = release;
      knowledge.sequence = sequence;
    }
    if (answer.etag !== undefined)
      knowledge.tags.set(url, { etag: answer.etag, payload: release.statement.payload });
  });
}

function nothingPublished(endpoint: string, { sequence }: Knowledge): Finding {
  if (sequence === 0) {
    return {
      reason: "NotYetKnown",
      message: `${endpoint} has no release yet: the network has to publish one`,
    };
  }
  return {
    reason: "SequenceWentBack",
    message: `${endpoint} serves no release, though release ${sequence} is known, which stays in force here. Ask the network's operators`,
  };
}

/** The ETag may be shown only while the document that it stands for is the one that is known. */
function etagFor({ tags }: Knowledge, url: string, payload: string | undefined): string | undefined {
  const tag = tags.get(url);
  return tag && tag.payload === payload ? tag.etag : undefined;
}

function findingOf(url: string, check: () => void): Finding | undefined {
  try {
    check();
    return undefined;
  } catch (error) {
    if (error instanceof Refusal) return error.finding;
    // Bytes that are not even text: the other checks begin with text.
    if (error instanceof ProtocolError) {
      return { reason: "SignatureInvalid", message: `the answer of ${url} is refused: ${error.message}` };
    }
    throw error;
  }
}

/**
 * Fetches one snapshot from the first endpoint that gives the bytes that its digest names, the one that answered last
 * first. What is wrong becomes a finding, and the digest waits with growing back-off.
 */
export async function fetchSnapshot(
  network: ResultityNetwork,
  digest: ConfigDigest,
  knowledge: Knowledge,
  context: FetchContext,
  signal: AbortSignal,
): Promise<void> {
  const { root, reached } = knowledge;
  if (!root) return;
  const { endpoints } = network.spec;
  const order = [
    ...endpoints.filter((each) => each === reached),
    ...endpoints.filter((each) => each !== reached),
  ];
  let finding: Finding | undefined;
  for (const endpoint of order) {
    try {
      const asked = { endpoint, path: paths.snapshot(digest), maxBytes: maxSnapshotBytes, signal };
      const answer = await fetchFrom(asked, context);
      if (!answer) continue;
      knowledge.snapshots.set(digest, believeSnapshot(answer.bytes, digest, root.network, endpoint));
      knowledge.missed.delete(digest);
      return;
    } catch (error) {
      if (error instanceof Refusal) finding ??= error.finding;
      else if (error instanceof SourceError) finding ??= missingFinding(error, digest);
      else throw error;
    }
  }
  const failures = (knowledge.missed.get(digest)?.failures ?? 0) + 1;
  const wait = fullJitter(failures - 1, fetchBackoff, context.random);
  knowledge.missed.set(digest, { failures, at: context.clock.monotonic() + wait, finding });
}

function missingFinding(error: SourceError, digest: ConfigDigest): Finding {
  return {
    reason: error.code === "unreachable" ? "EndpointUnreachable" : "SnapshotInvalid",
    message: `config ${digest} cannot be had: ${error.message}. Nodes stay at the config that they have`,
  };
}
