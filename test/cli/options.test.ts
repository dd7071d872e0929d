import { describe, expect, it } from "vitest";
import { parseOptions } from "../../src/cli/options.ts";

const parsed = (line: string) => parseOptions(line.split(" ").filter(Boolean));

describe("the command line of kubectl resultity", () => {
  it.each([
    ["status", { command: "status", namespace: undefined, allNamespaces: false, output: "text" }],
    ["status -n gpu", { namespace: "gpu" }],
    ["-n gpu status", { namespace: "gpu" }],
    ["status -n=gpu", { namespace: "gpu" }],
    ["status --namespace=gpu", { namespace: "gpu" }],
    ["status -A -o json", { allNamespaces: true, output: "json" }],
    ["status -ojson", { output: "json" }],
    ["status -o=json", { output: "json" }],
    ["why chat-0", { command: "why", subject: { kind: undefined, name: "chat-0" } }],
    ["why rnode/chat-0", { subject: { kind: "ResultityNode", name: "chat-0" } }],
    ["why resultitynodepools.resultity.com/chat", { subject: { kind: "ResultityNodePool", name: "chat" } }],
    ["why rnet testnet", { subject: { kind: "ResultityNetwork", name: "testnet" } }],
    ["approve testnet", { command: "approve", subject: { name: "testnet" }, digest: undefined }],
    [`approve testnet --digest sha256:${"a".repeat(64)}`, { digest: `sha256:${"a".repeat(64)}` }],
    ["rollout undo chat", { command: "rollout", verb: "undo", subject: { name: "chat" } }],
    ["rollout status rpool/chat", { verb: "status", subject: { kind: "ResultityNodePool" } }],
    ["park chat-0", { command: "park", subject: { name: "chat-0" } }],
    [`plan chat --digest sha256:${"a".repeat(64)}`, { digest: `sha256:${"a".repeat(64)}` }],
    ["plan -f pool.yaml", { command: "plan", file: "pool.yaml", subject: undefined }],
    ["plan -f -", { file: "-" }],
    ["plan chat --context prod --kubeconfig /k", { command: "plan", context: "prod", kubeconfig: "/k" }],
  ])("reads %j", (line, expected) => {
    expect(parsed(line)).toMatchObject(expected);
  });

  it.each([
    ["stat", 'there is no command "stat"'],
    ["why", "why needs the name of an object"],
    ["plan a b c", 'name one object, not "a b c"'],
    ["why rnode/a b", "name one object"],
    ["why rnode/", "names no object"],
    ["why pod/a", 'there is no kind "pod" here'],
    ["why /a", 'there is no kind ""'],
    ["status -A chat", "--all-namespaces does not go with a name"],
    ["why -A chat", "--all-namespaces does not go with a name"],
    ["status -o yaml", '--output "yaml" is unknown: use json'],
    ["status --wide", "'--wide'"],
    ["rollout", "rollout needs a verb: use one of status"],
    ["rollout back chat", 'rollout has no verb "back"'],
    ["rollout undo", "rollout needs the name of an object"],
    ["plan", "plan needs the name of an object"],
    ["plan chat -f pool.yaml", "--filename goes with plan, in place of a name"],
    ["why chat -f pool.yaml", "--filename goes with plan"],
    [`plan -f pool.yaml --digest sha256:${"a".repeat(64)}`, "and with plan NAME"],
    ["rollout pause chat --digest x", "--digest goes with approve, with rollout undo"],
    ["approve testnet --digest v2", '--digest "v2" is no digest'],
    ["status -n", "-n"],
  ])("refuses %j", (line, message) => {
    expect(() => parsed(line)).toThrow(message);
  });

  it.each([
    ["", "COMMAND"],
    ["--help", "COMMAND"],
    ["help plan", "resultity plan POOL"],
    ["why -h", "resultity why NODE|POOL|NETWORK"],
  ])("gives help for %j", (line, usage) => {
    expect(parsed(line)).toContain(usage);
  });
});
