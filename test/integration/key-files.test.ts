import { existsSync } from "node:fs";
import { join } from "node:path";
import { afterAll, expect, it } from "vitest";
import { openDataKey } from "../../src/io/admin/data-folder.ts";
import { smallDisk, whyNoSmallDisk } from "../lib/small-disk.ts";
import { supervise } from "../testbed/processes.ts";

const processes = supervise();
afterAll(() => processes.close());
const why = whyNoSmallDisk();

it.skipIf(why !== undefined)(
  `a key that a full disk does not take leaves no file that the next start would refuse${why === undefined ? "" : `: skipped, ${why}`}`,
  () => {
    const { folder, fill, free } = smallDisk(processes, 1);
    fill();
    expect(() => openDataKey(folder, undefined)).toThrow(/data\.key cannot be written: ENOSPC/);
    expect(existsSync(join(folder, "data.key"))).toBe(false);
    free();
    expect(openDataKey(folder, undefined)).toEqual(openDataKey(folder, undefined));
  },
);
