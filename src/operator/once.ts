/**
 * Works something out once for each object that it is about: one look at a pool is asked the same many times over. Only for
 * pure functions of objects that nobody changes, as what is observed is.
 */
export function once<In extends object, Out>(work: (input: In) => Out): (input: In) => Out {
  const known = new WeakMap<In, { readonly value: Out }>();
  return (input) => {
    const before = known.get(input);
    if (before) return before.value;
    const value = work(input);
    known.set(input, { value });
    return value;
  };
}
