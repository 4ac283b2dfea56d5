// @ts-check
/** The thread that computes, so that the page never freezes: it loads the model and answers one request at a time. */

import { mixDown } from "./channels.js";
import { InputError } from "./errors.js";
import { fetchChecked } from "./files.js";
import { drawPicture } from "./picture.js";
import { LungSoundPipeline } from "./pipeline.js";
import * as runtime from "./runtime/onnxruntime.js";

const MOST_THREADS = 4;
// A core stays free for the page and other programs: threads that wait for one of them are slower than one alone.
const FREE_CORES = 1;

/**
 * @typedef {import("./channels.js").DecodedAudio} DecodedAudio
 *
 * @typedef {object} Request
 * @property {number} id of the request
 * @property {"load" | "classify" | "draw"} kind
 * @property {string} file name of a recording; empty where there is none
 * @property {DecodedAudio | null} audio of it; without, the recording of the request before
 */

/** @type {LungSoundPipeline} */
let pipeline;
/** @type {import("./pipeline.js").Recording} */
let recording;

/** @type {Record<Request["kind"], (request: Request) => Promise<any>>} */
const ANSWERS = {
  async load() {
    const settings = JSON.parse(new TextDecoder().decode(await fetchChecked("settings.json")));
    const { bytes, sha256 } = settings.model;
    const [model, binary] = await Promise.all([
      fetchChecked("model.onnx", { bytes, sha256 }),
      fetchChecked("runtime/onnxruntime.wasm.gzip").then(unpack),
    ]);
    runtime.env.wasm.wasmBinary = binary;
    const cores = Math.max(1, navigator.hardwareConcurrency - FREE_CORES);
    runtime.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(cores, MOST_THREADS) : 1;
    const session = await runtime.InferenceSession.create(new Uint8Array(model));
    const { num_frames, num_mel_bins } = settings.preprocessor;
    pipeline = new LungSoundPipeline(settings, async (inputValues, batch) => {
      const input = new runtime.Tensor("float32", inputValues, [batch, num_frames, num_mel_bins]);
      const { logits } = await session.run({ input_values: input });
      return /** @type {Float32Array} */ (logits.data);
    });
    return { isBound: isBound() };
  },

  async classify({ id, file, audio }) {
    if (audio) takeUp(audio, file);
    return pipeline.classify(recording, (done, all) => self.postMessage({ id, done, all }));
  },

  async draw({ file, audio }) {
    const { constants, preprocessor } = pipeline.settings;
    if (audio) takeUp(audio, file);
    return drawPicture(recording.waveform, preprocessor.sampling_rate, constants);
  },
};

/**
 * @param {DecodedAudio} audio
 * @param {string} file its name
 */
function takeUp(audio, file) {
  recording = pipeline.load(mixDown(audio, pipeline.settings.constants.audio), file);
}

/** True if the policy of the page is enforced in this thread: it forbids to make code of text. */
function isBound() {
  try {
    return !Function("return true")();
  } catch {
    return true;
  }
}

/** @param {ArrayBuffer} packed by gzip, which free hosts do not unpack themselves */
function unpack(packed) {
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

let previous = Promise.resolve();
self.onmessage = ({ data }) => {
  previous = previous.then(() => answer(data));
};

/** @param {Request} request */
async function answer(request) {
  try {
    self.postMessage({ id: request.id, answer: await ANSWERS[request.kind](request) });
  } catch (error) {
    const { problem, remedy } = /** @type {InputError} */ (error);
    self.postMessage({ id: request.id, problem, remedy, bug: error instanceof InputError ? null : String(error) });
  }
}
