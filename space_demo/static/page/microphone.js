// @ts-check
/** Records from the microphone without the filters that browsers make for speech, and without a lossy format. */

import { InputError } from "./errors.js";
import { makeWavFile } from "./wav.js";

const RAW_SOUND = { echoCancellation: false, noiseSuppression: false, autoGainControl: false, channelCount: 1 };
/** @type {Record<string, InputError>} */
const REFUSALS = {
  NotAllowedError: new InputError("The microphone is not allowed", "allow it in the settings of the browser"),
  NotFoundError: new InputError("No microphone was found", "connect one, or choose files"),
};

/** One recording, from its start until it is stopped. */
export class MicrophoneRecording {
  /**
   * @param {MediaStream} stream
   * @param {AudioContext} context
   */
  constructor(stream, context) {
    this.stream = stream;
    this.context = context;
    /** @type {Float32Array[]} */
    this.pieces = [];
    this.samples = 0;
  }

  /**
   * @param {(seconds: number) => void} onTime is told the seconds so far
   * @throws {InputError} where there is no microphone, or none that may be used
   */
  static async start(onTime) {
    const stream = await navigator.mediaDevices?.getUserMedia({ audio: RAW_SOUND }).catch((error) => {
      throw REFUSALS[error.name] ?? new InputError(`The microphone failed (${error.name})`, "choose files instead");
    });
    if (!stream) throw REFUSALS.NotFoundError;
    const context = new AudioContext();
    await context.audioWorklet.addModule(new URL("recorder_worklet.js", import.meta.url));
    const recording = new MicrophoneRecording(stream, context);
    const recorder = new AudioWorkletNode(context, "recorder", { numberOfOutputs: 0 });
    recorder.port.onmessage = ({ data }) => {
      recording.pieces.push(data);
      recording.samples += data.length;
      onTime(recording.samples / context.sampleRate);
    };
    context.createMediaStreamSource(stream).connect(recorder);
    return recording;
  }

  /**
   * @param {string} name of the file
   * @returns {Promise<File>}
   */
  async stop(name) {
    this.stream.getTracks().forEach((track) => track.stop());
    await this.context.close();
    const samples = new Float32Array(this.samples);
    let place = 0;
    for (const piece of this.pieces) {
      samples.set(piece, place);
      place += piece.length;
    }
    return makeWavFile(samples, this.context.sampleRate, name);
  }
}
