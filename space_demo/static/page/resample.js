// @ts-check
/**
 * Resamples by windowed-sinc interpolation, as `modeling_lung_srad/audio.py`: Hann window, 6 zero crossings, roll-off
 * 0.99.
 */

/**
 * @param {number} first
 * @param {number} second
 * @returns {number}
 */
function greatestCommonDivisor(first, second) {
  return second === 0 ? first : greatestCommonDivisor(second, first % second);
}

/**
 * @param {Float32Array<ArrayBuffer>} waveform mono, `(samples,)`
 * @param {number} sourceRate its rate in Hz
 * @param {number} samplingRate the wanted rate in Hz
 * @param {import("./features.js").Constants} constants of `audio.py`
 * @returns {Float32Array<ArrayBuffer>} `(ceil(samples * samplingRate / sourceRate),)`
 */
export function resample(waveform, sourceRate, samplingRate, { ZERO_CROSSINGS, ROLL_OFF }) {
  if (sourceRate === samplingRate) return waveform;
  const divisor = greatestCommonDivisor(sourceRate, samplingRate);
  const sourceStep = sourceRate / divisor;
  const numPhases = samplingRate / divisor;
  const cutoff = Math.min(1, numPhases / sourceStep) * ROLL_OFF;
  const halfWidth = Math.ceil(ZERO_CROSSINGS / cutoff);
  const numTaps = 2 * halfWidth + 1;
  const resampled = new Float32Array(Math.ceil((waveform.length * numPhases) / sourceStep));
  // Silence around the recording.
  const padded = new Float32Array(waveform.length + 2 * halfWidth + sourceStep);
  padded.set(waveform, halfWidth);
  for (let phase = 0; phase < numPhases; phase++) {
    const first = Math.floor((phase * sourceStep) / numPhases);
    const kernel = makeKernel(((phase * sourceStep) % numPhases) / numPhases, halfWidth, cutoff, ZERO_CROSSINGS);
    for (let to = phase, from = first; to < resampled.length; to += numPhases, from += sourceStep) {
      let sum = 0;
      for (let tap = 0; tap < numTaps; tap++) sum += padded[from + tap] * kernel[tap];
      resampled[to] = sum;
    }
  }
  return resampled;
}

/**
 * @param {number} shift of the kernel, in samples of the source
 * @param {number} halfWidth taps on either side
 * @param {number} cutoff share of the source's Nyquist frequency that is kept
 * @param {number} zeroCrossings of the sinc on either side
 */
function makeKernel(shift, halfWidth, cutoff, zeroCrossings) {
  return Float32Array.from({ length: 2 * halfWidth + 1 }, (_, index) => {
    const place = (index - halfWidth - shift) * cutoff;
    const distance = Math.min(Math.max(place, -zeroCrossings), zeroCrossings);
    const hann = Math.cos((distance * Math.PI) / (2 * zeroCrossings)) ** 2;
    const sinc = distance === 0 ? 1 : Math.sin(Math.PI * distance) / (Math.PI * distance);
    return sinc * hann * cutoff;
  });
}
