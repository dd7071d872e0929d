import { createHash } from "node:crypto";
import { readFileSync, writeFileSync } from "node:fs";
import { type Clock, sleep } from "../../../../src/lib/clock.ts";
import type { ProgramInMemory } from "../memory/program.ts";
import type { Container } from "./types.ts";

/** What an image name stands for on this machine. */
export interface ContainerImage {
  /** Entrypoint: program and first arguments, as absolute paths in the container. */
  readonly command: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /**
   * Files and folders of the host that the container sees read-only, at the same path or at `target`, which must not
   * lie below /usr. A volume whose mountPath is above one of them hides it, as in a real image.
   */
  readonly readOnlyPaths: readonly (string | { readonly source: string; readonly target: string })[];
  /** Default `/`. */
  readonly workingDir?: string;
  /** User id of the image. Default 0. */
  readonly user?: number;
  /** Milliseconds that a pull takes. Default 0. */
  readonly pullDelayMs?: number;
}

/** An image of the memory backend, which runs its `program` in this process (`memory/program.ts`). */
export interface MemoryImage {
  readonly program: ProgramInMemory;
  readonly env?: Readonly<Record<string, string>>;
  /** Milliseconds that a pull takes. Default 0. */
  readonly pullDelayMs?: number;
}

/** An image of either backend. */
export type HostImage = ContainerImage | MemoryImage;

/** Finds an image by reference; undefined when it cannot be pulled. */
export type ImageResolver<I extends HostImage = ContainerImage> = (
  reference: string,
) => I | undefined | Promise<I | undefined>;

/** Reasons under which a container waits for its image. */
export type ImageFailure = "ErrImagePull" | "ErrImageNeverPull" | "InvalidImageName";

/** An image that is not to be had; the message has its reference. */
export class ImageError extends Error {
  readonly reason: ImageFailure;

  constructor(reason: ImageFailure, message: string) {
    super(message);
    this.name = "ImageError";
    this.reason = reason;
  }
}

/** The images of one host. What was pulled stays, over reboots too. */
export class ImageStore {
  readonly #resolve: ImageResolver<HostImage>;
  readonly #clock: Clock;
  readonly #file: string | undefined;
  readonly #pulled: Set<string>;

  /** @param file where the names of pulled images are kept; undefined = here alone */
  constructor(resolve: ImageResolver<HostImage>, clock: Clock, file?: string) {
    this.#resolve = resolve;
    this.#clock = clock;
    this.#file = file;
    this.#pulled = new Set(file === undefined ? [] : readNames(file));
  }

  has(reference: string): boolean {
    return this.#pulled.has(reference);
  }

  /**
   * The image, pulled first where the policy wants that.
   *
   * @throws ImageError when it is not to be had
   */
  async ensure(
    reference: string,
    policy: Container["imagePullPolicy"],
    signal: AbortSignal,
  ): Promise<{ image: HostImage; pulled: boolean }> {
    const present = this.#pulled.has(reference);
    if (!present && policy === "Never") {
      throw new ImageError(
        "ErrImageNeverPull",
        `Container image "${reference}" is not present with pull policy of Never`,
      );
    }
    const image = await this.#resolve(reference);
    if (!image) {
      throw new ImageError(
        "ErrImagePull",
        `failed to pull and unpack image "${reference}": failed to resolve reference "${reference}": not found`,
      );
    }
    const pull = !present || policy === "Always";
    if (pull) {
      await sleep(this.#clock, image.pullDelayMs ?? 0, signal);
      signal.throwIfAborted();
      this.#pulled.add(reference);
      if (this.#file !== undefined) writeFileSync(this.#file, JSON.stringify([...this.#pulled]));
    }
    return { image, pulled: pull };
  }
}

/** `<repository>@sha256:<hex>`: the digest of the reference, or one made of its text where it has none. */
export function imageID(reference: string): string {
  if (/@sha256:[0-9a-f]{64}$/.test(reference)) {
    const [name = "", digest] = reference.split("@");
    return `${name.replace(/:[^:/]*$/, "")}@${digest}`;
  }
  const hex = createHash("sha256").update(reference).digest("hex");
  return `${reference.replace(/:[^:/]*$/, "")}@sha256:${hex}`;
}

function readNames(file: string): string[] {
  try {
    const names: unknown = JSON.parse(readFileSync(file, "utf8"));
    return Array.isArray(names) ? names.filter((name) => typeof name === "string") : [];
  } catch {
    return [];
  }
}
