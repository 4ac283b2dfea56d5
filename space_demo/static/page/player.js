// @ts-check
/** Plays the samples of a recording from any place. */

export class Player {
  /** @param {(seconds: number) => void} onPlace is told the place while it plays, and where it stops */
  constructor(onPlace) {
    this.onPlace = onPlace;
    /** @type {AudioContext | null} */
    this.context = null;
    /** @type {AudioBufferSourceNode | null} */
    this.source = null;
    this.startedAt = 0;
  }

  get isPlaying() {
    return this.source !== null;
  }

  /**
   * @param {Float32Array<ArrayBuffer>} waveform
   * @param {number} samplingRate in Hz
   * @param {number} seconds where to begin
   */
  play(waveform, samplingRate, seconds) {
    this.stop();
    // A browser lets no page make a sound before it is used.
    this.context ??= new AudioContext();
    this.context.resume();
    const buffer = this.context.createBuffer(1, waveform.length, samplingRate);
    buffer.copyToChannel(waveform, 0);
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.context.destination);
    source.onended = () => {
      if (this.source === source) this.stop();
    };
    source.start(0, seconds);
    this.source = source;
    this.startedAt = this.context.currentTime - seconds;
    this.follow();
  }

  stop() {
    const { source } = this;
    this.source = null;
    source?.stop();
    source?.disconnect();
  }

  /** @private */
  follow() {
    const { context, source } = this;
    if (!context || !source?.buffer) return;
    this.onPlace(Math.min(context.currentTime - this.startedAt, source.buffer.duration));
    requestAnimationFrame(() => this.source === source && this.follow());
  }
}
