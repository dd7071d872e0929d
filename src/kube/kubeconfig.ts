/**
 * The one part of client-node that is used at run time, by name: so a bundle holds what this needs (2.7 MB) and not its whole
 * generated API (19 MB). Imported on demand, for what {@link fromKubeconfig} says.
 */
export { KubeConfig } from "@kubernetes/client-node";
