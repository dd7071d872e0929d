import { writeFileSync } from "node:fs";
import { stringify } from "yaml";

/** How a user proves who it is. */
export type Credentials =
  | { readonly cert: string; readonly key: string }
  | {
      /** Bearer token. */
      readonly token: string;
    };

/** What a kubeconfig says. */
export interface KubeconfigSpec {
  /** URL of the API server. */
  readonly server: string;
  /** Certificate of the authority of the server's certificate, PEM. */
  readonly ca: string;
  /** Name of the user entry; the API server does not read it. */
  readonly user: string;
  readonly credentials: Credentials;
  /** Namespace of the context. Default "default". */
  readonly namespace?: string;
}

/** Writes a kubeconfig with one context, readable by the owner only. */
export function writeKubeconfig(path: string, spec: KubeconfigSpec): void {
  const { server, ca, user, credentials, namespace = "default" } = spec;
  const base64 = (pem: string) => Buffer.from(pem).toString("base64");
  const config = {
    apiVersion: "v1",
    kind: "Config",
    clusters: [{ name: "testbed", cluster: { server, "certificate-authority-data": base64(ca) } }],
    users: [
      {
        name: user,
        user:
          "token" in credentials
            ? { token: credentials.token }
            : {
                "client-certificate-data": base64(credentials.cert),
                "client-key-data": base64(credentials.key),
              },
      },
    ],
    contexts: [{ name: "testbed", context: { cluster: "testbed", user, namespace } }],
    "current-context": "testbed",
  };
  writeFileSync(path, stringify(config), { mode: 0o600 });
}
