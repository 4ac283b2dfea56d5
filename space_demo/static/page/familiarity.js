// @ts-check
/** How far a sound is from those that the model was trained on, as `familiarity.py`. */

/**
 * @typedef {object} FamiliaritySettings
 * @property {number[]} mean `(statistics,)`
 * @property {number[][]} whitening `(statistics, statistics)`
 * @property {number} threshold distance beyond which a sound is unfamiliar
 */

/**
 * Mahalanobis distance from the training cycles.
 * @param {import("./features.js").Spectrogram} logMel
 * @param {FamiliaritySettings} settings
 * @param {import("./features.js").Constants} constants of `familiarity.py`
 * @returns {number}
 */
export function distance(logMel, { mean, whitening }, constants) {
  const differences = statistics(logMel, constants).map((value, index) => value - mean[index]);
  return Math.hypot(
    ...mean.map((_, column) => differences.reduce((sum, value, row) => sum + value * whitening[row][column], 0)),
  );
}

/**
 * Mean and standard deviation over time of bands of neighbouring mel bins, after normalisation by clip.
 * @param {import("./features.js").Spectrogram} logMel
 * @param {import("./features.js").Constants} constants
 * @returns {number[]} means of the bands, then deviations
 */
function statistics({ frames, bins, values }, { BINS_PER_BAND, SMALLEST_SPREAD }) {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  const spread = Math.max(Math.sqrt(squares / (values.length - 1)), SMALLEST_SPREAD);
  /** @type {number[]} */
  const means = [];
  /** @type {number[]} */
  const deviations = [];
  for (let first = 0; first + BINS_PER_BAND <= bins; first += BINS_PER_BAND) {
    const band = Float64Array.from({ length: frames }, (_, frame) => {
      let sum = 0;
      for (let bin = first; bin < first + BINS_PER_BAND; bin++) sum += values[frame * bins + bin];
      return (sum / BINS_PER_BAND - mean) / spread;
    });
    const bandMean = band.reduce((sum, value) => sum + value, 0) / frames;
    means.push(bandMean);
    deviations.push(Math.sqrt(band.reduce((sum, value) => sum + (value - bandMean) ** 2, 0) / (frames - 1)));
  }
  return [...means, ...deviations];
}

/**
 * The quality flag of a recording, if too many of its windows are unfamiliar.
 * @param {number[]} distances `(windows,)`
 * @param {import("./timeline.js").Span[]} spans of the windows
 * @param {FamiliaritySettings} settings
 * @param {import("./features.js").Constants} constants of `familiarity.py`
 * @returns {import("./quality.js").QualityFlag[]} one or none
 */
export function unfamiliarFlags(distances, spans, { threshold }, { UNFAMILIAR_SHARE }) {
  const beyond = spans.filter((_, index) => distances[index] > threshold);
  const share = beyond.length / spans.length;
  if (share <= UNFAMILIAR_SHARE) return [];
  const message =
    `${beyond.length} of ${spans.length} windows are unlike the lung sounds that the model was trained on, so ` +
    "the answer may mean nothing; check that the sensor lay on the chest, or use another model.";
  return [{ flag: "unfamiliar", message, value: share, spans: beyond }];
}
