// @ts-check
/** Flags recordings that cannot carry the answer of the model, as `quality.py`, measured at their own rate. */

import { Fourier } from "./fourier.js";
import { fixed, quantile, round, significant } from "./numbers.js";

/**
 * @typedef {object} QualityFlag
 * @property {string} flag
 * @property {string} message what is wrong and what to do
 * @property {number} value what was measured
 * @property {import("./timeline.js").Span[]} spans in seconds; none where the whole recording is meant
 *
 * @typedef {import("./features.js").Constants} Constants
 */

/**
 * @param {Float32Array} waveform mono, full scale at -1 and 1, `(samples,)`
 * @param {number} samplingRate in Hz
 * @param {Constants} constants of `quality.py`
 * @returns {QualityFlag[]} in the order of `quality.py`
 */
export function assessRecording(waveform, samplingRate, constants) {
  const measured = measure(waveform, samplingRate, constants);
  const lowLevel = lowLevelFlags(measured, constants);
  // The end of the spectrum of a faint recording is where rounding begins, whatever was recorded.
  const nyquist = samplingRate / 2;
  const width = lowLevel.length ? nyquist : Math.min(bandwidth(measured, constants), nyquist);
  return [
    ...tooShortFlags(waveform.length / samplingRate, constants),
    ...silenceFlags(measured, constants),
    ...clippingFlags(measured, constants),
    ...lowLevel,
    ...narrowBandwidthFlags(width, samplingRate, constants),
  ];
}

/**
 * @typedef {object} Measures of frames of 50 ms
 * @property {number} samplingRate in Hz
 * @property {number} samples
 * @property {number} frameSamples
 * @property {number} range of the whole recording
 * @property {boolean[]} silent frames, `(frames,)`
 * @property {Float32Array} powers `(frames,)`
 * @property {Float32Array[]} bands mean power of bands, `(bands, frames)`
 * @property {number[]} clipped samples, of whole frames and of what is left
 */

/**
 * @param {Float32Array} waveform
 * @param {number} samplingRate in Hz
 * @param {Constants} constants
 * @returns {Measures}
 */
function measure(waveform, samplingRate, constants) {
  const frameSamples = Math.max(2, round(constants.LEVEL_SECONDS * samplingRate));
  const frames = Math.floor(waveform.length / frameSamples);
  const [ranges, powers] = [new Float32Array(frames), new Float32Array(frames)];
  const spectrum = new BandPowers(frameSamples, samplingRate, frames, constants);
  for (let frame = 0; frame < frames; frame++) {
    const samples = waveform.subarray(frame * frameSamples, (frame + 1) * frameSamples);
    let [lowest, highest, sum] = [Infinity, -Infinity, 0];
    for (const sample of samples) {
      lowest = Math.min(lowest, sample);
      highest = Math.max(highest, sample);
      sum += sample;
    }
    ranges[frame] = highest - lowest;
    const mean = sum / frameSamples;
    powers[frame] = samples.reduce((total, sample) => total + (sample - mean) ** 2, 0) / frameSamples;
    spectrum.add(samples, mean);
  }
  spectrum.finish();
  const lowest = waveform.reduce((low, sample) => Math.min(low, sample), Infinity);
  const highest = waveform.reduce((high, sample) => Math.max(high, sample), -Infinity);
  const range = highest - lowest;
  const { SILENCE_RANGE, SILENCE_RELATIVE_RANGE } = constants;
  // Recordings of finer formats may be so faint that this is all of their sound.
  const limit = range <= SILENCE_RANGE ? SILENCE_RANGE : Math.min(SILENCE_RANGE, SILENCE_RELATIVE_RANGE * range);
  return {
    samplingRate,
    samples: waveform.length,
    frameSamples,
    range,
    silent: Array.from(ranges, (value) => value <= Math.fround(limit)),
    powers,
    bands: spectrum.bands,
    clipped: countFlatTops(waveform, frameSamples, constants),
  };
}

/** Mean power of frames in bands of 125 Hz, where white noise has its variance in each band. */
class BandPowers {
  /**
   * @param {number} length samples of a frame
   * @param {number} samplingRate in Hz
   * @param {number} frames
   * @param {Constants} constants
   */
  constructor(length, samplingRate, frames, { CRACKLE_FREQUENCY, BAND_WIDTH, SMALLEST_POWER }) {
    // The squared Hann window, whose side lobes are gone after 100 Hz and not after 500 Hz.
    this.window = Float32Array.from(
      { length },
      (_, index) => (0.5 - 0.5 * Math.cos((2 * Math.PI * index) / (length - 1))) ** 2,
    );
    this.gain = Math.max(
      this.window.reduce((sum, value) => sum + value * value, 0),
      SMALLEST_POWER,
    );
    this.fourier = new Fourier(length);
    const numBands = Math.trunc(Math.min(CRACKLE_FREQUENCY, samplingRate / 2) / BAND_WIDTH);
    const step = 1 / (length * (1 / samplingRate));
    /** First bin of each band, and the end of the last one. */
    this.edges = Array.from({ length: numBands + 1 }, (_, band) => {
      let bin = 0;
      while (bin * step < BAND_WIDTH * band) bin++;
      return Math.min(bin, this.fourier.first.length);
    });
    this.bands = Array.from({ length: numBands }, () => new Float32Array(frames));
    this.added = 0;
  }

  /**
   * @param {Float32Array} samples the next frame
   * @param {number} mean of them
   */
  add(samples, mean) {
    const { fourier, window } = this;
    const into = this.added % 2 ? fourier.imaginary : fourier.real;
    for (let index = 0; index < samples.length; index++) into[index] = (samples[index] - mean) * window[index];
    this.added++;
    if (this.added % 2 === 0) this.transform();
  }

  /** Measures a last frame that has no partner. */
  finish() {
    if (this.added % 2 === 0) return;
    this.fourier.imaginary.fill(0);
    this.added++;
    this.transform();
  }

  /** @private */
  transform() {
    this.fourier.transform();
    for (const [band, values] of this.bands.entries()) {
      const [start, end] = [this.edges[band], this.edges[band + 1]];
      for (const [index, power] of [this.fourier.first, this.fourier.second].entries()) {
        let sum = 0;
        for (let bin = start; bin < end; bin++) sum += power[bin];
        values[this.added - 2 + index] = sum / this.gain / (end - start);
      }
    }
  }
}

/**
 * Counts samples in flat tops, at either end of the scale.
 * @param {Float32Array} waveform
 * @param {number} frameSamples
 * @param {Constants} constants
 * @returns {number[]} of each frame; the last may not be whole
 */
function countFlatTops(waveform, frameSamples, constants) {
  const blockSamples = constants.FRAMES_PER_BLOCK * frameSamples;
  const [tops, bottoms] = [new FlatTops(frameSamples, constants), new FlatTops(frameSamples, constants)];
  for (let start = 0; start < waveform.length; start += blockSamples) {
    const block = waveform.subarray(start, start + blockSamples);
    tops.update(block);
    bottoms.update(block.map((sample) => -sample));
  }
  return tops.counts.map((count, frame) => count + bottoms.counts[frame]);
}

/**
 * Samples in flat tops at the largest value so far: at least three neighbours that lie within a tolerance below it, and
 * from which the waveform falls away faster than a parabola could.
 */
class FlatTops {
  /**
   * @param {number} frameSamples
   * @param {Constants} constants
   */
  constructor(frameSamples, constants) {
    this.frameSamples = frameSamples;
    this.constants = constants;
    this.largest = 0;
    /** @type {number[]} */
    this.counts = [];
  }

  /** @param {Float32Array} block of whole frames, but for the last one */
  update(block) {
    const { FLAT_TOP_TOLERANCE, FLAT_TOP_SAMPLES, STEP } = this.constants;
    const largest = block.reduce((top, sample) => Math.max(top, sample), -Infinity);
    if (largest > this.largest) {
      if (largest * (1 - FLAT_TOP_TOLERANCE) > this.largest + STEP) this.counts.fill(0);
      this.largest = largest;
    }
    const firstFrame = this.counts.length;
    for (let start = 0; start < block.length; start += this.frameSamples) this.counts.push(0);
    if (this.largest <= 0) return;
    const tolerance = Math.max(FLAT_TOP_TOLERANCE * this.largest, STEP);
    const limit = Math.fround(this.largest - tolerance);
    for (let start = 0; start < block.length; start++) {
      if (block[start] < limit) continue;
      let end = start + 1;
      while (end < block.length && block[end] >= limit) end++;
      const length = end - start;
      // Beyond either end of the block the waveform is not known, and taken to go on as it is.
      const lowest = Math.min(block[Math.max(start - 1, 0)], block[Math.min(end, block.length - 1)]);
      const parabola = tolerance * ((length + 1) / Math.max(length - 1, 1)) ** 2 + STEP;
      if (length >= FLAT_TOP_SAMPLES && Math.fround(this.largest - lowest) > parabola) {
        for (let index = start; index < end; index++) this.counts[firstFrame + Math.floor(index / this.frameSamples)]++;
      }
      start = end;
    }
  }
}

/**
 * @param {number} seconds
 * @param {Constants} constants
 * @returns {QualityFlag[]}
 */
function tooShortFlags(seconds, { SHORTEST_SECONDS }) {
  if (seconds >= SHORTEST_SECONDS) return [];
  const message =
    `The recording lasts ${fixed(seconds, 2)} s, less than a breath; record several breaths, 15 s or more at one ` +
    "place.";
  return [{ flag: "too_short", message, value: seconds, spans: [] }];
}

/**
 * @param {Measures} measured
 * @param {Constants} constants
 * @returns {QualityFlag[]}
 */
function silenceFlags(measured, { SILENCE_RANGE, SILENCE_SECONDS }) {
  const seconds = measured.samples / measured.samplingRate;
  if (measured.range <= SILENCE_RANGE) {
    const message = "The recording holds no sound; check the microphone and its gain, and record again.";
    return [{ flag: "silence", message, value: 1, spans: [[0, seconds]] }];
  }
  const spans = findSpans(measured.silent, measured).filter(([start, end]) => end - start >= SILENCE_SECONDS);
  if (!spans.length) return [];
  const silent = spans.reduce((sum, [start, end]) => sum + end - start, 0);
  const message =
    `${fixed(silent, 1)} s of the recording are digital silence, in which nothing can be heard; record without ` +
    "muting, or leave these stretches out.";
  return [{ flag: "silence", message, value: silent / seconds, spans }];
}

/**
 * @param {Measures} measured
 * @param {Constants} constants
 * @returns {QualityFlag[]}
 */
function clippingFlags(measured, { CLIPPING_SHARE }) {
  const share = measured.clipped.reduce((sum, count) => sum + count, 0) / measured.samples;
  if (share < CLIPPING_SHARE) return [];
  const message =
    `${significant(100 * share, 2)} % of the samples are cut off at the largest value that could be recorded, which ` +
    "adds sounds that no lung made; lower the gain and record again.";
  const spans = findSpans(
    measured.clipped.map((count) => count > 0),
    measured,
  );
  return [{ flag: "clipping", message, value: share, spans }];
}

/**
 * @param {Measures} measured
 * @param {Constants} constants
 * @returns {QualityFlag[]}
 */
function lowLevelFlags(measured, { LOUD_FRAMES_QUANTILE, LOW_LEVEL_DECIBELS, SMALLEST_POWER }) {
  const sounding = measured.powers.filter((_, frame) => !measured.silent[frame]).sort();
  if (!sounding.length) return [];
  const level = 10 * Math.log10(quantile(sounding, LOUD_FRAMES_QUANTILE) + SMALLEST_POWER);
  if (level >= LOW_LEVEL_DECIBELS) return [];
  const message =
    `The loudest parts of the recording reach ${fixed(level, 0)} dBFS only, so faint sounds are lost in rounding; ` +
    "raise the gain, or press the sensor closer, and record again.";
  return [{ flag: "low_level", message, value: level, spans: [] }];
}

/**
 * @param {number} width in Hz
 * @param {number} samplingRate in Hz
 * @param {Constants} constants
 * @returns {QualityFlag[]}
 */
function narrowBandwidthFlags(width, samplingRate, { WHEEZE_FREQUENCY, CRACKLE_FREQUENCY }) {
  let message;
  if (width <= WHEEZE_FREQUENCY) {
    message =
      `The recording ends at ${fixed(width, 0)} Hz, so crackles and higher wheezes can be missed; record at ` +
      `${2 * CRACKLE_FREQUENCY} Hz or more, without a filter for heart sounds.`;
  } else if (samplingRate / 2 < CRACKLE_FREQUENCY) {
    message =
      `A sampling rate of ${samplingRate} Hz ends at ${fixed(width, 0)} Hz, so crackles, which reach ` +
      `${CRACKLE_FREQUENCY} Hz, can be missed; record at ${2 * CRACKLE_FREQUENCY} Hz or more.`;
  } else return [];
  return [{ flag: "narrow_bandwidth", message, value: width, spans: [] }];
}

/**
 * Upper end in Hz of the highest band that is not empty; infinite without any sound.
 * @param {Measures} measured
 * @param {Constants} constants
 */
function bandwidth(measured, constants) {
  const levels = measured.bands.map((powers) => {
    const sounding = powers.filter((_, frame) => !measured.silent[frame]).sort();
    if (!sounding.length) return -Infinity;
    return 10 * Math.log10(quantile(sounding, constants.BAND_QUANTILE) + constants.SMALLEST_POWER);
  });
  const limit = Math.max(
    constants.EMPTY_BAND_DECIBELS,
    Math.max(...levels) + constants.EMPTY_BAND_RELATIVE_DECIBELS,
  );
  const highest = levels.findLastIndex((level) => level > limit);
  return highest < 0 || highest === levels.length - 1 ? Infinity : constants.BAND_WIDTH * (highest + 1);
}

/**
 * Start and end in seconds of the stretches of frames that are chosen.
 * @param {boolean[]} chosen `(frames,)`
 * @param {Measures} measured
 * @returns {import("./timeline.js").Span[]}
 */
function findSpans(chosen, { frameSamples, samplingRate, samples }) {
  /** @type {import("./timeline.js").Span[]} */
  const spans = [];
  const secondsPerFrame = frameSamples / samplingRate;
  for (let start = 0; start < chosen.length; start++) {
    if (!chosen[start]) continue;
    let end = start;
    while (end < chosen.length && chosen[end]) end++;
    spans.push([start * secondsPerFrame, Math.min(end * secondsPerFrame, samples / samplingRate)]);
    start = end;
  }
  return spans;
}
