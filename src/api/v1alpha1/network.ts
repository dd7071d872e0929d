/** `ResultityNetwork`: which inference network the nodes of a namespace belong to, and what is trusted to configure them. */
import { z } from "zod";
import { conditions } from "./condition-list.ts";
import { networkConditionTypes, networkReasons } from "./conditions.ts";
import {
  count,
  dataKey,
  digest,
  exactlyOne,
  image,
  immutable,
  listAtomic,
  listMap,
  listSet,
  matching,
  modelName,
  networkName,
  objectName,
  observedDigest,
  observedGeneration,
  time,
  withRules,
} from "./fields.ts";
import type { NewResource, Resource } from "./meta.ts";

const endpoint = withRules(
  z.string().min(1).max(2048),
  matching(
    /^https?:\/\/(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?(\/[^ ?#]*)?$/,
    'must be an http or https URL without user, query or fragment, for example "https://io.example.com"',
  ),
).describe("Base URL of an IO service.");

const weightSource = () =>
  withRules(
    z.string().min(1).max(2048),
    matching(
      /^(https?:\/\/[^ \t\r\n/?#@\\]+(\/[^ \t\r\n?#\\]*)?|file:\/\/\/[^ \t\r\n?#\\]*)$/,
      'must be an http, https or file URL without user, query or fragment, for example "https://weights.example.com/models"',
    ),
  );

const trust = withRules(
  z.strictObject({
    root: z
      .string()
      .min(1)
      .max(65_536)
      .describe("The signed root statement itself, as the network publishes it.")
      .optional(),
    rootConfigMap: z
      .strictObject({
        name: objectName().describe("Name of the ConfigMap, in the namespace of the network."),
        key: dataKey().describe("Entry of the ConfigMap that holds the statement.").default("root.json"),
      })
      .describe("A ConfigMap that holds the signed root statement.")
      .optional(),
  }),
  exactlyOne(["root", "rootConfigMap"], "set exactly one of root and rootConfigMap"),
).describe(
  "The signed root statement of the network, which names the keys that may sign its config. Take it from a place that you trust; whoever can write it decides what the nodes run.",
);

const imagePrefix = () =>
  withRules(
    z.string().min(1).max(255),
    matching(
      /^[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{1,5})?(\/[a-z0-9._-]+)*\/?$/,
      'must be a registry, or the beginning of an image name without tag or digest, for example "registry.example.com/team"',
    ),
  );

const modelPattern = () =>
  withRules(
    z.string().min(1).max(255),
    matching(
      /^([A-Za-z0-9][A-Za-z0-9._:/@+-]*\*?|\*)$/,
      'must be a model name as the network\'s config spells it, or the beginning of one and "*", for example "meta-llama/*"',
    ),
  );

const maintenanceWindow = z.strictObject({
  schedule: withRules(
    z.string().min(9).max(128),
    matching(
      /^[0-9A-Za-z*,/#?-]+( [0-9A-Za-z*,/#?-]+){4}$/,
      'must be five cron fields separated by one space (minute, hour, day of month, month, day of week), for example "0 2 * * 6"',
    ),
  ).describe("When the window opens, in cron's five fields: minute, hour, day of month, month, day of week."),
  durationMinutes: z.int().min(1).max(10_080).describe("How long it stays open, in minutes."),
  timeZone: withRules(
    z.string().min(1).max(64),
    matching(/^[A-Za-z0-9_+/-]+$/, 'must be an IANA time zone, for example "Europe/Berlin"'),
  )
    .describe("IANA name of the time zone of the schedule.")
    .default("UTC"),
});

export const networkSpec = z
  .strictObject({
    environment: withRules(
      z.enum(["Testnet", "Mainnet"]),
      immutable("cannot be changed: create another ResultityNetwork for the other environment"),
    ).describe("Which environment this network is. Jobs of one never reach nodes of the other."),
    endpoints: listSet(endpoint, 8)
      .min(1)
      .describe(
        "IO services of the network; any of them serves. Sessions use the WebSocket of the same address.",
      ),
    trust,
    account: z
      .strictObject({
        id: networkName().describe("Id of the account at the network."),
        secretName: objectName().describe(
          "Name of the Secret whose entry `account-key` holds the account's key. Only the operator reads it, to bind nodes to the account; no pod mounts it.",
        ),
      })
      .describe("The account that the nodes earn for."),
    config: z
      .strictObject({
        pin: digest()
          .describe(
            "Digest of the config to stay at, in place of the one that the network's newest release calls current. It must be one that the release allows.",
          )
          .optional(),
        apply: z
          .enum(["Automatic", "Approve"])
          .describe(
            "Whether nodes move by themselves to each config that the network's newest release calls current, or wait until a person has approved it. A pin needs no approval.",
          )
          .default("Automatic"),
        approved: digest()
          .describe(
            "With `apply: Approve`, the config that may be moved to. `kubectl resultity approve` sets it to the one in status.pending.",
          )
          .optional(),
        maintenanceWindows: listAtomic(maintenanceWindow, 16)
          .describe(
            "When nodes in service may be restarted for what the network brings: a new config, agent image or endpoint. Empty: at all times. What needs no restart moves at once, as do nodes that are not in service; edits of pools and nodes do not wait.",
          )
          .default([]),
        refreshIntervalSeconds: z
          .int()
          .min(5)
          .max(3600)
          .describe("How often the operator asks for a newer release, in seconds.")
          .default(30),
      })
      .describe("Which config the nodes of the network move to, and when the operator looks for a newer one.")
      .prefault({}),
    agent: z
      .strictObject({ image: image().describe("Image of the agent, by digest.") })
      .describe("The agent that runs beside the runtime in each node's pod."),
    images: z
      .strictObject({
        mirrors: listMap(
          z.strictObject({
            source: imagePrefix().describe("Registry, or the beginning of an image's name up to a slash."),
            mirrors: listSet(imagePrefix(), 8)
              .min(1)
              .describe(
                "What to put in its place. They are tried in this order, and the source itself last, each time that a pull fails.",
              ),
          }),
          ["source"],
          32,
        )
          .describe(
            "Other places of the runtimes' images. They change the place only, never the digest. Of several sources the longest counts.",
          )
          .optional(),
        allowed: listSet(imagePrefix(), 64)
          .describe(
            "Registries, or beginnings of names, from which runtimes may come. Empty: all that the network's signed config lists.",
          )
          .optional(),
        denied: listSet(imagePrefix(), 64)
          .describe("Those from which none may come, whatever `allowed` says.")
          .optional(),
      })
      .describe("Which of the runtimes' images may run here, and where they are pulled from.")
      .optional(),
    models: z
      .strictObject({
        mirrors: listMap(
          z.strictObject({
            source: weightSource().describe(
              "Where the network's config says that weights are: a URL, or the beginning of one up to a slash.",
            ),
            mirrors: listSet(weightSource(), 8)
              .min(1)
              .describe("Where the same is to be had too, tried in this order before the source itself."),
          }),
          ["source"],
          32,
        )
          .describe(
            "Other places of the models' weights. They change the place only: what the bytes must be, the signed config says.",
          )
          .optional(),
        allowed: listSet(modelPattern(), 64)
          .describe(
            "Models that nodes may serve, or beginnings of their names with `*`. Empty: all that the network's signed config lists. Asked when a node gets its pod or a config: what a node serves already it keeps until then.",
          )
          .optional(),
        denied: listSet(modelPattern(), 64)
          .describe("Those that none may serve, whatever `allowed` says.")
          .optional(),
      })
      .describe("Which models may be served here, and where their weights come from.")
      .optional(),
  })
  .describe("What the network is and what is trusted to configure its nodes.");

const runtimeSummary = z.strictObject({
  engine: networkName().describe("The inference server. It may be one that this version cannot run."),
  image: z.string().max(512).describe("Its image, by digest."),
});

export const networkStatus = z
  .strictObject({
    observedGeneration: observedGeneration().optional(),
    config: z
      .strictObject({
        digest: observedDigest().describe(
          "Digest of the config that nodes move to: the pinned or the current one.",
        ),
        version: z.string().max(128).describe("Its version, as the network calls it."),
        releaseSequence: z
          .int()
          .min(0)
          .describe("Sequence of the newest verified release. It never goes back."),
        releasedAt: time().describe("When that release was signed, where it says so.").optional(),
        expiresAt: time().describe("When the release stops allowing this config, unless it is renewed."),
        runtimes: listAtomic(runtimeSummary, 64).describe("The runtimes that this config lists.").optional(),
        models: listSet(modelName(), 256).describe("The models that this config lists.").optional(),
      })
      .describe("The verified config of the network.")
      .optional(),
    pending: z
      .strictObject({
        digest: observedDigest().describe("Digest of the config."),
        version: z.string().max(128).describe("Its version, as the network calls it."),
        changes: listAtomic(z.string().max(256), 32).describe(
          "What it changes against the config that nodes move to now, a line each.",
        ),
      })
      .describe("The config that waits for approval.")
      .optional(),
    history: listMap(
      z.strictObject({
        digest: observedDigest().describe("Digest of the config."),
        version: z.string().max(128).describe("Its version."),
        since: time().describe("When the network last moved to it."),
      }),
      ["digest"],
      10,
    )
      .describe("The configs that were current, newest first.")
      .optional(),
    nodes: z
      .strictObject({
        total: count().describe("ResultityNodes that name this network."),
        ready: count().describe("Those of them that are Ready."),
        connected: count().describe("Those of them with an open session."),
      })
      .describe("How many nodes there are and how they are.")
      .optional(),
    conditions: conditions(networkConditionTypes, networkReasons).optional(),
  })
  .describe("What the operator knows about the network.");

export type NetworkSpec = z.output<typeof networkSpec>;
export type NetworkStatus = z.output<typeof networkStatus>;
export type ResultityNetwork = Resource<"ResultityNetwork", NetworkSpec, NetworkStatus>;
export type NewResultityNetwork = NewResource<"ResultityNetwork", z.input<typeof networkSpec>>;
