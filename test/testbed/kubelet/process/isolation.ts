/** How this machine starts a program in namespaces of its own, found out once. */
import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { messageOf } from "../../../../src/lib/errors.ts";
import { delimiter, join } from "node:path";

/** Commands of util-linux as they are to be used here. */
export interface Isolation {
  /**
   * Command before the path of a script that is to be process 1 of new mount, pid and UTS namespaces. It ends with the
   * script's exit code, 128 + n for signal n, and dies with this process.
   */
  readonly enterNew: readonly string[];
  /** Command before a program that is to run beside the container whose first process is `pid`. */
  enterRunning(pid: number): readonly string[];
  /** Path of setpriv(1). */
  readonly setpriv: string;
  /** Containers may have users other than root. */
  readonly canSwitchUser: boolean;
}

/**
 * Waits for the first process of the namespaces. unshare(1) can do that itself, but as of 2.38 it loses the signal
 * that ended a child. What the shell has to say about a killed child is not the container's output.
 */
const waiter = '"$0" --pdeathsig KILL /bin/sh "$1" & exec >/dev/null 2>&1 3>&-; wait $!';

/** What every container needs of the kernel. */
const trial = "mount -t tmpfs none /tmp && mount -t proc proc /proc";

/** Folders that are looked into beside PATH: administration programs are often missing from it. */
const administration = ["/usr/sbin", "/sbin", "/usr/bin", "/bin"];

let known: Isolation | undefined;

/**
 * Finds the way that works on this machine: as root plain namespaces, else a user namespace in which the caller is
 * root.
 *
 * @param searchPath the caller's PATH
 * @throws Error that says what is missing, when no way works
 */
export function isolation(searchPath: string): Isolation {
  known ??= detect(searchPath);
  return known;
}

/** Why this machine cannot run a process kubelet; undefined if it can. */
export function whyNoProcessKubelet(): string | undefined {
  try {
    isolation("");
    return undefined;
  } catch (thrown) {
    return messageOf(thrown);
  }
}

function detect(searchPath: string): Isolation {
  const find = (name: string) =>
    [...searchPath.split(delimiter), ...administration]
      .map((folder) => join(folder, name))
      .find((path) => path.startsWith("/") && existsSync(path));
  const unshare = find("unshare");
  const nsenter = find("nsenter");
  const setpriv = find("setpriv");
  const missing = ["unshare", "nsenter", "setpriv", "mount", "umount", "pivot_root"].filter(
    (name) => !find(name),
  );
  if (!unshare || !nsenter || !setpriv || missing.length > 0) {
    throw new Error(`the process kubelet needs Linux with util-linux; missing here: ${missing.join(", ")}`);
  }
  const root = process.getuid?.() === 0;
  const user = root ? [] : ["--user", "--map-root-user"];
  const namespaces = [unshare, ...user, "--mount", "--pid", "--uts"];
  const enterNew = [setpriv, "--pdeathsig", "KILL", ...namespaces, "/bin/sh", "-c", waiter, setpriv];
  const tried = spawnSync(unshare, [...user, "--mount", "--pid", "--uts", "--fork", "/bin/sh", "-c", trial], {
    encoding: "utf8",
  });
  if (tried.status !== 0) {
    throw new Error(
      `the process kubelet cannot make mount and pid namespaces here (${tried.stderr.trim() || tried.error?.message || "no reason given"}): ` +
        (root
          ? "it needs CAP_SYS_ADMIN; give the container of this process that capability"
          : "run it as root, or allow unprivileged user namespaces"),
    );
  }
  const inUser = root ? [] : ["--user", "--preserve-credentials"];
  return {
    enterNew,
    enterRunning: (pid) => [nsenter, `--target=${pid}`, ...inUser, "--mount", "--pid", "--uts"],
    setpriv,
    canSwitchUser: root,
  };
}

/** What Docker and containerd leave a container of root (capabilities(7)), less what only devices would need. */
const defaultCapabilities = [
  "chown",
  "dac_override",
  "fowner",
  "fsetid",
  "kill",
  "net_bind_service",
  "setfcap",
  "setgid",
  "setpcap",
  "setuid",
  "sys_chroot",
];

/** Whom a container runs as. */
export interface Rights {
  readonly user: number;
  readonly group: number;
  readonly groups: readonly number[];
  readonly dropAll: boolean;
  readonly dropped: readonly string[];
  readonly noNewPrivileges: boolean;
}

/** Command before a program that is to have no more than `rights`. */
export function rightsCommand(rights: Rights, how: Isolation): readonly string[] {
  const kept = rights.dropAll
    ? []
    : defaultCapabilities.filter((name) => !rights.dropped.some((drop) => drop.toLowerCase() === name));
  const bounding = ["-all", ...kept.map((name) => `+${name}`)].join(",");
  const args = [how.setpriv, "--inh-caps=-all", `--bounding-set=${bounding}`];
  if (how.canSwitchUser) {
    args.push(`--reuid=${rights.user}`, `--regid=${rights.group}`);
    args.push(rights.groups.length > 0 ? `--groups=${rights.groups.join(",")}` : "--clear-groups");
  }
  if (rights.noNewPrivileges) args.push("--no-new-privs");
  // A change of user clears it (prctl(2), PR_SET_PDEATHSIG), so it is set again.
  args.push("--pdeathsig=KILL", "--");
  return args;
}
