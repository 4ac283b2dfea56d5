// @ts-check
/** Power spectra of real frames of any length, two frames at a time. */

/**
 * Factors of a length, fours first, since they take the fewest operations.
 * @param {number} length
 */
function factorize(length) {
  const factors = [];
  for (let factor = 4, rest = length; rest > 1; ) {
    if (rest % factor === 0) {
      factors.push(factor);
      rest /= factor;
    } else {
      // After 4 comes 2, then 3, 5, 7 ...
      factor = factor === 4 ? 2 : factor === 2 ? 3 : factor + 2;
      if (factor * factor > rest && factor > 2) factor = rest;
    }
  }
  return factors;
}

/** A discrete Fourier transform of one length (Stockham's, of mixed radix). */
export class Fourier {
  /** @param {number} length points, at least 1 */
  constructor(length) {
    this.length = length;
    this.factors = factorize(length);
    this.cosines = Float64Array.from({ length }, (_, index) => Math.cos((2 * Math.PI * index) / length));
    this.sines = Float64Array.from({ length }, (_, index) => -Math.sin((2 * Math.PI * index) / length));
    this.real = new Float64Array(length);
    this.imaginary = new Float64Array(length);
    this.otherReal = new Float64Array(length);
    this.otherImaginary = new Float64Array(length);
    this.first = new Float64Array(Math.floor(length / 2) + 1);
    this.second = new Float64Array(this.first.length);
  }

  /**
   * Squared magnitudes of the spectra of what lies in `real` and in `imaginary`, two real frames of `(length,)`, which
   * are overwritten. The results, `first` and `second` of `(length / 2 + 1,)`, are valid until the next call.
   */
  transform() {
    let remaining = this.length;
    for (const factor of this.factors) {
      remaining /= factor;
      if (factor === 4) this.stepOfFour(remaining);
      else this.stepOf(factor, remaining);
      [this.real, this.otherReal] = [this.otherReal, this.real];
      [this.imaginary, this.otherImaginary] = [this.otherImaginary, this.imaginary];
    }
    const { real, imaginary, length } = this;
    for (let bin = 0; bin < this.first.length; bin++) {
      const mirrored = bin === 0 ? 0 : length - bin;
      const evenReal = real[bin] + real[mirrored];
      const evenImaginary = imaginary[bin] - imaginary[mirrored];
      const oddReal = real[bin] - real[mirrored];
      const oddImaginary = imaginary[bin] + imaginary[mirrored];
      this.first[bin] = (evenReal * evenReal + evenImaginary * evenImaginary) / 4;
      this.second[bin] = (oddReal * oddReal + oddImaginary * oddImaginary) / 4;
    }
  }

  /**
   * @private
   * @param {number} remaining length of the transforms that are left after this step
   */
  stepOfFour(remaining) {
    const { real, imaginary, otherReal, otherImaginary, cosines, sines } = this;
    const stride = this.length / (4 * remaining);
    const quarter = stride * remaining;
    for (let block = 0; block < remaining; block++) {
      const twiddle = block * stride;
      const c1 = cosines[twiddle];
      const c2 = cosines[2 * twiddle];
      const c3 = cosines[3 * twiddle];
      const s1 = sines[twiddle];
      const s2 = sines[2 * twiddle];
      const s3 = sines[3 * twiddle];
      for (let offset = 0; offset < stride; offset++) {
        const from = offset + stride * block;
        const to = offset + stride * 4 * block;
        const evenReal = real[from] + real[from + 2 * quarter];
        const evenImaginary = imaginary[from] + imaginary[from + 2 * quarter];
        const lessReal = real[from] - real[from + 2 * quarter];
        const lessImaginary = imaginary[from] - imaginary[from + 2 * quarter];
        const oddReal = real[from + quarter] + real[from + 3 * quarter];
        const oddImaginary = imaginary[from + quarter] + imaginary[from + 3 * quarter];
        // The difference of the odd ones, times -i.
        const turnReal = imaginary[from + quarter] - imaginary[from + 3 * quarter];
        const turnImaginary = real[from + 3 * quarter] - real[from + quarter];
        const oneReal = lessReal + turnReal;
        const oneImaginary = lessImaginary + turnImaginary;
        const twoReal = evenReal - oddReal;
        const twoImaginary = evenImaginary - oddImaginary;
        const threeReal = lessReal - turnReal;
        const threeImaginary = lessImaginary - turnImaginary;
        otherReal[to] = evenReal + oddReal;
        otherImaginary[to] = evenImaginary + oddImaginary;
        otherReal[to + stride] = oneReal * c1 - oneImaginary * s1;
        otherImaginary[to + stride] = oneReal * s1 + oneImaginary * c1;
        otherReal[to + 2 * stride] = twoReal * c2 - twoImaginary * s2;
        otherImaginary[to + 2 * stride] = twoReal * s2 + twoImaginary * c2;
        otherReal[to + 3 * stride] = threeReal * c3 - threeImaginary * s3;
        otherImaginary[to + 3 * stride] = threeReal * s3 + threeImaginary * c3;
      }
    }
  }

  /**
   * @private
   * @param {number} factor
   * @param {number} remaining length of the transforms that are left after this step
   */
  stepOf(factor, remaining) {
    const { real, imaginary, otherReal, otherImaginary, cosines, sines, length } = this;
    const stride = length / (factor * remaining);
    const part = stride * remaining;
    otherReal.fill(0);
    otherImaginary.fill(0);
    for (let block = 0; block < remaining; block++) {
      for (let output = 0; output < factor; output++) {
        for (let input = 0; input < factor; input++) {
          // The root of the small transform, and the twiddle of its output, in one.
          const angle = (output * (input * part + block * stride)) % length;
          const cosine = cosines[angle];
          const sine = sines[angle];
          const from = stride * block + input * part;
          const to = stride * (factor * block + output);
          for (let offset = 0; offset < stride; offset++) {
            otherReal[to + offset] += real[from + offset] * cosine - imaginary[from + offset] * sine;
            otherImaginary[to + offset] += real[from + offset] * sine + imaginary[from + offset] * cosine;
          }
        }
      }
    }
  }
}
