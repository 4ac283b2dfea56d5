// @ts-check
/** Rounding and quantiles as Python and NumPy define them, so that both programs print the same figures. */

/**
 * The nearest whole number, of two the even one.
 * @param {number} value
 */
export function round(value) {
  const below = Math.floor(value);
  if (value - below !== 0.5) return Math.round(value);
  return below % 2 === 0 ? below : below + 1;
}

/**
 * A number with `digits` digits after the point, of two nearest the even one.
 * @param {number} value
 * @param {number} digits
 */
export function fixed(value, digits) {
  const scaled = value * 10 ** digits;
  const isTie = scaled - Math.floor(scaled) === 0.5;
  return (isTie ? round(scaled) / 10 ** digits : value).toFixed(digits);
}

/**
 * A share from 0 to 1 in whole percent.
 * @param {number} share
 */
export function percent(share) {
  return `${fixed(100 * share, 0)}%`;
}

/**
 * A number with at most `digits` significant digits, without zeros at its end.
 * @param {number} value
 * @param {number} digits
 */
export function significant(value, digits) {
  return String(Number(value.toPrecision(digits)));
}

/**
 * The quantile of sorted values, interpolated linearly.
 * @param {ArrayLike<number>} sorted at least one
 * @param {number} share 0 to 1
 */
export function quantile(sorted, share) {
  const place = share * (sorted.length - 1);
  const below = Math.floor(place);
  const above = Math.min(below + 1, sorted.length - 1);
  return sorted[below] + (sorted[above] - sorted[below]) * (place - below);
}
