// @ts-check
/** Classifies whole recordings: any length and rate in, a timeline with summary and flags out, as the Python pipeline. */

import { InputError } from "./errors.js";
import { distance, unfamiliarFlags } from "./familiarity.js";
import { FeatureExtractor } from "./features.js";
import { assessRecording } from "./quality.js";
import { resample } from "./resample.js";
import { addContext, chooseClass, makeSegment, slidingWindows, softmax, summarize } from "./timeline.js";

// Enough that the network is no slower than with all windows at once, few enough for the progress to move.
const WINDOWS_AT_ONCE = 4;

/**
 * @typedef {object} Config settings of `config.json`, and of the pipeline
 * @property {number[]} columns place of each class among the logits
 * @property {number | null} temperature
 * @property {number | null} context_weight
 * @property {number | null} crackle_threshold
 * @property {number | null} wheeze_threshold
 * @property {number} window in seconds
 * @property {number} hop in seconds
 *
 * @typedef {object} Settings what Python writes for this page
 * @property {Config} config
 * @property {import("./features.js").Preprocessor} preprocessor
 * @property {import("./familiarity.js").FamiliaritySettings | null} familiarity
 * @property {Record<string, import("./features.js").Constants>} constants by module
 *
 * @typedef {object} Recording
 * @property {string} file its name
 * @property {Float32Array<ArrayBuffer>} waveform at the model's rate, `(samples,)`
 * @property {import("./channels.js").SourceAudio} source
 *
 * @typedef {object} RecordingResult
 * @property {string} file
 * @property {number} duration in seconds
 * @property {number} sampling_rate of the source, in Hz
 * @property {boolean} calibrated
 * @property {boolean} cycles_given
 * @property {import("./timeline.js").Summary} summary
 * @property {import("./quality.js").QualityFlag[]} quality
 * @property {import("./timeline.js").Segment[]} timeline
 *
 * @callback Network
 * @param {Float32Array} inputValues `(batch, num_frames, num_mel_bins)`
 * @param {number} batch
 * @returns {Promise<Float32Array>} logits `(batch, 4)`
 */

export class LungSoundPipeline {
  /**
   * @param {Settings} settings
   * @param {Network} network
   */
  constructor(settings, network) {
    this.settings = settings;
    this.network = network;
    this.features = new FeatureExtractor(settings.preprocessor, settings.constants.features);
  }

  /**
   * @param {import("./channels.js").SourceAudio} source
   * @param {string} file its name
   * @returns {Recording}
   */
  load(source, file) {
    const { preprocessor, constants } = this.settings;
    const waveform = resample(source.waveform, source.samplingRate, preprocessor.sampling_rate, constants.audio);
    return { file, waveform, source };
  }

  /**
   * @param {Recording} recording
   * @param {(done: number, all: number) => void} onProgress is told the windows that are done
   * @returns {Promise<RecordingResult>}
   */
  async classify({ file, waveform, source }, onProgress) {
    const { config, constants } = this.settings;
    const rate = this.settings.preprocessor.sampling_rate;
    const duration = waveform.length / rate;
    const spans = slidingWindows(duration, config.window, config.hop, rate);
    const quality = [
      ...source.flags,
      ...assessRecording(source.waveform, source.samplingRate, constants.quality),
    ];
    const { logits, distances } = await this.runWindows(fade(waveform, rate, constants.recording), spans, onProgress);
    if (this.settings.familiarity) {
      quality.push(...unfamiliarFlags(distances, spans, this.settings.familiarity, constants.familiarity));
    }
    const timeline = this.calibrate(logits, spans).map((probabilities, index) => {
      const best = chooseClass(probabilities, config.crackle_threshold, config.wheeze_threshold);
      return makeSegment(spans[index], probabilities, best, quality, constants.pipeline);
    });
    return {
      file,
      duration,
      sampling_rate: source.samplingRate,
      calibrated: config.temperature !== null,
      cycles_given: false,
      summary: summarize(timeline, constants.timeline),
      quality,
      timeline,
    };
  }

  /**
   * @private
   * @param {Float32Array} waveform faded
   * @param {import("./timeline.js").Span[]} spans
   * @param {(done: number, all: number) => void} onProgress
   */
  async runWindows(waveform, spans, onProgress) {
    const { config, familiarity, constants, preprocessor } = this.settings;
    const rate = preprocessor.sampling_rate;
    /** @type {number[][]} */
    const logits = [];
    /** @type {number[]} */
    const distances = [];
    for (let first = 0; first < spans.length; first += WINDOWS_AT_ONCE) {
      const batch = spans.slice(first, first + WINDOWS_AT_ONCE);
      const inputs = batch.map(([start, end]) => {
        const cycle = waveform.subarray(Math.trunc(start * rate), Math.trunc(end * rate));
        const logMel = this.features.logMel(cycle);
        if (familiarity) distances.push(distance(logMel, familiarity, constants.familiarity));
        return this.features.inputValues(logMel);
      });
      const joined = new Float32Array(inputs.length * inputs[0].length);
      inputs.forEach((values, index) => joined.set(values, index * values.length));
      const output = await this.network(joined, batch.length);
      if (output.some((logit) => !Number.isFinite(logit))) {
        throw new InputError("cannot be classified: the model gives NaN or infinite logits", "train it again");
      }
      const width = output.length / batch.length;
      batch.forEach((_, index) => logits.push(config.columns.map((column) => output[index * width + column])));
      onProgress(first + batch.length, spans.length);
    }
    return { logits, distances };
  }

  /**
   * Probabilities of the classes, in their order, with context and temperature.
   * @private
   * @param {number[][]} logits `(windows, 4)`
   * @param {import("./timeline.js").Span[]} spans
   */
  calibrate(logits, spans) {
    const { config, constants } = this.settings;
    let composed = logits;
    if (config.context_weight) {
      const odds = logits.map(([normal, crackle, wheeze]) => [crackle - normal, wheeze - normal]);
      composed = addContext(odds, spans, config.context_weight, constants.timeline).map(([crackle, wheeze]) => [
        0,
        crackle,
        wheeze,
        crackle + wheeze,
      ]);
    }
    return composed.map((row) => softmax(row.map((logit) => logit / (config.temperature ?? 1))));
  }
}

/**
 * A copy of a recording, faded in and out linearly.
 * @param {Float32Array} waveform
 * @param {number} rate in Hz
 * @param {import("./features.js").Constants} constants of `recording.py`
 */
function fade(waveform, rate, { FADE_SECONDS }) {
  const faded = waveform.slice();
  const length = Math.min(Math.trunc(rate * FADE_SECONDS), faded.length);
  for (let index = 0; index < length; index++) {
    const gain = length === 1 ? 0 : index / (length - 1);
    faded[index] *= gain;
    faded[faded.length - 1 - index] *= gain;
  }
  return faded;
}
