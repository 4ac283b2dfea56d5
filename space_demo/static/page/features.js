// @ts-check
/** Waveforms of respiratory cycles to normalised log-mel spectrograms, as `feature_extraction_lung_srad.py`. */

import { Fourier } from "./fourier.js";
import { round } from "./numbers.js";

/**
 * @typedef {object} Preprocessor settings of `preprocessor_config.json`
 * @property {number} sampling_rate in Hz
 * @property {number} num_mel_bins
 * @property {number} cycle_seconds
 * @property {"repeat" | "zero"} padding_mode
 * @property {number} fade_seconds
 * @property {number} num_frames
 * @property {"clip" | "dataset" | "band"} normalization
 * @property {number} mean
 * @property {number} std
 * @property {number} min_frequency in Hz
 * @property {number | null} max_frequency in Hz
 * @property {number} frame_seconds
 * @property {number | null} fft_length
 * @property {number | null} floor_decibels
 *
 * @typedef {Record<string, any>} Constants of a Python module, by their names there
 */

/** A log-mel spectrogram, frame by frame. */
export class Spectrogram {
  /**
   * @param {number} frames
   * @param {number} bins
   */
  constructor(frames, bins) {
    this.frames = frames;
    this.bins = bins;
    /** Natural logarithms of energies, `(frames, bins)`. */
    this.values = new Float32Array(frames * bins);
  }
}

/**
 * Mel scale of HTK and Kaldi.
 * @param {number} frequency in Hz
 */
export function hertzToMel(frequency) {
  return 1127 * Math.log1p(frequency / 700);
}

/** Log mel filter banks as Kaldi computes them, for frames of one length and rate. */
export class FilterBank {
  /**
   * @param {object} settings
   * @param {number} settings.samplingRate in Hz
   * @param {number} settings.bins mel bins
   * @param {[number, number]} settings.frequencies lowest and highest edge in Hz
   * @param {number} settings.frameSeconds length of the Hann window
   * @param {number | null} settings.fftLength by default the next power of two from the window's length on
   * @param {Constants} constants of `feature_extraction_lung_srad.py`
   */
  constructor({ samplingRate, bins, frequencies, frameSeconds, fftLength }, constants) {
    this.window = round(frameSeconds * samplingRate);
    this.hop = round(constants.HOP_SECONDS * samplingRate);
    this.bins = bins;
    this.preemphasis = constants.PREEMPHASIS;
    this.floor = constants.LOG_FLOOR;
    this.fourier = new Fourier(fftLength ?? 2 ** Math.ceil(Math.log2(this.window)));
    this.hann = Float32Array.from(
      { length: this.window },
      (_, index) => 0.5 - 0.5 * Math.cos((2 * Math.PI * index) / (this.window - 1)),
    );
    this.filters = makeFilters(bins, this.fourier.length, samplingRate, frequencies);
    this.centred = new Float64Array(this.window);
  }

  /**
   * Number of whole frames in so many samples.
   * @param {number} samples
   */
  countFrames(samples) {
    return Math.max(0, 1 + Math.floor((samples - this.window) / this.hop));
  }

  /**
   * @param {ArrayLike<number>} waveform at least a window long
   * @param {number} [period] samples after which it repeats; whole hops of them are computed once
   * @returns {Spectrogram}
   */
  apply(waveform, period = Infinity) {
    const spectrogram = new Spectrogram(this.countFrames(waveform.length), this.bins);
    const { fourier } = this;
    const frames = period % this.hop === 0 ? Math.min(spectrogram.frames, period / this.hop) : spectrogram.frames;
    for (let frame = 0; frame < frames; frame += 2) {
      const isPair = frame + 1 < frames;
      this.loadFrame(waveform, frame, fourier.real);
      if (isPair) this.loadFrame(waveform, frame + 1, fourier.imaginary);
      else fourier.imaginary.fill(0);
      fourier.transform();
      this.filter(fourier.first, spectrogram.values, frame * this.bins);
      if (isPair) this.filter(fourier.second, spectrogram.values, (frame + 1) * this.bins);
    }
    for (let place = frames * this.bins; place < spectrogram.values.length; place++) {
      spectrogram.values[place] = spectrogram.values[place - frames * this.bins];
    }
    return spectrogram;
  }

  /**
   * @private
   * @param {ArrayLike<number>} waveform
   * @param {number} frame
   * @param {Float64Array} into the frame without offset, with pre-emphasis and window, `(fft_length,)`
   */
  loadFrame(waveform, frame, into) {
    const { window, hop, centred, hann, preemphasis } = this;
    let sum = 0;
    for (let index = 0; index < window; index++) sum += waveform[frame * hop + index];
    for (let index = 0; index < window; index++) centred[index] = waveform[frame * hop + index] - sum / window;
    into.fill(0, window);
    into[0] = centred[0] * (1 - preemphasis) * hann[0];
    for (let index = 1; index < window; index++) {
      into[index] = (centred[index] - preemphasis * centred[index - 1]) * hann[index];
    }
  }

  /**
   * @private
   * @param {Float64Array} power `(fft_length / 2 + 1,)`
   * @param {Float32Array} values of the spectrogram
   * @param {number} place of the frame in them
   */
  filter(power, values, place) {
    for (let bin = 0; bin < this.bins; bin++) {
      const { first, weights } = this.filters[bin];
      let energy = 0;
      for (let index = 0; index < weights.length; index++) energy += power[first + index] * weights[index];
      values[place + bin] = Math.log(Math.max(energy, this.floor));
    }
  }
}

/**
 * Triangles in mel, without their zeros: `first` is the bin of the spectrum that the weights begin at.
 * @param {number} bins
 * @param {number} fftLength
 * @param {number} samplingRate in Hz
 * @param {[number, number]} frequencies in Hz
 */
function makeFilters(bins, fftLength, samplingRate, [lowest, highest]) {
  const [bottom, top] = [hertzToMel(lowest), hertzToMel(highest)];
  const edge = (/** @type {number} */ index) => bottom + ((top - bottom) * index) / (bins + 1);
  // The bin at Nyquist is unused, as in Kaldi.
  const mels = Float64Array.from({ length: Math.floor(fftLength / 2) }, (_, bin) =>
    hertzToMel((bin * samplingRate) / fftLength),
  );
  return Array.from({ length: bins }, (_, index) => {
    const weights = mels.map((mel) => {
      const rising = (mel - edge(index)) / (edge(index + 1) - edge(index));
      const falling = (edge(index + 2) - mel) / (edge(index + 2) - edge(index + 1));
      return Math.max(0, Math.min(rising, falling));
    });
    const first = Math.max(0, weights.findIndex((weight) => weight > 0));
    const last = weights.findLastIndex((weight) => weight > 0);
    return { first, weights: Float32Array.from(weights.subarray(first, last + 1)) };
  });
}

/** What `LungSradFeatureExtractor` does with its saved settings. */
export class FeatureExtractor {
  /**
   * @param {Preprocessor} settings
   * @param {Constants} constants of `feature_extraction_lung_srad.py`
   */
  constructor(settings, constants) {
    this.settings = settings;
    this.constants = constants;
    this.filterBank = new FilterBank(
      {
        samplingRate: settings.sampling_rate,
        bins: settings.num_mel_bins,
        frequencies: [settings.min_frequency, settings.max_frequency ?? settings.sampling_rate / 2],
        frameSeconds: settings.frame_seconds,
        fftLength: settings.fft_length,
      },
      constants,
    );
  }

  /**
   * Cuts or fills a cycle and computes its filter banks.
   * @param {Float32Array} cycle `(samples,)`
   * @returns {Spectrogram}
   */
  logMel(cycle) {
    const filled = this.fitLength(cycle);
    if (this.settings.floor_decibels !== null) {
      const power = filled.reduce((sum, sample) => sum + sample * sample, 0) / filled.length;
      const scale = 1 / Math.max(Math.sqrt(power), this.constants.SMALLEST_RMS);
      for (let index = 0; index < filled.length; index++) filled[index] *= scale;
    }
    const isPeriodic = this.settings.padding_mode === "repeat" && this.settings.fade_seconds === 0;
    return this.filterBank.apply(filled, isPeriodic ? cycle.length : Infinity);
  }

  /**
   * Adds the floor, normalises and resizes.
   * @param {Spectrogram} logMel
   * @returns {Float32Array} `(num_frames, num_mel_bins)`
   */
  inputValues(logMel) {
    return this.resize(this.normalize(logMel), logMel.frames);
  }

  /**
   * @private
   * @param {Float32Array} cycle
   * @returns {Float64Array} `(cycle_seconds * sampling_rate,)`
   */
  fitLength(cycle) {
    const { cycle_seconds, sampling_rate, padding_mode, fade_seconds } = this.settings;
    const target = round(cycle_seconds * sampling_rate);
    const filled = new Float64Array(target);
    filled.set(cycle.subarray(0, target));
    if (cycle.length >= target || padding_mode === "zero") return filled;
    for (let index = cycle.length; index < target; index++) filled[index] = filled[index - cycle.length];
    const fade = round(fade_seconds * sampling_rate);
    for (let index = 0; index < fade; index++) {
      filled[target - fade + index] *= fade === 1 ? 1 : 1 - index / (fade - 1);
    }
    return filled;
  }

  /**
   * @private
   * @param {Spectrogram} logMel
   * @returns {Float64Array} `(frames, num_mel_bins)`
   */
  normalize({ frames, bins, values }) {
    const normalized = Float64Array.from(values);
    const { floor_decibels, normalization } = this.settings;
    if (floor_decibels !== null) addFloor(normalized, floor_decibels);
    if (normalization === "band") {
      for (let bin = 0; bin < bins; bin++) {
        let sum = 0;
        for (let place = bin; place < normalized.length; place += bins) sum += normalized[place];
        for (let place = bin; place < normalized.length; place += bins) normalized[place] -= sum / frames;
      }
    }
    let { mean, std } = this.settings;
    if (normalization !== "dataset") {
      mean = normalized.reduce((sum, value) => sum + value, 0) / normalized.length;
      const squares = normalized.reduce((sum, value) => sum + (value - mean) ** 2, 0);
      // The spread of digital silence is zero.
      std = Math.max(Math.sqrt(squares / (normalized.length - 1)), this.constants.SMALLEST_STD);
    }
    return normalized.map((value) => (value - mean) / (2 * std));
  }

  /**
   * Linear, antialiased resize of the frames.
   * @private
   * @param {Float64Array} values `(frames, num_mel_bins)`
   * @param {number} frames
   * @returns {Float32Array} `(num_frames, num_mel_bins)`
   */
  resize(values, frames) {
    const { num_frames, num_mel_bins } = this.settings;
    if (frames === num_frames) return Float32Array.from(values);
    const resized = new Float64Array(num_frames * num_mel_bins);
    const scale = frames / num_frames;
    const reach = Math.max(scale, 1);
    for (let frame = 0; frame < num_frames; frame++) {
      const centre = scale * (frame + 0.5);
      const first = Math.max(0, Math.floor(centre - reach));
      const last = Math.min(frames - 1, Math.ceil(centre + reach));
      let total = 0;
      for (let source = first; source <= last; source++) {
        const weight = Math.max(0, 1 - Math.abs(source + 0.5 - centre) / reach);
        total += weight;
        for (let bin = 0; bin < num_mel_bins; bin++) {
          resized[frame * num_mel_bins + bin] += weight * values[source * num_mel_bins + bin];
        }
      }
      for (let bin = 0; bin < num_mel_bins; bin++) resized[frame * num_mel_bins + bin] /= total;
    }
    return Float32Array.from(resized);
  }
}

/**
 * Adds a share of the mean energy to all energies.
 * @param {Float64Array} logMel natural logarithms, changed in place
 * @param {number} decibels how far the floor lies below the mean energy
 */
function addFloor(logMel, decibels) {
  const largest = logMel.reduce((top, value) => Math.max(top, value), -Infinity);
  const sum = logMel.reduce((total, value) => total + Math.exp(value - largest), 0);
  const floor = largest + Math.log(sum / logMel.length) - (decibels * Math.log(10)) / 10;
  for (let place = 0; place < logMel.length; place++) {
    const [high, low] = logMel[place] > floor ? [logMel[place], floor] : [floor, logMel[place]];
    logMel[place] = high + Math.log1p(Math.exp(low - high));
  }
}
