import { keyPrefix } from "../../api/v1alpha1/meta.ts";

/** Names of the parts of a node's pod, as the agent and the kubelet see them. */
export const agentContainer = "agent";
export const runtimeContainer = "runtime";

/** Hash of what the identity Secret was made from, as of the last time that it was looked at. */
export const identityHashAnnotation = `${keyPrefix}identity-hash`;

/** `spec.runtime.resources` as the pod was last given them: with it the hash of the inputs tells whether more than a size differs. */
export const resourcesAnnotation = `${keyPrefix}resources`;

/** Volume with the identity Secret, which the agent alone mounts. */
export const identityVolume = "resultity-identity";

/** Folders in the containers. */
export const folders = {
  identity: "/etc/resultity/identity",
  network: "/etc/resultity/network",
  pod: "/etc/resultity/pod",
  state: "/var/lib/resultity",
  launch: "/run/resultity",
  /** The launcher's own state, inside {@link folders.launch}. */
  launcher: "/run/resultity/run",
  models: "/models",
  home: "/home/engine",
} as const;
