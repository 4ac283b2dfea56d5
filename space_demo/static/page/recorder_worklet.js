/** Runs in the audio thread: hands the samples of the microphone on as they come. */

class Recorder extends AudioWorkletProcessor {
  /** @param {Float32Array[][]} inputs `(inputs, channels, samples)` */
  process([[samples]]) {
    // The browser uses its memory again.
    if (samples) this.port.postMessage(samples.slice());
    return true;
  }
}

registerProcessor("recorder", Recorder);
