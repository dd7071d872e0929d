import type { SeenFrame } from "./happenings.ts";
import { kindOf, withOtherToken } from "./forge.ts";
import type { SimNode } from "./node.ts";
import type { Dice } from "./random.ts";
import type { Scene } from "./scene.ts";

/** A kind of trouble. It undoes itself in time; {@link calm} undoes all at once. */
type Fault = (scene: Scene, dice: Dice) => void;

const someNode = ({ nodes }: Scene, dice: Dice): SimNode => dice.pick(nodes);

/** Does something at some later time, unless the faults have stopped by then. */
function later(scene: Scene, ms: number, label: string, act: () => void): void {
  scene.world.plan(ms, label, () => {
    if (!scene.calm) act();
  });
}

function killFor(scene: Scene, node: SimNode, ms: number): void {
  scene.witness.saw({ is: "agent-died", node });
  node.kill();
  later(scene, ms, `${node.name} starts again`, () => node.start());
}

function killServiceFor(scene: Scene, ms: number): void {
  scene.witness.saw({ is: "service-died" });
  scene.service.kill();
  later(scene, ms, "io starts again", () => scene.service.start());
}

function partition(scene: Scene, node: SimNode, dice: Dice, longest: number): void {
  const ways = dice.pick([["up", "down"], ["up"], ["down"]] as const);
  for (const way of ways) node.link.block(way);
  later(scene, dice.between(100, longest), `${node.name} healed`, () => {
    if (!node.dark) node.link.heal();
  });
}

/** Something happens to the connection, or to either end, just as a frame of a certain kind is on its way. */
function ambush(scene: Scene, dice: Dice): void {
  const kind = dice.pick([
    "result",
    "ack",
    "offer",
    "chunk",
    "verdict",
    "resume",
    "heartbeat",
    "accept",
    "nack",
  ]);
  const how = dice.pick(["cut", "silence", "kill agent", "kill io", "replay", "replay"] as const);
  const after = dice.int(0, 3);
  let seen = 0;
  const strike = ({ node, socket, direction, kind: sent, forged }: SeenFrame) => {
    if (sent !== kind || forged !== undefined || scene.calm || ++seen <= after) return;
    scene.ambushes.delete(strike);
    scene.world.plan(0, `ambush: ${how} at ${kind} of ${node.name}`, () => {
      if (how === "cut") socket.cut();
      else if (how === "silence") socket.silence(direction);
      else if (how === "kill agent") killFor(scene, node, dice.between(50, 4_000));
      else if (how === "kill io") killServiceFor(scene, dice.between(50, 3_000));
      else replay(scene, node, direction);
    });
  };
  scene.ambushes.add(strike);
}

/** The network delivers the newest frame of a connection once more. */
function replay(scene: Scene, node: SimNode, direction: "up" | "down"): void {
  const { socket } = node;
  const text = socket?.newest[direction];
  if (!socket?.open || text === undefined) return;
  scene.witness.forge(text, "replayed");
  socket.send(direction, text);
}

/** A node with other software: its results carry a token that it was not given. */
function liar(scene: Scene, dice: Dice): void {
  const node = someNode(scene, dice);
  node.tamper = (text) => {
    if (kindOf(text) !== "result") return [text];
    const changed = withOtherToken(text, node.key, dice.bytes(16));
    scene.witness.forge(changed, "changed");
    return [changed];
  };
  later(scene, dice.between(1_000, 8_000), `${node.name} is honest again`, () => (node.tamper = undefined));
}

/**
 * A mirror on the way answers with any release that was once published, or with another network's, just as the network
 * publishes one after another: nodes hear of more than they can get.
 */
function staleMirror(scene: Scene, dice: Dice): void {
  const foreign = scene.otherRelease();
  const victims = new Set(scene.nodes.filter(() => dice.chance(0.6)).map(({ name }) => name));
  scene.http.intercept = (asker, { url }) => {
    if (!victims.has(asker.name) || !url.endsWith("/v1/config/release")) return undefined;
    const old = scene.releases.get(dice.int(1, scene.newest))?.statement;
    return { status: 200, body: JSON.stringify(dice.chance(0.2) ? foreign : old) };
  };
  for (const ms of [100, 300, 600]) later(scene, ms, "release", () => scene.publish(dice.chance(0.5)));
  later(scene, dice.between(4_000, 15_000), "mirror gone", () => (scene.http.intercept = () => undefined));
}

/** The node's ConfigMap shows an earlier release. */
function oldMount(scene: Scene, dice: Dice): void {
  const node = someNode(scene, dice);
  const old = scene.releases.get(dice.int(1, scene.newest));
  if (old) node.disk.set("/network/release.json", Buffer.from(JSON.stringify(old.statement)));
}

/** All kinds, with how often each comes. */
export const faults: Readonly<Record<string, { readonly weight: number; readonly strike: Fault }>> = {
  cut: { weight: 6, strike: (scene, dice) => someNode(scene, dice).socket?.cut() },
  "half-open": {
    weight: 4,
    strike: (scene, dice) => someNode(scene, dice).socket?.silence(dice.pick(["up", "down"] as const)),
  },
  partition: {
    weight: 4,
    strike: (scene, dice) => partition(scene, someNode(scene, dice), dice, 25_000),
  },
  "mass partition": {
    weight: 0.5,
    strike: (scene, dice) => {
      for (const node of scene.nodes) if (dice.chance(0.6)) partition(scene, node, dice, 12_000);
    },
  },
  "slow link": {
    weight: 2,
    strike: (scene, dice) => {
      const { link, name } = someNode(scene, dice);
      link.slowMs = dice.between(50, 3_000);
      later(scene, dice.between(1_000, 15_000), `${name} link fast`, () => (link.slowMs = 0));
    },
  },
  "agent killed": {
    weight: 4,
    strike: (scene, dice) => killFor(scene, someNode(scene, dice), dice.between(50, 8_000)),
  },
  "pod recreated": {
    weight: 1,
    strike: (scene, dice) => {
      const node = someNode(scene, dice);
      killFor(scene, node, dice.between(500, 8_000));
      scene.witness.saw({ is: "wiped", node });
      node.engine.gone();
      node.disk.wipe(["/state", "/launch"]);
    },
  },
  "agent told to stop": {
    weight: 1,
    strike: (scene, dice) => {
      someNode(scene, dice).leave(dice.between(50, 8_000));
    },
  },
  "host off": {
    weight: 2,
    strike: (scene, dice) => {
      const node = someNode(scene, dice);
      if (node.dark) return;
      scene.witness.saw({ is: "agent-died", node });
      node.powerOff();
      later(scene, dice.between(2_000, 20_000), `${node.name} powered on`, () => node.powerOn());
    },
  },
  "agent stopped (SIGSTOP)": {
    weight: 2,
    strike: (scene, dice) => someNode(scene, dice).process?.pause(dice.between(200, 30_000)),
  },
  "io killed": { weight: 1, strike: (scene, dice) => killServiceFor(scene, dice.between(50, 6_000)) },
  "io stopped (SIGSTOP)": {
    weight: 0.5,
    strike: (scene, dice) => scene.service.pause(dice.between(200, 8_000)),
  },
  "store away": {
    weight: 1,
    strike: (scene, dice) => {
      const { disk } = scene.service;
      disk.away = true;
      later(scene, dice.between(300, 8_000), "store back", () => (disk.away = false));
    },
  },
  "store slow": {
    weight: 1,
    strike: (scene, dice) => {
      const { disk } = scene.service;
      disk.slowMs = dice.between(20, 1_500);
      later(scene, dice.between(2_000, 15_000), "store fast", () => (disk.slowMs = 0));
    },
  },
  "disk full": {
    weight: 1,
    strike: (scene, dice) => {
      const { disk, name } = someNode(scene, dice);
      disk.full = true;
      later(scene, dice.between(1_000, 20_000), `${name} has room`, () => (disk.full = false));
    },
  },
  "disk slow": {
    weight: 1,
    strike: (scene, dice) => {
      const { disk, name } = someNode(scene, dice);
      disk.slowMs = dice.between(20, 1_500);
      later(scene, dice.between(2_000, 20_000), `${name} disk fast`, () => (disk.slowMs = 0));
    },
  },
  "engine crashes": { weight: 2, strike: (scene, dice) => someNode(scene, dice).engine.crash() },
  "engine moody": {
    weight: 4,
    strike: (scene, dice) => {
      const { engine, name } = someNode(scene, dice);
      engine.mood = dice.pick(["slow", "ill", "ill", "hanging"] as const);
      later(scene, dice.between(2_000, 20_000), `${name} engine well`, () => (engine.mood = "well"));
    },
  },
  "clock jumps": {
    weight: 1,
    strike: (scene, dice) => {
      const { clock, name, usualSkewMs } = someNode(scene, dice);
      clock.skewMs = dice.pick([-1, 1]) * dice.pick([30_000, 250_000, 3_600_000]);
      later(scene, dice.between(2_000, 20_000), `${name} clock right`, () => (clock.skewMs = usualSkewMs));
    },
  },
  ban: {
    weight: 0.5,
    strike: (scene, dice) => {
      const node = someNode(scene, dice);
      scene.ban(node, "misbehaved");
      later(scene, dice.between(1_000, 10_000), `${node.name} let in again`, () => scene.ban(node, null));
    },
  },
  ambush: { weight: 8, strike: ambush },
  liar: { weight: 3, strike: liar },
  "stale mirror": { weight: 3, strike: staleMirror },
  "old mount": { weight: 1, strike: oldMount },
  release: { weight: 2, strike: (scene, dice) => scene.publish(dice.chance(0.5)) },
};

/** Plans faults from now until `until` (world time), about one in `everyMs`. Each world has some kinds only. */
export function trouble(scene: Scene, dice: Dice, until: number, everyMs: number): void {
  const chosen = Object.entries(faults).filter(() => dice.chance(0.6));
  const total = chosen.reduce((sum, [, { weight }]) => sum + weight, 0);
  if (total === 0) return;
  const draw = () => {
    let left = dice.number() * total;
    for (const [name, { weight, strike }] of chosen) {
      left -= weight;
      if (left <= 0) return { name, strike };
    }
    return undefined;
  };
  const next = () => {
    const ms = dice.gap(everyMs);
    if (scene.world.now + ms > until) return;
    const fault = draw();
    scene.world.plan(ms, `fault: ${fault?.name}`, () => {
      fault?.strike(scene, dice);
      next();
    });
  };
  next();
}

/** All faults stop: whatever they have left is put right. */
export function calm(scene: Scene): void {
  scene.calm = true;
  scene.ambushes.clear();
  scene.http.intercept = () => undefined;
  scene.service.disk.away = false;
  scene.service.disk.slowMs = 0;
  scene.service.start();
  for (const node of scene.nodes) {
    node.link.slowMs = 0;
    node.disk.full = false;
    node.disk.slowMs = 0;
    node.clock.skewMs = node.usualSkewMs;
    node.tamper = undefined;
    node.engine.mood = "well";
    if (node.dark) node.powerOn();
    node.link.heal();
    node.start();
  }
}
