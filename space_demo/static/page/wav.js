// @ts-check
/** Reads and writes WAV files. Whatever length the header states, a file is read to its end, as `containers.py` does. */

import { InputError } from "./errors.js";

const RIFF = "RIFF";
const [PCM, FLOAT, EXTENSIBLE] = [1, 3, 0xfffe];
// Writers that cannot know a length leave one of the largest that fit, some less a header.
const UNKNOWN_LENGTHS = 0x7fff0000;
// Less after the stated end is padding.
const LEFT_OVER_BYTES = 8;

/**
 * How samples are stored.
 * @typedef {object} Format
 * @property {number} encoding `PCM` or `FLOAT`
 * @property {number} channels
 * @property {number} samplingRate in Hz
 * @property {number} frameBytes of one sample of all channels
 *
 * @typedef {object} WavHeader
 * @property {Format} format
 * @property {number} start place of the first sample
 * @property {number} bytes of audio that were found
 * @property {number} missing bytes that the header states and the file lacks; negative where more was found
 */

/**
 * The header of a WAV file; null for other content, and for encodings that the browser has to decode.
 * @param {ArrayBuffer} content
 * @returns {WavHeader | null}
 * @throws {InputError} for a WAV file without audio
 */
export function readWavHeader(content) {
  const view = new DataView(content);
  const name = (/** @type {number} */ place) =>
    String.fromCharCode(...new Uint8Array(content, place, Math.min(4, content.byteLength - place)));
  if (content.byteLength < 12 || ![RIFF, "RF64"].includes(name(0)) || name(8) !== "WAVE") return null;
  /** @type {Format | null} */
  let format = null;
  /** @type {number | null} */
  let longSize = null;
  for (let place = 12; place + 8 <= content.byteLength; ) {
    const size = view.getUint32(place + 4, true);
    const body = place + 8;
    if (name(place) === "fmt " && body + 16 <= content.byteLength) format = readFormat(view, body, size);
    // Files over 4 GiB (RF64) have the length of their audio here and a placeholder at its usual place.
    if (name(place) === "ds64" && body + 16 <= content.byteLength) longSize = Number(view.getBigUint64(body + 8, true));
    if (name(place) === "data") {
      if (format === null || ![PCM, FLOAT].includes(format.encoding)) return null;
      const hasNext = longSize === null && isChunk(view, body + size + (size % 2));
      return fitLength(format, body, longSize ?? size, content.byteLength - body, hasNext);
    }
    place = body + size + (size % 2);
  }
  throw new InputError("has no audio among its chunks", "copy or export the file again");
}

/**
 * @param {DataView} view
 * @param {number} body place of the format
 * @param {number} size its bytes
 * @returns {Format}
 */
function readFormat(view, body, size) {
  const tag = view.getUint16(body, true);
  const [channels, samplingRate] = [view.getUint16(body + 2, true), view.getUint32(body + 4, true)];
  if (!channels || !samplingRate) {
    throw new InputError("states no sampling rate or no channels", "export it again");
  }
  const isExtensible = tag === EXTENSIBLE && size >= 26 && body + 26 <= view.byteLength;
  const encoding = isExtensible ? view.getUint16(body + 24, true) : tag;
  return { encoding, channels, samplingRate, frameBytes: view.getUint16(body + 12, true) };
}

/**
 * True if another chunk lies at a place, so that the one before has the right size.
 * @param {DataView} view
 * @param {number} place
 */
function isChunk(view, place) {
  if (place + 8 > view.byteLength) return false;
  const isPrintable = [0, 1, 2, 3].every((index) => {
    const sign = view.getUint8(place + index);
    return sign >= 0x20 && sign < 0x7f;
  });
  return isPrintable && view.getUint32(place + 4, true) <= view.byteLength - place - 8;
}

/**
 * @param {Format} format
 * @param {number} start
 * @param {number} stated bytes of audio by the header
 * @param {number} found bytes up to the end of the file
 * @param {boolean} hasNext another chunk follows
 * @returns {WavHeader}
 */
function fitLength(format, start, stated, found, hasNext) {
  const isUnknown = stated === 0 || (stated > found && stated % 2 ** 32 >= UNKNOWN_LENGTHS);
  const leftOver = found - stated;
  if (hasNext || (!isUnknown && leftOver >= 0 && leftOver < LEFT_OVER_BYTES)) {
    return { format, start, bytes: stated, missing: 0 };
  }
  return { format, start, bytes: found, missing: isUnknown ? 0 : -leftOver };
}

/**
 * @param {ArrayBuffer} content
 * @param {WavHeader} header
 * @returns {import("./channels.js").DecodedAudio}
 * @throws {InputError} for a sample size that does not exist
 */
export function decodeWav(content, { format, start, bytes, missing }) {
  const sampleBytes = format.frameBytes / format.channels;
  const read = sampleReader(new DataView(content), format.encoding, sampleBytes);
  const frames = Math.floor(bytes / format.frameBytes);
  const channels = Array.from({ length: format.channels }, (_, channel) => {
    const samples = new Float32Array(frames);
    for (let frame = 0; frame < frames; frame++) {
      samples[frame] = read(start + frame * format.frameBytes + channel * sampleBytes);
    }
    return samples;
  });
  const bytesPerSecond = format.frameBytes * format.samplingRate;
  return { channels, samplingRate: format.samplingRate, missingSeconds: missing / bytesPerSecond, bitRate: null };
}

/**
 * @param {DataView} view
 * @param {number} encoding
 * @param {number} sampleBytes
 * @returns {(place: number) => number} the sample at a place, full scale at -1 and 1
 */
function sampleReader(view, encoding, sampleBytes) {
  const readers = {
    [`${PCM} 1`]: (/** @type {number} */ place) => (view.getUint8(place) - 128) / 2 ** 7,
    [`${PCM} 2`]: (/** @type {number} */ place) => view.getInt16(place, true) / 2 ** 15,
    [`${PCM} 3`]: (/** @type {number} */ place) =>
      (view.getUint16(place, true) + view.getInt8(place + 2) * 2 ** 16) / 2 ** 23,
    [`${PCM} 4`]: (/** @type {number} */ place) => view.getInt32(place, true) / 2 ** 31,
    [`${FLOAT} 4`]: (/** @type {number} */ place) => view.getFloat32(place, true),
    [`${FLOAT} 8`]: (/** @type {number} */ place) => view.getFloat64(place, true),
  };
  const reader = readers[`${encoding} ${sampleBytes}`];
  if (!reader) throw new InputError(`has samples of ${sampleBytes} bytes`, "export it again as 16 or 24 bit integers");
  return reader;
}

/**
 * A WAV file of float samples, which loses nothing of what a microphone gave.
 * @param {Float32Array<ArrayBuffer>} samples mono, `(samples,)`
 * @param {number} samplingRate in Hz
 * @param {string} name
 * @returns {File}
 */
export function makeWavFile(samples, samplingRate, name) {
  const header = new DataView(new ArrayBuffer(44));
  const write = (/** @type {number} */ place, /** @type {string} */ text) =>
    [...text].forEach((sign, index) => header.setUint8(place + index, sign.charCodeAt(0)));
  const sampleBytes = samples.BYTES_PER_ELEMENT;
  write(0, RIFF);
  header.setUint32(4, 36 + samples.byteLength, true);
  write(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, FLOAT, true);
  header.setUint16(22, 1, true);
  header.setUint32(24, samplingRate, true);
  header.setUint32(28, samplingRate * sampleBytes, true);
  header.setUint16(32, sampleBytes, true);
  header.setUint16(34, 8 * sampleBytes, true);
  write(36, "data");
  header.setUint32(40, samples.byteLength, true);
  return new File([header, samples], name, { type: "audio/wav" });
}
