/** Most characters that an engine may send without ending an event. */
export const maxEventChars = 1024 * 1024;

/**
 * Cuts a stream of server-sent events (WHATWG HTML §9.2.6) into whole events: text goes in as it comes, events come out
 * with the blank line that ends them, byte for byte as they were. Lines may end in LF, CRLF or CR.
 */
export class EventCutter {
  #pending = "";
  /** Where in `pending` the search goes on. */
  #at = 0;
  /** Start of the current line in `pending`. */
  #lineStart = 0;
  /** The search has stopped before a CR that what follows may make a CRLF. */
  #halfEnd = false;

  /** What has come since the last whole event. */
  get rest(): string {
    return this.#pending;
  }

  /** Takes text and returns the events that are now whole. */
  push(text: string): string[] {
    this.#pending += text;
    // To look into text that has grown copies it whole: an engine that sends a line in crumbs would have it copied for each.
    if (!this.#halfEnd && !/[\r\n]/.test(text)) return [];
    this.#halfEnd = false;
    const events: string[] = [];
    let begin = 0;
    const { length } = this.#pending;
    while (this.#at < length) {
      const code = this.#pending.charCodeAt(this.#at);
      if (code !== 0x0a && code !== 0x0d) {
        this.#at++;
        continue;
      }
      // A CR at the very end may be half of a CRLF: it waits for what follows.
      if (code === 0x0d && this.#at + 1 === length) {
        this.#halfEnd = true;
        break;
      }
      const end =
        code === 0x0d && this.#pending.charCodeAt(this.#at + 1) === 0x0a ? this.#at + 2 : this.#at + 1;
      if (this.#at === this.#lineStart) {
        events.push(this.#pending.slice(begin, end));
        begin = end;
      }
      this.#at = end;
      this.#lineStart = end;
    }
    if (begin > 0) {
      this.#pending = this.#pending.slice(begin);
      this.#at -= begin;
      this.#lineStart -= begin;
    }
    return events;
  }
}

/** The `data` of one event: its data lines, joined. Empty for a comment. */
export function eventData(event: string): string {
  return event
    .split(/\r\n|\n|\r/)
    .filter((line) => line.startsWith("data:"))
    .map((line) => line.slice(line.startsWith("data: ") ? 6 : 5))
    .join("\n");
}
