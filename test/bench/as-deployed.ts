import { readFileSync } from "node:fs";
import { join } from "node:path";
import { parse } from "yaml";
import { repository } from "../loop/paths.ts";

interface Deployment {
  readonly spec: {
    readonly template: {
      readonly spec: {
        readonly containers: readonly {
          readonly env: readonly { readonly name: string; readonly value?: string }[];
          readonly resources: { readonly limits: { readonly memory: string } };
        }[];
      };
    };
  };
}

/** How the operator is started. */
export interface AsDeployed {
  /** Of Node. */
  readonly flags: readonly string[];
  readonly env: Readonly<Record<string, string>>;
}

/**
 * As its Deployment starts it (manifests/operator/30-deployment.yaml): with its NODE_OPTIONS and other variables, and with the
 * largest old generation that Node takes for itself in a container with that memory, which is half of it.
 */
export function asDeployed(): AsDeployed {
  const text = readFileSync(join(repository, "manifests/operator/30-deployment.yaml"), "utf8");
  const deployment: Deployment = parse(text);
  const [container] = deployment.spec.template.spec.containers;
  const set = (container?.env ?? []).flatMap(({ name, value }) =>
    value === undefined ? [] : [[name, value] as const],
  );
  const { NODE_OPTIONS: options = "", ...env } = Object.fromEntries(set);
  const mib = /^(\d+)Mi$/.exec(container?.resources.limits.memory ?? "")?.[1];
  if (mib === undefined) throw new Error("the operator's Deployment has no memory limit in Mi");
  return { flags: [...options.split(" "), `--max-old-space-size=${Number(mib) / 2}`], env };
}
