// @ts-check
/** Reads a chosen file: WAV by this page, so that no sample is changed, everything else by the browser's decoder. */

import { readCompressedFormat } from "./compressed.js";
import { InputError } from "./errors.js";
import { decodeWav, readWavHeader } from "./wav.js";

const FALLBACK_RATE = 48000;
// A browser waits for ever on some damaged files.
const LONGEST_WAIT_MILLISECONDS = 10000;

/**
 * @typedef {object} Limits
 * @property {number} MAX_UPLOAD_BYTES
 * @property {number} MAX_MEGABYTES
 * @property {number} MAX_MINUTES
 */

/**
 * @param {File} file
 * @param {Limits} limits of `limits.py`
 * @returns {Promise<import("./channels.js").DecodedAudio>}
 * @throws {InputError} where it cannot be read, or is too large or too long
 */
export async function decodeFile(file, limits) {
  if (file.size > limits.MAX_UPLOAD_BYTES) {
    throw new InputError(`is larger than ${limits.MAX_MEGABYTES} MB`, "cut it, or save it as flac");
  }
  const content = await file.arrayBuffer().catch(() => {
    throw new InputError("cannot be read", "choose files, not folders, and choose it again if it was moved");
  });
  if (!content.byteLength) throw new InputError("is empty (0 bytes)", "record or export it again");
  const header = readWavHeader(content);
  if (header === null) return decodeByBrowser(file, content, limits);
  checkSeconds(header.bytes / header.format.frameBytes / header.format.samplingRate, limits);
  return decodeWav(content, header);
}

/**
 * @param {number} seconds
 * @param {Limits} limits
 */
function checkSeconds(seconds, { MAX_MINUTES }) {
  if (seconds > 60 * MAX_MINUTES) throw new InputError(`is longer than ${MAX_MINUTES} minutes`, "cut it into parts");
}

/**
 * @param {File} file
 * @param {ArrayBuffer} content
 * @param {Limits} limits
 * @returns {Promise<import("./channels.js").DecodedAudio>}
 */
async function decodeByBrowser(file, content, limits) {
  // Before it is decoded: an hour of speech is small as a file and large in memory.
  checkSeconds(await readDuration(file), limits);
  const { samplingRate, isLossy } = readCompressedFormat(content);
  const bytes = content.byteLength;
  const audio = await contextOf(samplingRate ?? FALLBACK_RATE)
    .decodeAudioData(content)
    .catch(() => {
      throw unreadable();
    });
  return {
    channels: Array.from({ length: audio.numberOfChannels }, (_, channel) => audio.getChannelData(channel)),
    samplingRate: audio.sampleRate,
    missingSeconds: 0,
    bitRate: isLossy ? (8 * bytes) / audio.duration : null,
  };
}

function unreadable() {
  return new InputError("is not audio that this browser can read", "save it as wav, by an audio editor");
}

/**
 * A decoder that does not resample, where the browser offers the rate.
 * @param {number} samplingRate in Hz
 */
function contextOf(samplingRate) {
  try {
    return new OfflineAudioContext(1, 1, samplingRate);
  } catch {
    return new OfflineAudioContext(1, 1, FALLBACK_RATE);
  }
}

/**
 * Seconds of a file, without decoding it.
 * @param {File} file
 * @returns {Promise<number>}
 */
async function readDuration(file) {
  const media = document.createElement("audio");
  media.preload = "metadata";
  const address = URL.createObjectURL(file);
  try {
    await new Promise((resolve, reject) => {
      media.onloadedmetadata = () => {
        // Browsers record without a length; at the end of the file they know it.
        if (media.duration === Infinity) media.currentTime = Number.MAX_SAFE_INTEGER;
        else resolve(undefined);
      };
      media.ondurationchange = () => Number.isFinite(media.duration) && resolve(undefined);
      media.onerror = () => reject(unreadable());
      setTimeout(() => reject(unreadable()), LONGEST_WAIT_MILLISECONDS);
      media.src = address;
    });
    return media.duration;
  } finally {
    media.removeAttribute("src");
    URL.revokeObjectURL(address);
  }
}
