// @ts-check
/** Windows, context, the classes to name, abstention and the summary, as `timeline.py` and `pipeline_lung_srad.py`. */

/**
 * @typedef {[number, number]} Span start and end in seconds
 *
 * @typedef {object} Segment the answer for a window
 * @property {number} start in seconds
 * @property {number} end in seconds
 * @property {string} label
 * @property {number} confidence probability of the label
 * @property {boolean} abstained the answer should not be used
 * @property {Record<string, number>} probabilities
 * @property {string[]} flags
 *
 * @typedef {object} Summary
 * @property {string | null} label
 * @property {number} crackle_share
 * @property {number} wheeze_share
 * @property {number} abstained_share
 * @property {{label: string, start: number, end: number, probability: number}[]} strongest
 */

export const CLASS_NAMES = ["normal", "crackle", "wheeze", "both"];
/** @type {Record<string, string[]>} */
const SOUNDS = { crackle: ["crackle", "both"], wheeze: ["wheeze", "both"] };

/**
 * Windows over a recording; the last one ends where the recording ends.
 * @param {number} duration in seconds
 * @param {number} window in seconds
 * @param {number} hop in seconds
 * @param {number} samplingRate in Hz: a remainder under half a sample is rounding
 * @returns {Span[]}
 */
export function slidingWindows(duration, window, hop, samplingRate) {
  if (duration <= window) return [[0, duration]];
  const steps = Math.trunc((duration - window) / hop + 1e-9);
  /** @type {Span[]} */
  const windows = Array.from({ length: steps + 1 }, (_, index) => [index * hop, index * hop + window]);
  if (duration - windows[steps][1] > 0.5 / samplingRate) windows.push([duration - window, duration]);
  return windows;
}

/**
 * Log odds that take the other windows within some seconds into account.
 * @param {number[][]} odds of crackle and of wheeze, `(windows, 2)`
 * @param {Span[]} spans
 * @param {number} weight of the mean of the others, each limited
 * @param {import("./features.js").Constants} constants of `timeline.py`
 */
export function addContext(odds, spans, weight, { CONTEXT_SECONDS, CONTEXT_LIMIT }) {
  const middles = spans.map(([start, end]) => (start + end) / 2);
  const limited = odds.map((row) => row.map((value) => Math.min(Math.max(value, -CONTEXT_LIMIT), CONTEXT_LIMIT)));
  return odds.map((row, index) => {
    const isNear = (/** @type {number} */ middle) =>
      middle >= middles[index] - CONTEXT_SECONDS && middle <= middles[index] + CONTEXT_SECONDS;
    const others = limited.filter((_, other) => other !== index && isNear(middles[other]));
    if (!others.length) return row;
    return row.map(
      (value, sound) => value + (weight * others.reduce((sum, other) => sum + other[sound], 0)) / others.length,
    );
  });
}

/**
 * @param {number[]} logits
 * @returns {number[]} probabilities
 */
export function softmax(logits) {
  const largest = Math.max(...logits);
  const exponentials = logits.map((logit) => Math.exp(logit - largest));
  const total = exponentials.reduce((sum, value) => sum + value, 0);
  return exponentials.map((value) => value / total);
}

/**
 * The class to name: the most probable one, or that of the sounds whose probability reaches their threshold.
 * @param {number[]} probabilities in the order of `CLASS_NAMES`
 * @param {number | null} crackleThreshold
 * @param {number | null} wheezeThreshold
 * @returns {number} index into `CLASS_NAMES`
 */
export function chooseClass(probabilities, crackleThreshold, wheezeThreshold) {
  if (crackleThreshold === null || wheezeThreshold === null) return probabilities.indexOf(Math.max(...probabilities));
  const [, crackle, wheeze, both] = probabilities;
  return Number(crackle + both >= crackleThreshold) + 2 * Number(wheeze + both >= wheezeThreshold);
}

/**
 * @param {Span} span
 * @param {number[]} probabilities in the order of `CLASS_NAMES`
 * @param {number} best index of the class to name
 * @param {import("./quality.js").QualityFlag[]} quality
 * @param {import("./features.js").Constants} constants of `pipeline_lung_srad.py`
 * @returns {Segment}
 */
export function makeSegment([start, end], probabilities, best, quality, { DEFAULT_MIN_CONFIDENCE, SILENT_SHARE }) {
  const overlap = (/** @type {import("./quality.js").QualityFlag} */ flag) =>
    flag.spans.reduce((sum, [first, last]) => sum + Math.max(0, Math.min(end, last) - Math.max(start, first)), 0);
  const silence = quality.find(({ flag }) => flag === "silence");
  const silentShare = silence ? overlap(silence) / (end - start) : 0;
  return {
    start,
    end,
    label: CLASS_NAMES[best],
    confidence: probabilities[best],
    abstained: probabilities[best] < DEFAULT_MIN_CONFIDENCE || silentShare >= SILENT_SHARE,
    probabilities: Object.fromEntries(CLASS_NAMES.map((name, index) => [name, probabilities[index]])),
    flags: quality.filter((flag) => !flag.spans.length || overlap(flag) > 0).map(({ flag }) => flag),
  };
}

/**
 * Class probabilities as a step function of time: `times` of the steps and, between each two, the mean of the segments
 * there, zeros where there is none.
 * @param {Segment[]} segments
 */
export function meanProbabilities(segments) {
  const edges = segments.flatMap(({ start, end }) => [start, end]);
  const times = [...new Set(edges)].sort((first, second) => first - second);
  const probabilities = times.slice(1).map((end, index) => {
    const covering = segments.filter((segment) => segment.start <= times[index] && segment.end >= end);
    return CLASS_NAMES.map(
      (name) => covering.reduce((sum, segment) => sum + segment.probabilities[name], 0) / Math.max(covering.length, 1),
    );
  });
  return { times, probabilities };
}

/**
 * @param {Segment[]} timeline
 * @param {import("./features.js").Constants} constants of `timeline.py`
 * @returns {Summary}
 */
export function summarize(timeline, { PRESENT_FROM, NUM_STRONGEST }) {
  const answered = timeline.filter((segment) => !segment.abstained);
  const [covered, answeredSeconds] = [coveredSeconds(timeline), coveredSeconds(answered)];
  const { times, probabilities } = meanProbabilities(answered);
  const shares = Object.keys(SOUNDS).map((sound) => {
    const seconds = probabilities.map((row, index) =>
      soundProbability(Object.fromEntries(CLASS_NAMES.map((name, place) => [name, row[place]])), sound) >= PRESENT_FROM
        ? times[index + 1] - times[index]
        : 0,
    );
    return seconds.reduce((sum, value) => sum + value, 0) / covered;
  });
  const label = CLASS_NAMES[Number(shares[0] > 0) + 2 * Number(shares[1] > 0)];
  const found = answered.flatMap(({ start, end, probabilities: of }) =>
    Object.keys(SOUNDS).map((sound) => ({ label: sound, start, end, probability: soundProbability(of, sound) })),
  );
  return {
    label: answered.length ? label : null,
    crackle_share: shares[0],
    wheeze_share: shares[1],
    abstained_share: 1 - answeredSeconds / covered,
    strongest: found
      .filter(({ probability }) => probability >= PRESENT_FROM)
      .sort((first, second) => second.probability - first.probability)
      .slice(0, NUM_STRONGEST),
  };
}

/**
 * Says why no segment of a timeline can be relied on; null where one can.
 * @param {Segment[]} timeline
 * @param {import("./features.js").Constants} constants of `timeline.py`
 */
export function whyNoAnswer(timeline, { UNFAMILIAR }) {
  if (timeline.some(({ abstained, flags }) => !abstained && !flags.includes(UNFAMILIAR))) return null;
  if (timeline.every(({ flags }) => flags.includes(UNFAMILIAR))) {
    return "it is unlike the lung sounds that the model was trained on";
  }
  if (timeline.every(({ flags }) => flags.includes("silence"))) return "there is no sound to judge";
  if (timeline.some(({ flags }) => flags.includes(UNFAMILIAR))) {
    return "each part is unlike the lung sounds of training, or the model is not sure enough of it";
  }
  return "the model is not sure enough of any part";
}

/**
 * Probability of a sound, alone or with the other.
 * @param {Record<string, number>} probabilities
 * @param {string} sound "crackle" or "wheeze"
 */
function soundProbability(probabilities, sound) {
  return SOUNDS[sound].reduce((sum, name) => sum + probabilities[name], 0);
}

/**
 * Seconds that lie in at least one segment.
 * @param {Segment[]} segments in the order of their starts
 */
function coveredSeconds(segments) {
  let [total, reached] = [0, -Infinity];
  for (const { start, end } of segments) {
    total += Math.max(0, end - Math.max(start, reached));
    reached = Math.max(reached, end);
  }
  return total;
}
