// @ts-check
/** The page's side of the thread that computes. */

import { decodeFile } from "./decode.js";
import { InputError } from "./errors.js";

/**
 * @typedef {object} Pending
 * @property {(answer: any) => void} resolve
 * @property {(error: Error) => void} reject
 * @property {(done: number, all: number) => void} onProgress
 */

export class Analyser {
  /** @param {import("./decode.js").Limits} limits of `limits.py` */
  constructor(limits) {
    this.limits = limits;
    /** @type {Map<number, Pending>} */
    this.pending = new Map();
    this.lastId = 0;
    /** The recording that the worker holds. @type {File | null} */
    this.held = null;
  }

  /**
   * Starts the worker and waits until the model is loaded.
   * @returns {Promise<{isBound: boolean}>} whether the policy of the page binds the worker
   * @throws {InputError} where a file of the model is missing or damaged
   */
  load() {
    this.worker?.terminate();
    this.worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });
    this.worker.onmessage = ({ data }) => this.receive(data);
    this.worker.onerror = () => {
      const error = new InputError("The model could not be started", "load the page again, or use another browser");
      for (const { reject } of this.pending.values()) reject(error);
      this.pending.clear();
    };
    return this.send({ kind: "load", file: "", audio: null });
  }

  /**
   * @param {File} file
   * @param {string} name to show
   * @param {(done: number, all: number) => void} onProgress is told the windows that are done
   * @returns {Promise<import("./pipeline.js").RecordingResult>}
   * @throws {InputError} where it cannot be used
   */
  async classify(file, name, onProgress) {
    const audio = await decodeFile(file, this.limits);
    this.held = file;
    return this.send({ kind: "classify", file: name, audio }, onProgress);
  }

  /**
   * The spectrogram and the samples of a recording.
   * @param {File} file
   * @returns {Promise<import("./picture.js").Picture>}
   */
  async draw(file) {
    const audio = this.held === file ? null : await decodeFile(file, this.limits);
    this.held = file;
    return this.send({ kind: "draw", file: file.name, audio });
  }

  /**
   * @private
   * @param {Omit<import("./worker.js").Request, "id">} request
   * @param {(done: number, all: number) => void} [onProgress]
   * @returns {Promise<any>}
   */
  send(request, onProgress = () => {}) {
    const id = ++this.lastId;
    return new Promise((resolve, reject) => {
      this.pending.set(id, { resolve, reject, onProgress });
      // What the browser decoded lies in memory that can be handed over once; a later question decodes it again.
      const buffers = request.audio?.channels.map((channel) => channel.buffer) ?? [];
      this.worker?.postMessage({ id, ...request }, buffers);
    });
  }

  /**
   * @private
   * @param {any} message
   */
  receive({ id, done, all, answer, problem, remedy, bug }) {
    const pending = this.pending.get(id);
    if (!pending) return;
    if (all !== undefined) {
      pending.onProgress(done, all);
      return;
    }
    this.pending.delete(id);
    if (bug) pending.reject(new Error(bug));
    else if (problem) pending.reject(new InputError(problem, remedy));
    else pending.resolve(answer);
  }
}
