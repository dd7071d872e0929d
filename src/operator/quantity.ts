const unitScale: Readonly<Record<string, number>> = {
  n: 1e-9,
  u: 1e-6,
  m: 1e-3,
  k: 1e3,
  M: 1e6,
  G: 1e9,
  T: 1e12,
  P: 1e15,
  E: 1e18,
  Ki: 2 ** 10,
  Mi: 2 ** 20,
  Gi: 2 ** 30,
  Ti: 2 ** 40,
  Pi: 2 ** 50,
  Ei: 2 ** 60,
};

/** A Kubernetes quantity as a number of its unit (cores, bytes). Its form the CRD has checked. */
export function amountOf(quantity: string | number): number {
  const [, amount = "", unit = ""] = /^([0-9.]+)(.*)$/.exec(String(quantity)) ?? [];
  const scale = unit === "" ? 1 : (unitScale[unit] ?? 10 ** Number(unit.slice(1)));
  return Number(amount) * scale;
}

/** Whole bytes of a Kubernetes quantity. */
export function bytesOf(quantity: string | number): number {
  return Math.min(Number.MAX_SAFE_INTEGER, Math.floor(amountOf(quantity)));
}
