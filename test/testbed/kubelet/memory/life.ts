/** What makes a program in this process end as a process does: at once, and with all that it had under way. */
import type { Files, Http, HttpExchange, Transport } from "../../../../src/agent/ports.ts";
import type { Clock, Timer } from "../../../../src/lib/clock.ts";

/** One run of a program, from its start to its end. */
export class Life {
  #over = false;
  readonly #ends = new Set<() => void>();

  get over(): boolean {
    return this.#over;
  }

  /** Calls `then` when the run ends, at once if it has. Returns what takes that back. */
  onEnd(then: () => void): () => void {
    if (this.#over) then();
    else this.#ends.add(then);
    return () => void this.#ends.delete(then);
  }

  end(): void {
    if (this.#over) return;
    this.#over = true;
    for (const then of this.#ends) then();
    this.#ends.clear();
  }
}

const nothing: Timer = { cancel: () => {} };

/** A clock whose timers end with `life`. */
export function mortalClock(clock: Clock, life: Life): Clock {
  return {
    now: () => clock.now(),
    monotonic: () => clock.monotonic(),
    setTimer(fn, ms) {
      if (life.over) return nothing;
      const timer = clock.setTimer(() => {
        forget();
        fn();
      }, ms);
      const forget = life.onEnd(() => timer.cancel());
      return {
        cancel() {
          forget();
          timer.cancel();
        },
      };
    },
  };
}

/** Files of a container, and what only programs in memory may know of them. */
export interface FilesInMemory extends Files {
  /** Path on this machine's disk of what lies in a `hostPath` volume; undefined for everything else. */
  diskPath(path: string): string | undefined;
  /** Whether a volume is mounted there. */
  isMount(path: string): boolean;
}

/** Files that a program which has ended neither writes nor hears of any more: what it waited for never comes. */
export function mortalFiles(files: FilesInMemory, life: Life): FilesInMemory {
  const alive = <T>(act: () => Promise<T>): Promise<T> =>
    new Promise((resolve, reject) => {
      if (life.over) return;
      act().then(
        (value) => void (life.over || resolve(value)),
        (thrown: unknown) => void (life.over || reject(thrown)),
      );
    });
  return {
    diskPath: (path) => files.diskPath(path),
    isMount: (path) => files.isMount(path),
    read: (path, most) => alive(() => files.read(path, most)),
    write: (path, content, mode) => alive(() => files.write(path, content, mode)),
    list: (path) => alive(() => files.list(path)),
    remove: (path) => alive(() => files.remove(path)),
    watch(path, changed) {
      const stop = files.watch(path, () => void (life.over || changed()));
      const forget = life.onEnd(stop);
      return () => {
        forget();
        stop();
      };
    },
  };
}

/** WebSockets that break when `life` ends. */
export function mortalTransport(transport: Transport, life: Life): Transport {
  return {
    dial(url, handlers) {
      const socket = transport.dial(url, {
        opened: () => void (life.over || handlers.opened()),
        message: (text) => void (life.over || handlers.message(text)),
        closed(code, reason) {
          forget();
          if (!life.over) handlers.closed(code, reason);
        },
      });
      const forget = life.onEnd(() => socket.terminate());
      return socket;
    },
  };
}

/** HTTP requests that are cut when `life` ends. */
export function mortalHttp(http: Http, life: Life): Http {
  return {
    request(request, handlers): HttpExchange {
      const exchange = http.request(request, {
        head: (head) => void (life.over || handlers.head(head)),
        data: (bytes) => void (life.over || handlers.data(bytes)),
        end() {
          forget();
          if (!life.over) handlers.end();
        },
        failed(error) {
          forget();
          if (!life.over) handlers.failed(error);
        },
      });
      const forget = life.onEnd(() => exchange.abort());
      return {
        abort() {
          forget();
          exchange.abort();
        },
        pause: () => exchange.pause(),
        resume: () => exchange.resume(),
      };
    },
  };
}
