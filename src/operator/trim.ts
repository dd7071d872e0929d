import { dropNoise } from "../kube/reflector.ts";
import type { Pod } from "../kube/resources.ts";

/**
 * Keeps of a pod's spec what the operator reads: where it is, which containers run by which images, which volumes it has by
 * name, and what somebody has put into it while it ran. The rest is told by the hash of what the pod was made from, and is most of what a pod takes in memory.
 */
export function trimPod(pod: Pod): Pod {
  const { spec, ...rest } = dropNoise(pod);
  if (!spec) return pod;
  const { nodeName, containers, initContainers, volumes, ephemeralContainers } = spec;
  return {
    ...rest,
    spec: {
      ...(nodeName === undefined ? {} : { nodeName }),
      containers: containers.map(nameAndImage),
      ...(initContainers ? { initContainers: initContainers.map(nameAndImage) } : {}),
      ...(volumes ? { volumes: volumes.map(({ name }) => ({ name })) } : {}),
      ...(ephemeralContainers?.length ? { ephemeralContainers: ephemeralContainers.map(withMounts) } : {}),
    },
  };
}

type Ephemeral = NonNullable<NonNullable<Pod["spec"]>["ephemeralContainers"]>[number];

function withMounts({ name, image, volumeMounts = [] }: Ephemeral) {
  const mounts = volumeMounts.map((mount) => ({ name: mount.name, mountPath: mount.mountPath }));
  return { ...nameAndImage({ name, image }), volumeMounts: mounts };
}

function nameAndImage({ name, image }: { readonly name: string; readonly image?: string | undefined }) {
  return { name, ...(image === undefined ? {} : { image }) };
}
