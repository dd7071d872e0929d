/** What is known of one GPU. Null = unknown; never a 0 that nobody measured. */
export interface GpuReading {
  readonly product: string | null;
  readonly uuid: string | null;
  readonly memoryMib: number | null;
  readonly memoryUsedMib: number | null;
  /** Percent of the time in which it worked. */
  readonly utilisation: number | null;
  readonly temperatureC: number | null;
  readonly powerW: number | null;
  /** Code of the last error that the driver reported; 0 = none. */
  readonly xid: number | null;
}

/** Reads the node's GPUs. Rejects when it cannot; an empty list means that the source knows of none. */
export type GpuSource = () => Promise<readonly GpuReading[]>;
