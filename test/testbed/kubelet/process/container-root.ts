import { mkdirSync, statSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import type { Logger } from "../../../../src/lib/logger.ts";
import type { Bind, RootPlan } from "./root-script.ts";
import { expand, type Env } from "./env.ts";
import { FieldError } from "./fields.ts";
import type { ContainerImage } from "./images.ts";
import { type Isolation, rightsCommand } from "./isolation.ts";
import type { Container, Pod } from "./types.ts";
import type { PodVolumes } from "./volumes.ts";

/** Where a container's last words are read, unless the pod says otherwise. */
export const defaultTerminationPath = "/dev/termination-log";

/** What {@link containerRoot} puts together. */
export interface RootInput {
  /** Folder of the host, which no container sees. */
  readonly dir: string;
  readonly isolation: Isolation;
  readonly log: Logger;
  readonly pod: Pod;
  readonly podIP: string;
  readonly container: Container;
  readonly image: ContainerImage;
  readonly env: Env;
  readonly volumes: PodVolumes;
  /** File of the host that takes the container's last words. */
  readonly terminationLog: string;
}

/**
 * The root and the program of one run of a container.
 *
 * @throws FieldError for what the pod asks and the host cannot give
 */
export function containerRoot(input: RootInput): Omit<RootPlan, "mountPoint"> {
  const { dir, pod, podIP, container, image, env, volumes } = input;
  const hostname = pod.spec.hostname ?? pod.metadata.name.slice(0, 63);
  const aliases = (pod.spec.hostAliases ?? []).map(
    ({ ip, hostnames }) => `${ip}\t${(hostnames ?? []).join(" ")}\n`,
  );
  mkdirSync(dirname(input.terminationLog), { recursive: true });
  writeFileSync(input.terminationLog, "", { mode: 0o666 });
  const imageBinds = image.readOnlyPaths.map((path) =>
    typeof path === "string" ? bind(path, path, true) : bind(path.source, path.target, true),
  );
  const volumeBinds = (container.volumeMounts ?? []).map((mount) => {
    const { path, readOnly } = volumes.hostPath(pod, mount);
    return bind(path, mount.mountPath, readOnly);
  });
  const last = bind(input.terminationLog, container.terminationMessagePath ?? defaultTerminationPath, false);
  const hidden = imageBinds.some(({ source }) => dir.startsWith(`${source}/`)) ? [dir] : [];
  return {
    binds: [...byDepth(imageBinds), ...byDepth([...volumeBinds, last])],
    hidden,
    hostname,
    hosts: `127.0.0.1\tlocalhost\n::1\tlocalhost\n${podIP}\t${hostname}\n${aliases.join("")}`,
    workingDir: container.workingDir ?? image.workingDir ?? "/",
    readOnlyRoot: container.securityContext?.readOnlyRootFilesystem === true,
    argv: argvOf(container, image, env),
    rights: rightsOf(input),
  };
}

/** Program and arguments: `command` replaces the image's entrypoint, `args` are appended. */
function argvOf(container: Container, image: ContainerImage, env: Env): string[] {
  const expanded = (words: readonly string[] = []) => words.map((word) => expand(word, env));
  const command = container.command?.length ? expanded(container.command) : [...image.command];
  const argv = [...command, ...expanded(container.args)];
  if (argv.length === 0)
    throw new FieldError(`container ${container.name}: neither it nor its image has a command`);
  return argv;
}

function rightsOf({ pod, container, image, isolation, log }: RootInput): readonly string[] {
  const own = container.securityContext;
  const shared = pod.spec.securityContext;
  const user = own?.runAsUser ?? shared?.runAsUser ?? image.user ?? 0;
  if ((own?.runAsNonRoot ?? shared?.runAsNonRoot) && user === 0) {
    throw new FieldError("container has runAsNonRoot and image will run as root");
  }
  if (user !== 0 && !isolation.canSwitchUser) {
    log.warn(
      { pod: pod.metadata.name, container: container.name, user },
      "cannot change user here: runs as root",
    );
  }
  const groups = [
    ...(shared?.supplementalGroups ?? []),
    ...(shared?.fsGroup === undefined ? [] : [shared.fsGroup]),
  ];
  const dropped = own?.capabilities?.drop ?? [];
  return rightsCommand(
    {
      user,
      group: own?.runAsGroup ?? shared?.runAsGroup ?? 0,
      groups,
      dropAll: dropped.some((name) => name.toUpperCase() === "ALL"),
      dropped,
      noNewPrivileges: own?.allowPrivilegeEscalation === false,
    },
    isolation,
  );
}

function bind(source: string, target: string, readOnly: boolean): Bind {
  const stat = statSync(source, { throwIfNoEntry: false });
  if (!stat) throw new FieldError(`${source}, to be seen at ${target}, does not exist on the host`);
  return { source, target: join("/", target), readOnly, folder: stat.isDirectory() };
}

/** A mount below another must come after it. */
function byDepth(binds: readonly Bind[]): Bind[] {
  return [...binds].sort((a, b) => a.target.split("/").length - b.target.split("/").length);
}
