/**
 * The shell script that turns a fresh mount and pid namespace into a container: a root of its own on tmpfs, the
 * host's programs read-only, the image's paths, the volumes; then the program in place of the script.
 *
 * It speaks to the kubelet on descriptor 3, one line each: `P <pid on the host>`, then `R` right before the program
 * runs, or `E <why not>`.
 */
import { lstatSync, readdirSync, readlinkSync } from "node:fs";
import { dirname } from "node:path";

/** A folder or file of the host that the container sees. */
export interface Bind {
  /** Absolute path on the host. */
  readonly source: string;
  /** Absolute path in the container. */
  readonly target: string;
  readonly readOnly: boolean;
  /** Whether `source` is a folder. */
  readonly folder: boolean;
}

/** What a container's root is made of, and what runs in it. */
export interface RootPlan {
  /** Empty folder of the host over which the root is mounted, in the container's own namespace only. */
  readonly mountPoint: string;
  /** Host programs at their own places first, then volumes; parents before children. */
  readonly binds: readonly Bind[];
  /** Folders of the host that stay hidden where a bind would show them: the kubelet's own. */
  readonly hidden: readonly string[];
  readonly hostname: string;
  /** Text of /etc/hosts. */
  readonly hosts: string;
  readonly workingDir: string;
  readonly readOnlyRoot: boolean;
  /** Program and arguments. */
  readonly argv: readonly string[];
  /** Command before the program that takes rights away. */
  readonly rights: readonly string[];
}

/** Of the host's /etc: what the C library, TLS and Debian's links need, and no secret. */
const etcFiles = [
  "group",
  "host.conf",
  "ld.so.cache",
  "localtime",
  "mime.types",
  "nsswitch.conf",
  "passwd",
  "protocols",
  "resolv.conf",
  "services",
];
const etcFolders = [
  "alternatives",
  "ca-certificates",
  "ld.so.conf.d",
  "pki",
  "python3",
  "python3.11",
  "ssl/certs",
];
const devices = ["full", "null", "random", "tty", "urandom", "zero"];

/** The script's text, for `/bin/sh`. Its environment is to be the container's; it restores `PATH` at the end. */
export function rootScript(plan: RootPlan): string {
  const root = plan.mountPoint;
  const folders = new Set(
    ["proc", "sys", "dev", "etc", "root", "run", "var", ".host"].map((name) => `${root}/${name}`),
  );
  const files: string[] = [];
  const mounts: string[] = [];
  const links: string[] = [];
  const copies: string[] = [];
  for (const name of readdirSync("/")) {
    if (!/^(bin|sbin|usr|lib.*)$/.test(name)) continue;
    if (lstatSync(`/${name}`).isSymbolicLink()) {
      links.push(`try ln -s ${quote(readlinkSync(`/${name}`))} ${quote(`${root}/${name}`)}`);
    } else {
      folders.add(`${root}/${name}`);
      mounts.push(bindLine({ source: `/${name}`, target: `/${name}`, readOnly: true, folder: true }, root));
    }
  }
  for (const name of etcFiles) {
    if (lstatSync(`/etc/${name}`, { throwIfNoEntry: false })) copies.push(`/etc/${name}`);
  }
  for (const name of etcFolders) {
    if (!lstatSync(`/etc/${name}`, { throwIfNoEntry: false })?.isDirectory()) continue;
    folders.add(`${root}/etc/${name}`);
    mounts.push(
      bindLine({ source: `/etc/${name}`, target: `/etc/${name}`, readOnly: true, folder: true }, root),
    );
  }
  // Mount points of the binds are made as each comes to its turn, because a bind may hold the next one's place.
  const binds = plan.binds.map((bind) =>
    [
      bind.folder
        ? `try mkdir -p ${quote(root + bind.target)}`
        : `try mkdir -p ${quote(dirname(root + bind.target))}; [ -e ${quote(root + bind.target)} ] || try touch ${quote(root + bind.target)}`,
      bindLine(bind, root),
    ].join("\n  "),
  );
  const hidden = plan.hidden.map(
    (path) =>
      `[ ! -d ${quote(root + path)} ] || try mount -t tmpfs -o ro,mode=0000 hidden ${quote(root + path)}`,
  );
  for (const name of devices) files.push(`${root}/dev/${name}`);
  return `#!/bin/sh
# Written by the process kubelet: the root of one container.
say() { printf '%s\\n' "$*" >&3; }
fail() { say "E $*"; exit 128; }
try() { __out=$("$@" 2>&1) || fail "$*: $__out"; }
main() {
  # /proc is still the host's here, so this is the pid by which the kubelet knows the container.
  read -r __pid __rest </proc/self/stat
  say "P $__pid"
  __path=$PATH
  PATH=/usr/sbin:/usr/bin:/sbin:/bin
  umask 022
  try mount -t tmpfs -o mode=0755 root ${quote(root)}
  try mkdir -p ${[...folders].map(quote).join(" ")}
  try mkdir -p -m 1777 ${quote(`${root}/tmp`)} ${quote(`${root}/var/tmp`)}
  ${lines(links)}
  try cp -L ${copies.map(quote).join(" ")} ${quote(`${root}/etc/`)}
  printf '%s' ${quote(plan.hosts)} >${quote(`${root}/etc/hosts`)}
  printf '%s\\n' ${quote(plan.hostname)} >${quote(`${root}/etc/hostname`)}
  # The first works in a user namespace too, the second without the program.
  { hostname ${quote(plan.hostname)} || printf '%s' ${quote(plan.hostname)} >/proc/sys/kernel/hostname; } 2>/dev/null || :
  try mount -t proc -o nosuid,nodev,noexec proc ${quote(`${root}/proc`)}
  mount -o bind,ro /sys ${quote(`${root}/sys`)} 2>/dev/null
  try mount -t tmpfs -o mode=0755 dev ${quote(`${root}/dev`)}
  try mkdir -m 1777 ${quote(`${root}/dev/shm`)}
  try touch ${files.map(quote).join(" ")}
  ${lines(devices.map((name) => `try mount -o bind /dev/${name} ${quote(`${root}/dev/${name}`)}`))}
  try ln -s /proc/self/fd ${quote(`${root}/dev/fd`)}
  try ln -s /proc/self/fd/0 ${quote(`${root}/dev/stdin`)}
  try ln -s /proc/self/fd/1 ${quote(`${root}/dev/stdout`)}
  try ln -s /proc/self/fd/2 ${quote(`${root}/dev/stderr`)}
  ${lines(mounts)}
  ${lines(binds)}
  ${lines(hidden)}
  cd ${quote(root)} || fail "cd ${quote(root)}"
  try pivot_root . .host
  try umount -l /.host
  try rmdir /.host
  try mkdir -p ${quote(plan.workingDir)}
  ${plan.readOnlyRoot ? "try mount -o remount,ro /" : ":"}
  cd ${quote(plan.workingDir)} || fail "workingDir ${quote(plan.workingDir)}: cannot enter"
  PATH=$__path
  command -v ${quote(plan.argv[0] ?? "")} >/dev/null 2>&1 || fail ${quote(`exec: "${plan.argv[0] ?? ""}": executable file not found in $PATH`)}
  unset __pid __rest __path __out
  say R
  exec 3>&-
  exec ${[...plan.rights, ...plan.argv].map(quote).join(" ")}
}
main
`;
}

function bindLine(bind: Bind, root: string): string {
  const flags = bind.readOnly ? "rbind,ro" : "rbind";
  return `try mount -o ${flags} ${quote(bind.source)} ${quote(root + bind.target)}`;
}

function lines(all: readonly string[]): string {
  return all.length === 0 ? ":" : all.join("\n  ");
}

/** A word for a POSIX shell. */
export function quote(word: string): string {
  return /^[A-Za-z0-9_/.,:=@%+-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
