// @ts-check
/** The answer in words, those of the page with a server (`space_demo/analysis.py`). */

import { fixed, percent, significant } from "./numbers.js";
import { whyNoAnswer } from "./timeline.js";

/**
 * @typedef {import("./pipeline.js").RecordingResult} RecordingResult
 * @typedef {Record<string, import("./features.js").Constants>} ConstantsByModule
 */

/**
 * @param {RecordingResult} result
 * @param {ConstantsByModule} constants
 * @returns {string}
 */
export function headline(result, { analysis, timeline }) {
  const reason = whyNoAnswer(result.timeline, timeline);
  return reason === null ? analysis.HEADLINES[result.summary.label ?? "normal"] : `No answer: ${reason}`;
}

/**
 * @param {RecordingResult} result
 * @param {ConstantsByModule} constants
 * @returns {string[]}
 */
export function summarySentences(result, { timeline }) {
  const { summary } = result;
  const rate = significant(result.sampling_rate / 1000, 6);
  const sentences = [`Recording of ${fixed(result.duration, 1)} s at ${rate} kHz.`];
  if (whyNoAnswer(result.timeline, timeline) !== null) return sentences;
  sentences.push(
    `Where the model is sure enough, crackles are more likely than not in ${percent(summary.crackle_share)} of the ` +
      `recording, wheezes in ${percent(summary.wheeze_share)}.`,
  );
  if (summary.abstained_share > 0) {
    sentences.push(`It is unsure in ${percent(summary.abstained_share)}, for lack of confidence or of sound.`);
  }
  if (summary.strongest.length) {
    const [{ label, start, end }] = summary.strongest;
    sentences.push(`The strongest part is a ${label} from ${fixed(start, 1)} to ${fixed(end, 1)} s.`);
  }
  if (!result.calibrated) sentences.push("The probabilities of this model are not calibrated.");
  return sentences;
}

/**
 * A description of the plot for those who do not see it.
 * @param {RecordingResult} result
 */
export function plotText(result) {
  const classes = [...new Set(result.timeline.map(({ label }) => label))].join(", ");
  return (
    `Mel spectrogram of the ${fixed(result.duration, 1)} s, up to 8 kHz. Below it, over the same time: the most ` +
    `probable class (${classes}), quality flags, and the probabilities of the four classes as a ribbon. ` +
    "The table of windows has the same figures."
  );
}

/** @param {string} flag such as "low_level" */
export function flagName(flag) {
  const words = flag.replaceAll("_", " ");
  return words[0].toUpperCase() + words.slice(1);
}

/**
 * Stretches of a flag, joined where they touch; empty where the whole recording is meant.
 * @param {import("./timeline.js").Span[]} spans
 * @param {number} most that are written out
 */
export function spansText(spans, most) {
  if (!spans.length) return "";
  /** @type {import("./timeline.js").Span[]} */
  const joined = [];
  for (const [start, end] of [...spans].sort((first, second) => first[0] - second[0])) {
    const last = joined.at(-1);
    if (last && start <= last[1]) last[1] = Math.max(last[1], end);
    else joined.push([start, end]);
  }
  const shown = joined.slice(0, most).map(([start, end]) => `${fixed(start, 1)}–${fixed(end, 1)} s`);
  return ` (${shown.join(", ")}${joined.length > most ? ", …" : ""})`;
}

/**
 * A file name as it is shown and put into tables: of printable signs, short, and no formula for a spreadsheet.
 * @param {string} name
 * @param {import("./features.js").Constants} constants of `recordings.py`
 */
export function shownName(name, { LONGEST_NAME, FORMULA_SIGNS }) {
  let signs = [...name].filter((sign) => sign === " " || !/[\p{C}\p{Z}]/u.test(sign));
  const first = signs.findIndex((sign) => !FORMULA_SIGNS.includes(sign));
  signs = first < 0 ? [] : signs.slice(first);
  const half = LONGEST_NAME / 2;
  if (signs.length > LONGEST_NAME) signs = [...signs.slice(0, half), "…", ...signs.slice(-half)];
  return signs.join("") || "recording";
}
