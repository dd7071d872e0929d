/**
 * The first module of a program that is process 1 of its container. The kernel drops a signal that such a process does not handle
 * yet, so a pod that is deleted while its program is being loaded would stay for its whole grace period. Until
 * {@link takeOverEnd} there is nothing to be left in order: SIGTERM ends the program as it ends any other process.
 */
const end = (): void => {
  process.off("SIGTERM", end);
  process.kill(process.pid, "SIGTERM");
  // Still here, so this is process 1. The code is what a shell tells of a program that SIGTERM ended.
  process.exit(143);
};
process.on("SIGTERM", end);

/** From now on SIGTERM calls `leave`, once. */
export function takeOverEnd(leave: () => void): void {
  // In this order: without a listener in between a signal would be lost once more.
  process.once("SIGTERM", leave);
  process.off("SIGTERM", end);
}
