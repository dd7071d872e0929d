/** The command lines of the control plane's components, and the files that these name. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type CertificateAuthority, createAuthority, signingKeyPair } from "./certificates.ts";
import { writeKubeconfig } from "./kubeconfig.ts";

/** Parts of the control plane that a test may want beside etcd and the API server. */
export type OptionalComponent = "scheduler" | "controller-manager" | "kwok";

/** Where a control plane lives: its folder, its ports on 127.0.0.1 and its authority. */
export interface ControlPlanePlace {
  readonly dir: string;
  readonly ports: {
    readonly etcd: number;
    readonly etcdPeer: number;
    readonly apiServer: number;
    readonly controllerManager: number;
    readonly scheduler: number;
  };
  readonly authority: CertificateAuthority;
  /** URL of the API server. */
  readonly server: string;
}

/** Clients of the API server that belong to the bed, with the users that the bootstrap RBAC rules know. */
const ownClients = {
  admin: { user: "kubernetes-admin", groups: ["system:masters"] },
  "controller-manager": { user: "system:kube-controller-manager", groups: [] },
  scheduler: { user: "system:kube-scheduler", groups: [] },
  kwok: { user: "kwok", groups: ["system:masters"] },
};

/** Every request at Metadata level: who, what and with which outcome, no bodies. */
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
  - level: Metadata
`;

/** Makes keys, certificates, kubeconfigs and the audit policy in `dir`. */
export function prepare(dir: string, ports: ControlPlanePlace["ports"]): ControlPlanePlace {
  const authority = createAuthority("resultity-testbed");
  const place = { dir, ports, authority, server: `https://127.0.0.1:${ports.apiServer}` };
  mkdirSync(join(dir, "pki"), { recursive: true, mode: 0o700 });
  const write = (file: string, text: string) => writeFileSync(join(dir, file), text, { mode: 0o600 });

  write("pki/ca.crt", authority.cert);
  write("pki/ca.key", authority.key);
  const hosts = ["localhost", "kubernetes", "kubernetes.default.svc", "127.0.0.1", "10.96.0.1"];
  const serving = authority.issue({ commonName: "kube-apiserver", usage: "server", hosts });
  write("pki/apiserver.crt", serving.cert);
  write("pki/apiserver.key", serving.key);
  const toKubelet = authority.issue({
    commonName: "kube-apiserver-kubelet-client",
    groups: ["system:masters"],
    usage: "client",
  });
  write("pki/kubelet-client.crt", toKubelet.cert);
  write("pki/kubelet-client.key", toKubelet.key);
  const serviceAccounts = signingKeyPair();
  write("pki/service-accounts.key", serviceAccounts.privateKey);
  write("pki/service-accounts.pub", serviceAccounts.publicKey);
  write("audit-policy.yaml", auditPolicy);

  for (const [name, { user, groups }] of Object.entries(ownClients)) {
    writeKubeconfig(kubeconfigPath(dir, name), {
      server: place.server,
      ca: authority.cert,
      user,
      credentials: authority.issue({ commonName: user, groups, usage: "client" }),
    });
  }
  return place;
}

/** Path of a kubeconfig in the bed's folder. */
export function kubeconfigPath(dir: string, name: string): string {
  return join(dir, `${name}.kubeconfig`);
}

/** Path of the API server's audit log. */
export function auditLogPath(dir: string): string {
  return join(dir, "audit.log");
}

export function etcdArgs({ dir, ports }: ControlPlanePlace): string[] {
  const client = `http://127.0.0.1:${ports.etcd}`;
  const peer = `http://127.0.0.1:${ports.etcdPeer}`;
  return [
    "--name=testbed",
    `--data-dir=${join(dir, "etcd")}`,
    `--listen-client-urls=${client}`,
    `--advertise-client-urls=${client}`,
    `--listen-peer-urls=${peer}`,
    `--initial-advertise-peer-urls=${peer}`,
    `--initial-cluster=testbed=${peer}`,
    "--unsafe-no-fsync",
    "--log-level=warn",
  ];
}

export function apiServerArgs({ dir, ports }: ControlPlanePlace): string[] {
  const pki = (file: string) => join(dir, "pki", file);
  return [
    `--etcd-servers=http://127.0.0.1:${ports.etcd}`,
    "--bind-address=127.0.0.1",
    "--advertise-address=127.0.0.1",
    `--secure-port=${ports.apiServer}`,
    // The endpoints of the kubernetes Service must not be loopback addresses, and ours is.
    "--endpoint-reconciler-type=none",
    "--service-cluster-ip-range=10.96.0.0/16",
    `--tls-cert-file=${pki("apiserver.crt")}`,
    `--tls-private-key-file=${pki("apiserver.key")}`,
    `--client-ca-file=${pki("ca.crt")}`,
    `--kubelet-client-certificate=${pki("kubelet-client.crt")}`,
    `--kubelet-client-key=${pki("kubelet-client.key")}`,
    "--kubelet-preferred-address-types=InternalIP,Hostname",
    "--service-account-issuer=https://kubernetes.default.svc",
    `--service-account-key-file=${pki("service-accounts.pub")}`,
    `--service-account-signing-key-file=${pki("service-accounts.key")}`,
    "--authorization-mode=Node,RBAC",
    "--anonymous-auth=false",
    "--enable-admission-plugins=NodeRestriction",
    "--allow-privileged=true",
    `--audit-policy-file=${join(dir, "audit-policy.yaml")}`,
    `--audit-log-path=${auditLogPath(dir)}`,
    // Blocking, so that the log is in step with the answers; never rotated, so that offsets hold.
    "--audit-log-mode=blocking",
    "--audit-log-maxsize=1000000",
  ];
}

/**
 * Its client may ask ten times as often as it is shipped to (20 a second, bursts of 30), or it would take six seconds
 * to get each controller its token. A comparison with it as shipped passes the original values in `extraArgs`.
 */
export function controllerManagerArgs({ dir, ports }: ControlPlanePlace): string[] {
  return [
    `--kubeconfig=${kubeconfigPath(dir, "controller-manager")}`,
    "--bind-address=127.0.0.1",
    `--secure-port=${ports.controllerManager}`,
    "--leader-elect=false",
    "--use-service-account-credentials=true",
    "--kube-api-qps=200",
    "--kube-api-burst=300",
    `--root-ca-file=${join(dir, "pki", "ca.crt")}`,
    `--service-account-private-key-file=${join(dir, "pki", "service-accounts.key")}`,
    `--cluster-signing-cert-file=${join(dir, "pki", "ca.crt")}`,
    `--cluster-signing-key-file=${join(dir, "pki", "ca.key")}`,
  ];
}

export function schedulerArgs({ dir, ports }: ControlPlanePlace): string[] {
  return [
    `--kubeconfig=${kubeconfigPath(dir, "scheduler")}`,
    "--bind-address=127.0.0.1",
    `--secure-port=${ports.scheduler}`,
    "--leader-elect=false",
  ];
}

/** @param stages files that say how kwok's nodes and pods behave */
export function kwokArgs({ dir }: ControlPlanePlace, stages: readonly string[]): string[] {
  return [
    `--kubeconfig=${kubeconfigPath(dir, "kwok")}`,
    "--manage-nodes-with-annotation-selector=kwok.x-k8s.io/node=fake",
    "--node-lease-duration-seconds=200",
    "--cidr=10.64.0.0/10",
    "--server-address=",
    ...stages.map((stage) => `--config=${stage}`),
  ];
}
