import fc from "fast-check";
import { type Manifest, rightCases, someDigest, someImage, wrongCases } from "./cases.ts";

/**
 * Objects of the three kinds that are right or nearly so: those of the cases with an edit or two at random places. A field gets
 * what a field of its name has elsewhere, or anything; it goes, or one that belongs elsewhere comes.
 */
export function randomManifest(): fc.Arbitrary<Manifest> {
  const edit = fc.record({
    how: fc.constantFrom("swap", "swap", "replace", "remove", "add"),
    at: fc.nat(),
    pick: fc.nat(),
    value: randomValue(),
  });
  return fc
    .record({
      base: fc.constantFrom(...rightCases.map(({ object }) => object)),
      edits: fc.array(edit, { minLength: 1, maxLength: 2 }),
    })
    .map(({ base, edits }) => {
      const object = structuredClone(base);
      for (const { how, at, pick, value } of edits) {
        const places = placesIn(object.spec);
        const place = places[at % places.length];
        if (!place) continue;
        const { within, name } = place;
        const [known, stranger] = [valuesOf.get(String(name)) ?? [], strangers[pick % strangers.length]];
        if (how === "remove") remove(place);
        else if (how === "swap" && known.length > 0)
          Reflect.set(within, name, structuredClone(known[pick % known.length]));
        else if (how === "add" && stranger && !Array.isArray(within))
          Reflect.set(within, stranger.name, structuredClone(Reflect.get(stranger.within, stranger.name)));
        else Reflect.set(within, name, value);
      }
      return object;
    });
}

interface Place {
  readonly within: object;
  readonly name: string | number;
}

/** Every place in an object where a value stands. */
function placesIn(value: unknown): Place[] {
  if (typeof value !== "object" || value === null) return [];
  const names = Array.isArray(value) ? [...value.keys()] : Object.keys(value);
  return names.flatMap((name) => [{ within: value, name }, ...placesIn(Reflect.get(value, name))]);
}

function remove({ within, name }: Place): void {
  if (Array.isArray(within)) within.splice(Number(name), 1);
  else Reflect.deleteProperty(within, name);
}

/** Every field of every case, right or wrong; and what fields of a name have. */
const strangers = [...rightCases, ...wrongCases]
  .flatMap(({ object }) => placesIn(object.spec))
  .filter(({ within }) => !Array.isArray(within));
const valuesOf = new Map<string, unknown[]>();
for (const { within, name } of strangers)
  valuesOf.set(String(name), [...(valuesOf.get(String(name)) ?? []), Reflect.get(within, name)]);

const lengths = [0, 1, 57, 58, 59, 63, 64, 71, 253, 254, 317, 318, 512, 1024, 1025, 4097];
const words =
  "A a.b -a a- 1 0 50% 101% a/b a//b /a /a/../b /proc / ../a 500m 16Gi 1.5Gi -1 1e3 http://a ftp://a https://u@a vllm Testnet RESULTITY_X resultity-x resultity.com/x Exists NoExecute Delete";

/** No `null`: the API server drops it where a field has a default, which no schema says. */
function randomValue(): fc.Arbitrary<unknown> {
  const numbers = fc.constantFrom(-1, 0, 1, 1.5, 2, 16, 17, 63, 100, 3600, 3601, 10_000, 10_001, 1e12, -0.5);
  const texts = fc.constantFrom(
    ...lengths.map((length) => "a".repeat(length)),
    ...words.split(" "),
    "a b",
    "25 %",
    "0 2 * * 6",
    "a\n",
    "ä",
    "\u0000",
    someDigest,
    someDigest.toUpperCase(),
    someImage,
    someImage.replace(/@.*/, ""),
  );
  const plain = fc.oneof(
    numbers,
    fc.integer({ min: -10, max: 20_000 }),
    texts,
    fc.string({ unit: "grapheme-ascii", maxLength: 12 }),
    fc.boolean(),
  );
  const held = fc.oneof(fc.uniqueArray(plain, { maxLength: 3 }), fc.dictionary(texts, plain, { maxKeys: 2 }));
  return fc.oneof({ weight: 5, arbitrary: plain }, { weight: 1, arbitrary: held });
}
