// @ts-check
/** Checks the decoded channels of a recording and mixes them down, as `audio.py`. */

import { InputError } from "./errors.js";
import { fixed } from "./numbers.js";

/**
 * @typedef {object} DecodedAudio
 * @property {Float32Array<ArrayBuffer>[]} channels each `(samples,)`
 * @property {number} samplingRate in Hz
 * @property {number} missingSeconds that the header states and the file lacks; negative where more was found
 * @property {number | null} bitRate in bits/s of a lossy format, null of others
 *
 * @typedef {object} SourceAudio
 * @property {Float32Array<ArrayBuffer>} waveform mono, `(samples,)`
 * @property {number} samplingRate in Hz
 * @property {import("./quality.js").QualityFlag[]} flags
 *
 * @typedef {import("./features.js").Constants} Constants
 */

/**
 * @param {DecodedAudio} audio
 * @param {Constants} constants of `audio.py`
 * @returns {SourceAudio}
 * @throws {InputError} where it cannot be used
 */
export function mixDown(audio, constants) {
  const { channels, samplingRate } = audio;
  if (channels.length > constants.MAX_CHANNELS) {
    throw new InputError(`has ${channels.length} channels`, "export one channel (mono) or two (stereo)");
  }
  const flags = [...lengthFlags(audio, constants), ...lossyFlags(audio, constants)];
  const mixed = mix(channels, constants);
  checkWaveform(mixed.waveform, samplingRate, constants);
  return { waveform: mixed.waveform, samplingRate, flags: [...flags, ...mixed.flags] };
}

/**
 * A flag about what is missing at the end, or lies after the stated end.
 * @param {DecodedAudio} audio
 * @param {Constants} constants
 * @returns {import("./quality.js").QualityFlag[]}
 */
function lengthFlags({ channels, samplingRate, missingSeconds }, { MISSING_SECONDS: [unnoticed, largest] }) {
  const seconds = channels[0].length / samplingRate;
  if (missingSeconds > largest) {
    const total = fixed(missingSeconds + seconds, 2);
    const problem = `is truncated, ${fixed(missingSeconds, 2)} of ${total} s are missing`;
    throw new InputError(problem, "copy or export the file again");
  }
  let message;
  if (missingSeconds > unnoticed) {
    message = `The last ${fixed(missingSeconds, 2)} s that the file states are missing; copy or export it again.`;
  } else if (missingSeconds < -unnoticed) {
    message =
      `The file states ${fixed(seconds + missingSeconds, 2)} s, but ${fixed(seconds, 2)} s of sound were found and ` +
      "used; save it again by an audio editor.";
  } else return [];
  return [{ flag: "wrong_length", message, value: missingSeconds, spans: [] }];
}

/**
 * @param {DecodedAudio} audio
 * @param {Constants} constants
 * @returns {import("./quality.js").QualityFlag[]}
 */
function lossyFlags({ bitRate }, { LOWEST_LOSSY_BITS }) {
  if (bitRate === null || bitRate >= LOWEST_LOSSY_BITS) return [];
  const message =
    `The file was compressed to ${fixed(bitRate / 1000, 0)} kbit/s, which can take crackles away; record in wav or ` +
    `flac, or at ${LOWEST_LOSSY_BITS / 1000} kbit/s or more.`;
  return [{ flag: "lossy", message, value: bitRate, spans: [] }];
}

/**
 * The mean of the channels, or the louder one with a flag where they cancel or the other is dead.
 * @param {Float32Array<ArrayBuffer>[]} channels
 * @param {Constants} constants
 */
function mix(channels, { CANCELLED, DEAD_CHANNEL }) {
  if (channels.length === 1) return { waveform: channels[0], flags: [] };
  const [left, right] = channels;
  const waveform = left.map((sample, index) => (sample + right[index]) / 2);
  const [leftPower, rightPower, middlePower] = [left, right, waveform].map(variance);
  const louder = Math.max(leftPower, rightPower);
  const quieter = Math.min(leftPower, rightPower);
  const isPlain = middlePower >= CANCELLED * louder && quieter >= DEAD_CHANNEL * louder;
  if (!Number.isFinite(louder) || isPlain) return { waveform, flags: [] };
  const [name, other] = leftPower >= rightPower ? ["left", "right"] : ["right", "left"];
  const problem =
    quieter < DEAD_CHANNEL * louder ? `The ${other} channel holds no sound` : "The channels cancel";
  const message =
    `${problem}, so the ${name} one was used alone; check the plug of the microphone, or record in mono.`;
  const flag = { flag: "one_channel", message, value: quieter / louder, spans: [] };
  return { waveform: name === "left" ? left : right, flags: [flag] };
}

/** @param {Float32Array} samples */
function variance(samples) {
  let [sum, squares] = [0, 0];
  for (const sample of samples) {
    sum += sample;
    squares += sample * sample;
  }
  return squares / samples.length - (sum / samples.length) ** 2;
}

/**
 * @param {Float32Array} waveform
 * @param {number} samplingRate in Hz
 * @param {Constants} constants
 */
function checkWaveform(waveform, samplingRate, constants) {
  const { MAX_SOURCE_RATE, MIN_SOURCE_RATE, MIN_SECONDS, LARGEST_SAMPLE } = constants;
  if (samplingRate > MAX_SOURCE_RATE) {
    const remedy = "correct the rate that it states, or export it at 44100 Hz";
    throw new InputError(`has a sampling rate above ${MAX_SOURCE_RATE} Hz`, remedy);
  }
  if (samplingRate < MIN_SOURCE_RATE) {
    const remedy = `lung sounds need at least ${MIN_SOURCE_RATE} Hz, record or export it at a higher rate`;
    throw new InputError(`has a sampling rate of ${samplingRate} Hz`, remedy);
  }
  if (waveform.length < MIN_SECONDS * samplingRate) {
    const problem = `lasts ${fixed((1000 * waveform.length) / samplingRate, 1)} ms`;
    throw new InputError(problem, `at least ${1000 * MIN_SECONDS} ms of audio are needed`);
  }
  // A comparison with NaN is false.
  const largest = waveform.reduce((top, sample) => (Math.abs(sample) <= top ? top : Math.abs(sample)), 0);
  if (waveform.some((sample) => !Number.isFinite(sample))) {
    throw new InputError("has NaN or infinite samples", "export it again as 16 or 24 bit integers");
  }
  if (largest > LARGEST_SAMPLE) {
    throw new InputError(
      `has samples of up to ${largest.toExponential(0).replace(/e\+(\d)$/, "e+0$1")}`,
      "export it again as 16 or 24 bit integers",
    );
  }
  if (!largest) throw new InputError("is silent (all samples are zero)", "check the microphone and record again");
}
