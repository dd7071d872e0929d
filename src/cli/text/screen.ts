/** How a piece of text is meant. */
export type Tone = "heading" | "well" | "unwell" | "unsure";

/** Where text goes. */
export interface Screen {
  /** Width; undefined where it is no screen, so that nothing is cut. */
  readonly columns: number | undefined;
  paint(text: string, tone: Tone): string;
}

/** A file, a pipe: nothing is coloured and nothing is cut. */
export const plainScreen: Screen = { columns: undefined, paint: (text) => text };

/** Codes of ECMA-48, "select graphic rendition". */
const codes: Readonly<Record<Tone, number>> = { heading: 1, well: 32, unwell: 31, unsure: 33 };

/** A terminal of `columns` characters. */
export function terminal(columns: number, options: { readonly colours: boolean }): Screen {
  return {
    columns,
    paint: (text, tone) => (options.colours ? `\u001B[${codes[tone]}m${text}\u001B[0m` : text),
  };
}
