import { type Logger as PinoLogger, pino } from "pino";

/** Structured log, one JSON object a line on stderr: `{level, time, component, msg, …}`. */
export type Logger = PinoLogger;

/** Levels that `--log-level` takes. */
export const logLevels = ["trace", "debug", "info", "warn", "error", "silent"] as const;
export type LogLevel = (typeof logLevels)[number];

/**
 * Names under which a secret could reach a log line by mistake. They are blanked as a second line of defence; the
 * first is not to log them.
 */
const secretPaths = [
  "authorization",
  "token",
  "secret",
  "apiKey",
  "key.d",
  "binding",
  "*.authorization",
  "*.token",
];

/** Makes the root logger of a process. Lines go to stderr, synchronously, so that a crash loses none. */
export function createLogger(component: string, level: LogLevel = "info"): Logger {
  return pino(
    {
      level,
      base: { component },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
      redact: { paths: secretPaths, censor: "[redacted]" },
    },
    pino.destination({ dest: 2, sync: true }),
  );
}

/** A logger that says nothing, for tests and for callers that did not pass one. */
export const silentLogger: Logger = pino({ level: "silent" });
