import { spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import type { ControlPlane } from "../../testbed/control-plane.ts";
import { writeKubeconfig } from "../../testbed/kubeconfig.ts";

/** How a program is to be started so that it finds its API server. */
export interface InPod {
  readonly command: string;
  /** Before the program and its arguments. */
  readonly before: readonly string[];
  /** After them. */
  readonly after: readonly string[];
  readonly env: NodeJS.ProcessEnv;
}

/**
 * What a pod of the operator has: a ServiceAccount's folder where Kubernetes mounts it, in a mount namespace of its own. Where this
 * user may make none, a kubeconfig, with which the operator holds 36 MiB more.
 *
 * @param port of the API server on 127.0.0.1
 * @param kubeconfig with the ServiceAccount's token
 */
export function asInPod(bed: ControlPlane, name: string, port: number, kubeconfig: string): InPod {
  const config: { users: readonly { user: { token: string } }[] } = parse(readFileSync(kubeconfig, "utf8"));
  const token = config.users[0]?.user.token ?? "";
  if (!mayMount()) {
    const file = join(bed.dir, `${name}.kubeconfig`);
    writeKubeconfig(file, {
      server: `https://127.0.0.1:${port}`,
      ca: bed.ca,
      user: "operator",
      credentials: { token },
    });
    return { command: process.execPath, before: [], after: ["--kubeconfig", file], env: process.env };
  }
  const folder = join(bed.dir, `${name}-service-account`);
  mkdirSync(folder, { mode: 0o700 });
  for (const [file, text] of Object.entries({ token, "ca.crt": bed.ca, namespace: "resultity-system" }))
    writeFileSync(join(folder, file), text, { mode: 0o600 });
  const { KUBECONFIG: _none, ...inherited } = process.env;
  const env = {
    ...inherited,
    KUBERNETES_SERVICE_HOST: "127.0.0.1",
    KUBERNETES_SERVICE_PORT: String(port),
    POD_NAME: name,
    POD_NAMESPACE: "resultity-system",
  };
  const mounts =
    'mount -t tmpfs tmpfs /run && mkdir -p /run/secrets/kubernetes.io && ln -s "$1" /run/secrets/kubernetes.io/serviceaccount && shift && exec "$@"';
  return {
    command: "unshare",
    before: ["--mount", "--propagation", "private", "sh", "-c", mounts, "sh", folder, process.execPath],
    after: [],
    env,
  };
}

function mayMount(): boolean {
  const script = "mount -t tmpfs tmpfs /run && test -d /var/run";
  return spawnSync("unshare", ["--mount", "--propagation", "private", "sh", "-c", script]).status === 0;
}
