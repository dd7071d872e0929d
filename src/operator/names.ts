import { keyPrefix } from "../api/v1alpha1/meta.ts";

/** Labels of what the operator makes: name of the network, of the node, of the pool. */
export const networkLabel = `${keyPrefix}network`;
export const nodeLabel = `${keyPrefix}node`;
export const poolLabel = `${keyPrefix}pool`;

/** Label of a pod that brings an image to a host: what the image is to be, `runtime` or `agent`. */
export const prefetchLabel = `${keyPrefix}prefetch`;
/** On such a pod: the reference of the image that it was made for. */
export const prefetchImageAnnotation = `${keyPrefix}prefetch-image`;

/** Hash of the inputs that the object was made from: drift is told by it, never by comparing what is live. */
export const inputsHashAnnotation = `${keyPrefix}inputs-hash`;

/** Field managers of the three controllers: each owns its own fields. */
export const nodeManager = "resultity-node";
export const poolManager = "resultity-pool";
export const networkManager = "resultity-network";

/** Secret with a node's identity, unless `spec.identity.secretName` names another. */
export const identitySecretName = (node: string): string => `${node}-identity`;

/** ConfigMap with a network's release and snapshots. */
export const networkConfigMapName = (network: string): string => `${network}-config`;
export const releaseEntry = "release.json";
/** Entry of the ConfigMap that holds the exact bytes of the snapshot `digest`. */
export const snapshotEntry = (digest: string): string => `snapshot-${digest.replace(/^sha256:/, "")}`;
