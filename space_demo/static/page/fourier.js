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
      const [c1, c2, c3] = [cosines[twiddle], cosines[2 * twiddle], cosines[3 * twiddle]];
      const [s1, s2, s3] = [sines[twiddle], sines[2 * twiddle], sines[3 * twiddle]];
      for (let offset = 0; offset < stride; offset++) {
        const from = offset + stride * block;
        const to = offset + stride * 4 * block;
        const [aReal, aImaginary] = [real[from], imaginary[from]];
        const [bReal, bImaginary] = [real[from + quarter], imaginary[from + quarter]];
        const [cReal, cImaginary] = [real[from + 2 * quarter], imaginary[from + 2 * quarter]];
        const [dReal, dImaginary] = [real[from + 3 * quarter], imaginary[from + 3 * quarter]];
        const [sumReal, sumImaginary] = [aReal + cReal, aImaginary + cImaginary];
        const [lessReal, lessImaginary] = [aReal - cReal, aImaginary - cImaginary];
        const [oddReal, oddImaginary] = [bReal + dReal, bImaginary + dImaginary];
        const [turnReal, turnImaginary] = [bImaginary - dImaginary, dReal - bReal];
        otherReal[to] = sumReal + oddReal;
        otherImaginary[to] = sumImaginary + oddImaginary;
        const [oneReal, oneImaginary] = [lessReal + turnReal, lessImaginary + turnImaginary];
        otherReal[to + stride] = oneReal * c1 - oneImaginary * s1;
        otherImaginary[to + stride] = oneReal * s1 + oneImaginary * c1;
        const [twoReal, twoImaginary] = [sumReal - oddReal, sumImaginary - oddImaginary];
        otherReal[to + 2 * stride] = twoReal * c2 - twoImaginary * s2;
        otherImaginary[to + 2 * stride] = twoReal * s2 + twoImaginary * c2;
        const [threeReal, threeImaginary] = [lessReal - turnReal, lessImaginary - turnImaginary];
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
    for (let block = 0; block < remaining; block++) {
      for (let output = 0; output < factor; output++) {
        for (let offset = 0; offset < stride; offset++) {
          let [sumReal, sumImaginary] = [0, 0];
          for (let input = 0; input < factor; input++) {
            // The root of the small transform, and the twiddle of its output, in one.
            const angle = (input * output * part + block * output * stride) % length;
            const from = offset + stride * block + input * part;
            sumReal += real[from] * cosines[angle] - imaginary[from] * sines[angle];
            sumImaginary += real[from] * sines[angle] + imaginary[from] * cosines[angle];
          }
          const to = offset + stride * (factor * block + output);
          otherReal[to] = sumReal;
          otherImaginary[to] = sumImaginary;
        }
      }
    }
  }
}
