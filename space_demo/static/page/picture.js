// @ts-check
/** The spectrogram that is drawn, as `files/plots.py` has it: 128 mel bins, up to some thousand columns. */

import { FilterBank } from "./features.js";
import { quantile } from "./numbers.js";

const [DARKEST_QUANTILE, BRIGHTEST_QUANTILE] = [0.05, 0.998];

/**
 * @typedef {object} Picture
 * @property {number} columns
 * @property {number} bins
 * @property {Uint8Array} levels 0 to 255, `(columns, bins)`
 * @property {Float32Array<ArrayBuffer>} waveform at the model's rate, to be played
 * @property {number} samplingRate of the waveform, in Hz
 */

/**
 * @param {Float32Array<ArrayBuffer>} waveform `(samples,)`
 * @param {number} samplingRate in Hz
 * @param {Record<string, import("./features.js").Constants>} constants by module
 * @returns {Picture}
 */
export function drawPicture(waveform, samplingRate, { features, plots }) {
  const filterBank = new FilterBank(
    {
      samplingRate,
      bins: plots.NUM_MEL_BINS,
      frequencies: [features.LOWEST_FREQUENCY, samplingRate / 2],
      frameSeconds: features.FRAME_SECONDS,
      fftLength: null,
    },
    features,
  );
  const { frames, bins, values } = filterBank.apply(waveform);
  // Where there are more frames, each column is the largest of several, so that short sounds stay visible.
  const framesPerColumn = Math.max(1, Math.ceil(frames / plots.MAX_COLUMNS));
  const columns = Math.ceil(frames / framesPerColumn);
  const largest = new Float32Array(columns * bins).fill(-Infinity);
  for (let frame = 0; frame < frames; frame++) {
    const to = Math.floor(frame / framesPerColumn) * bins;
    for (let bin = 0; bin < bins; bin++) {
      largest[to + bin] = Math.max(largest[to + bin], values[frame * bins + bin]);
    }
  }
  const [low, high] = colourRange(largest);
  const levels = Uint8Array.from(largest, (value) =>
    Math.min(255, Math.max(0, (256 * (value - low)) / (high - low))),
  );
  return { columns, bins, levels, waveform, samplingRate };
}

/** @param {Float32Array} values */
function colourRange(values) {
  const sorted = values.slice().sort();
  // Stretches of digital silence would take up the whole range.
  const audible = sorted.subarray(sorted.findIndex((value) => value > sorted[0]));
  const low = quantile(audible, DARKEST_QUANTILE);
  return [low, Math.max(quantile(audible, BRIGHTEST_QUANTILE), low + Math.LN10 / 10)];
}
