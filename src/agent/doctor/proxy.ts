import type { DoctorWorld } from "./world.ts";

/** Which proxy the agent takes to an endpoint. */
export type ProxyChoice =
  | { readonly is: "none"; readonly why: string }
  | { readonly is: "proxy"; readonly host: string; readonly port: number; readonly from: string }
  | { readonly is: "wrong"; readonly from: string };

/**
 * Follows the environment as the agent does: `HTTPS_PROXY` for https endpoints unless `NO_PROXY` names the host. Plain http
 * endpoints are dialled straight. What the proxy's URL says beside host and port may be a password: it is not repeated.
 */
export function proxyFor(endpoint: string, env: DoctorWorld["env"]): ProxyChoice {
  const { protocol, hostname, port } = new URL(endpoint);
  if (protocol !== "https:") return { is: "none", why: "http endpoints are dialled straight" };
  const from = ["https_proxy", "HTTPS_PROXY"].find((name) => (env[name] ?? "") !== "");
  if (from === undefined) return { is: "none", why: "HTTPS_PROXY is not set" };
  if (inNoProxy(env["no_proxy"] || env["NO_PROXY"] || "", hostname, port || "443"))
    return { is: "none", why: `NO_PROXY names ${hostname}` };
  const given = env[from] ?? "";
  if (!URL.canParse(given)) return { is: "wrong", from };
  const url = new URL(given);
  if (url.protocol !== "http:" && url.protocol !== "https:") return { is: "wrong", from };
  const fallback = url.protocol === "https:" ? 443 : 80;
  return { is: "proxy", host: bare(url.hostname), port: Number(url.port || fallback), from };
}

/** Host of a URL without the brackets of an IPv6 address. */
export const bare = (hostname: string): string => hostname.replace(/^\[(.*)\]$/, "$1");

function inNoProxy(list: string, host: string, port: string): boolean {
  return list
    .toLowerCase()
    .split(/[\s,]+/)
    .filter((entry) => entry !== "")
    .some((entry) => {
      if (entry === "*") return true;
      const [, name = entry, ofPort] = /^(.*?)(?::(\d+))?$/.exec(entry) ?? [];
      if (ofPort !== undefined && ofPort !== port) return false;
      const suffix = name.replace(/^\*?\./, ".");
      return suffix.startsWith(".") ? host.endsWith(suffix) : host === name;
    });
}
