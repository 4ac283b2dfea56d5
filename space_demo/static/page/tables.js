// @ts-check
/** Results as CSV and JSON, as `files/result_formats.py` writes them. */

import { fixed } from "./numbers.js";

/**
 * @typedef {import("./pipeline.js").RecordingResult} RecordingResult
 * @typedef {import("./features.js").Constants} Constants
 */

/**
 * One row a window.
 * @param {RecordingResult[]} results
 * @param {Constants} constants of `result_formats.py`
 */
export function csvText(results, { COLUMNS, FLAG_SEPARATOR, PROBABILITY_DIGITS, SECONDS_DIGITS }) {
  const lines = [COLUMNS.join(",")];
  for (const { file, timeline } of results) {
    for (const segment of timeline) {
      /** @type {Record<string, string>} */
      const row = { file, label: segment.label, abstained: String(segment.abstained) };
      row.start = fixed(segment.start, SECONDS_DIGITS);
      row.end = fixed(segment.end, SECONDS_DIGITS);
      for (const [name, value] of Object.entries(segment.probabilities)) row[name] = fixed(value, PROBABILITY_DIGITS);
      row.flags = segment.flags.join(FLAG_SEPARATOR);
      lines.push(COLUMNS.map((/** @type {string} */ column) => quoted(row[column])).join(","));
    }
  }
  return `${lines.join("\n")}\n`;
}

/** @param {string} cell */
function quoted(cell) {
  return /[",\r\n]/.test(cell) ? `"${cell.replaceAll('"', '""')}"` : cell;
}

/**
 * A list with one object a recording.
 * @param {RecordingResult[]} results
 * @param {Constants} constants of `result_formats.py`
 */
export function jsonText(results, { SECONDS_DIGITS }) {
  const rounded = (/** @type {string} */ _, /** @type {any} */ value) =>
    typeof value === "number" ? Number(fixed(value, SECONDS_DIGITS)) : value;
  return `${JSON.stringify(results, rounded, 1)}\n`;
}
