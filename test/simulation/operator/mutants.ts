import type { Mutation } from "../../lib/mutate.ts";

/** A bug that is planted to see that the simulator finds it, and the invariant that should. */
export interface Mutant {
  readonly name: string;
  readonly finds: string;
  /** It shows before the storm begins. */
  readonly quick?: boolean;
  readonly mutations: readonly Mutation[];
}

/**
 * The bugs. A text that is no longer in its file exactly once ends the run (`test/lib/mutate.ts`).
 */
export const mutants: readonly Mutant[] = [
  {
    name: "a pod is deleted without saying which",
    finds: "I1",
    mutations: [
      {
        file: "src/operator/node/execute.ts",
        from: "const preconditions = finished || ends || graceSeconds === 0 ? { uid } : { uid, resourceVersion };",
        to: "const preconditions = {};",
      },
    ],
  },
  {
    name: "the budget of a pool is ignored",
    finds: "I7",
    mutations: [
      {
        file: "src/operator/pool/window.ts",
        from: "return Math.min(wanted, size);",
        to: "return size;",
      },
    ],
  },
  {
    name: "a node does not look at its pool before it goes",
    finds: "I7",
    mutations: [
      {
        file: "src/operator/node/leave.ts",
        from: "if (serving > minAvailable) return true;",
        to: "return true;",
      },
    ],
  },
  {
    name: "a pod has a name of its own, so that what is not seen is made again",
    finds: "I1",
    quick: true,
    mutations: [
      {
        file: "src/operator/node/execute.ts",
        from: "const pod = await client.create(pods, draft, {",
        to: "const pod = await client.create(pods, { ...draft, metadata: { ...draft.metadata, name: `${name}-${Date.now()}` } }, {",
      },
    ],
  },
  {
    name: "a pod that has ended is left as it is",
    finds: "I8",
    mutations: [
      {
        file: "src/operator/node/plan.ts",
        from: 'actions: [{ type: "delete-pod", uid: pod.uid, finished: true, reason: `pod ended: ${finished.reason}` }],',
        to: "actions: [],",
      },
    ],
  },
];
