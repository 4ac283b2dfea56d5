// @ts-check
/**
 * What the head of a compressed file says before the browser decodes it: the sampling rate, since the browser resamples
 * to whatever rate it is asked for, and whether sounds were lost.
 */

// By the two bits that name the version of MPEG.
/** @type {Record<number, number[]>} */
const MP3_RATES = { 3: [44100, 48000, 32000], 2: [22050, 24000, 16000], 0: [11025, 12000, 8000] };
const OPUS_RATE = 48000;
// Tags, with a picture of the album, come before the frames of MP3.
const SEARCHED_BYTES = 2 ** 20;

/**
 * @typedef {object} CompressedFormat
 * @property {number | null} samplingRate in Hz, null where it is not found
 * @property {boolean} isLossy
 */

/**
 * @param {ArrayBuffer} content
 * @returns {CompressedFormat}
 */
export function readCompressedFormat(content) {
  const view = new DataView(content);
  const starts = (/** @type {string} */ text, place = 0) => findText(view, text, place, place + text.length) === place;
  if (starts("fLaC")) return { samplingRate: content.byteLength > 21 ? view.getUint32(18) >>> 12 : null, isLossy: false };
  if (starts("OggS")) return { samplingRate: oggRate(view), isLossy: findText(view, "fLaC", 0, 4096) < 0 };
  if (starts("ftyp", 4)) return { samplingRate: mp4Rate(view), isLossy: findText(view, "alac", 0) < 0 };
  if (starts("\x1aE\xdf\xa3")) return { samplingRate: OPUS_RATE, isLossy: true };
  return { samplingRate: mp3Rate(view), isLossy: true };
}

/**
 * Place of a text among the bytes, -1 if it is missing.
 * @param {DataView} view
 * @param {string} text
 * @param {number} from
 * @param {number} to end of the text at the latest
 */
function findText(view, text, from, to = view.byteLength) {
  const signs = [...text].map((sign) => sign.charCodeAt(0));
  for (let place = from; place + signs.length <= Math.min(to, view.byteLength); place++) {
    if (signs.every((sign, index) => view.getUint8(place + index) === sign)) return place;
  }
  return -1;
}

/** @param {DataView} view */
function oggRate(view) {
  const vorbis = findText(view, "\x01vorbis", 0, 4096);
  return vorbis >= 0 && vorbis + 16 <= view.byteLength ? view.getUint32(vorbis + 12, true) : OPUS_RATE;
}

/** @param {DataView} view */
function mp4Rate(view) {
  // A description of AAC: 6 reserved bytes and 10 others, channels, sample size, 4 bytes, the rate as 16.16 bits.
  for (let place = findText(view, "mp4a", 0); place >= 0; place = findText(view, "mp4a", place + 1)) {
    if (place + 32 <= view.byteLength && view.getUint32(place + 4) === 0) return view.getUint32(place + 28) >>> 16;
  }
  return null;
}

/** @param {DataView} view */
function mp3Rate(view) {
  let start = 0;
  if (findText(view, "ID3", 0, 3) === 0 && view.byteLength > 10) {
    // Seven bits of each byte count.
    start = 10 + [6, 7, 8, 9].reduce((size, place) => size * 128 + (view.getUint8(place) & 127), 0);
  }
  for (let place = start; place + 3 < Math.min(view.byteLength, start + SEARCHED_BYTES); place++) {
    if (view.getUint8(place) !== 0xff || (view.getUint8(place + 1) & 0xe6) !== 0xe2) continue;
    const rates = MP3_RATES[(view.getUint8(place + 1) >> 3) & 3];
    const rate = rates?.[(view.getUint8(place + 2) >> 2) & 3];
    if (rate) return rate;
  }
  return null;
}
