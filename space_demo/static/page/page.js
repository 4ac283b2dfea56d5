// @ts-check
/** The page: what can be pressed, the list of recordings, and the answer that is shown. */

import { Analyser } from "./analyser.js";
import { answerElement, downloadLinks, errorElement } from "./answer.js";
import { byId, element } from "./elements.js";
import { InputError } from "./errors.js";
import { fetchChecked } from "./files.js";
import { MicrophoneRecording } from "./microphone.js";
import { forgetFiles, keepFiles } from "./offline.js";
import { Player } from "./player.js";
import { Plot } from "./plot.js";
import { headline, plotText, shownName } from "./texts.js";

/**
 * @typedef {object} Entry a recording in the list
 * @property {File} file
 * @property {string} name to show
 * @property {import("./pipeline.js").RecordingResult | null} result
 * @property {InputError | null} error
 * @property {{done: number, all: number}} progress in windows
 * @property {HTMLElement} button
 * @property {HTMLElement} status
 */

const BUG = new InputError("could not be answered, because of a mistake of this page", "try another recording");

const BOUND = "The rule binds the page and the thread that computes: that thread has tried to break it, and could not.";
const UNBOUND =
  "The rule binds the page, but not the thread that computes: this browser keeps no files of pages, and this host adds " +
  "no headers.";

class Page {
  /** @param {any} settings what Python wrote */
  constructor(settings) {
    this.settings = settings;
    this.constants = settings.constants;
    this.analyser = new Analyser(this.constants.limits);
    /** @type {Entry[]} */
    this.entries = [];
    /** @type {Entry | null} */
    this.shown = null;
    /** @type {Plot | null} */
    this.plot = null;
    this.player = new Player((seconds) => this.plot?.show(seconds));
    this.loaded = Promise.resolve(false);
    this.isWorking = false;
    this.microphoneCount = 0;
  }

  /** Connects what the HTML has, and loads the model. */
  start() {
    const { limits } = this.constants;
    for (const place of document.querySelectorAll(".lung-minutes")) place.textContent = limits.MAX_MINUTES;
    for (const place of document.querySelectorAll(".lung-megabytes")) place.textContent = limits.MAX_MEGABYTES;
    for (const name of this.settings.examples) {
      const button = element("button", { type: "button" }, `Simulated ${name}`);
      button.addEventListener("click", () => this.addExample(name));
      byId("examples").append(button);
    }
    const input = /** @type {HTMLInputElement} */ (byId("files"));
    input.addEventListener("change", () => {
      this.add([...(input.files ?? [])]);
      input.value = "";
    });
    this.acceptDrops();
    byId("record").addEventListener("click", () => this.toggleMicrophone());
    byId("reload").addEventListener("click", () => this.load());
    byId("privacy").addEventListener("toggle", showProof);
    this.load();
  }

  /** @private */
  load() {
    byId("reload").hidden = true;
    byId("alert").textContent = "";
    const { bytes, runtime_bytes } = this.settings.model;
    byId("status").textContent = `Loading the model, ${((bytes + runtime_bytes) / 1e6).toFixed(0)} MB …`;
    this.loaded = this.loadModel();
    this.work();
  }

  /**
   * @private
   * @returns {Promise<boolean>}
   */
  async loadModel() {
    const isKept = await keepFiles();
    try {
      const { isBound } = await this.analyser.load();
      byId("bound").textContent = isBound ? BOUND : UNBOUND;
    } catch (error) {
      const { problem, remedy } = error instanceof InputError ? error : new InputError(`${error}`, "load it again");
      byId("status").textContent = "";
      byId("alert").textContent = `${problem}; ${remedy}.`;
      byId("reload").hidden = false;
      await forgetFiles();
      return false;
    }
    byId("status").textContent = isKept ? "Ready, also without a network." : "Ready.";
    return true;
  }

  /** @private */
  acceptDrops() {
    const target = byId("drop");
    const mark = (/** @type {boolean} */ isOver) => target.classList.toggle("lung-over", isOver);
    // The whole page takes files, or a file beside the field would replace the page.
    document.addEventListener("dragover", (event) => {
      event.preventDefault();
      mark(true);
    });
    document.addEventListener("dragleave", () => mark(false));
    document.addEventListener("drop", (event) => {
      event.preventDefault();
      mark(false);
      this.add([...(event.dataTransfer?.files ?? [])]);
    });
  }

  /**
   * @private
   * @param {string} name
   */
  async addExample(name) {
    const title = `simulated ${name}.wav`;
    try {
      const content = await fetchChecked(`examples/${encodeURIComponent(title)}`);
      this.add([new File([content], title, { type: "audio/wav" })]);
    } catch {
      byId("alert").textContent = "The example could not be loaded; check the network.";
    }
  }

  /** @private */
  async toggleMicrophone() {
    const button = byId("record");
    byId("alert").textContent = "";
    if (this.microphone) {
      const { microphone } = this;
      this.microphone = null;
      button.textContent = "Record";
      button.setAttribute("aria-pressed", "false");
      this.add([await microphone.stop(`microphone ${++this.microphoneCount}.wav`)]);
      return;
    }
    try {
      this.microphone = await MicrophoneRecording.start((seconds) => {
        if (!this.microphone) return;
        button.textContent = `Stop (${Math.floor(seconds)} s)`;
        if (seconds >= 60 * this.constants.limits.MAX_MINUTES) this.toggleMicrophone();
      });
      button.setAttribute("aria-pressed", "true");
    } catch (error) {
      byId("alert").textContent = `${/** @type {Error} */ (error).message}.`;
    }
  }

  /**
   * Puts recordings into the list, shows the first of them, and has them answered one after the other.
   * @param {File[]} files
   */
  add(files) {
    if (!files.length) return;
    const added = files.map((file) => this.makeEntry(file));
    this.entries.push(...added);
    byId("list").hidden = false;
    this.show(added[0]);
    this.work();
  }

  /**
   * @private
   * @param {File} file
   * @returns {Entry}
   */
  makeEntry(file) {
    const name = shownName(file.name, this.constants.recordings);
    const button = element("button", { type: "button", class: "lung-entry" }, name);
    const status = element("span", { class: "lung-hint" }, "waiting");
    byId("recordings").append(element("li", {}, button, status));
    /** @type {Entry} */
    const entry = { file, name, result: null, error: null, progress: { done: 0, all: 0 }, button, status };
    button.addEventListener("click", () => this.show(entry));
    return entry;
  }

  /** @private */
  async work() {
    // Asked after the wait, at whose end all calls go on.
    if (!(await this.loaded) || this.isWorking) return;
    this.isWorking = true;
    for (let entry; (entry = this.entries.find(({ result, error }) => !result && !error)); ) {
      await this.classify(entry);
      if (entry === this.shown) this.show(entry);
    }
    this.isWorking = false;
    this.offerAll();
  }

  /**
   * @private
   * @param {Entry} entry
   */
  async classify(entry) {
    entry.status.textContent = "reading";
    try {
      entry.result = await this.analyser.classify(entry.file, entry.name, (done, all) => {
        entry.progress = { done, all };
        entry.status.textContent = `${done} of ${all} windows`;
        if (entry === this.shown) this.showProgress(entry);
      });
      entry.status.textContent = headline(entry.result, this.constants);
    } catch (error) {
      if (!(error instanceof InputError)) console.error(error);
      entry.error = error instanceof InputError ? error : BUG;
      entry.status.textContent = `No answer: ${entry.error.problem}`;
    }
    // Screen readers announce it.
    byId("status").textContent = `${entry.name}: ${entry.status.textContent}`;
  }

  /** Tables of all answers, where there are several. @private */
  offerAll() {
    const results = this.entries.flatMap(({ result }) => result ?? []);
    const links = results.length > 1 ? downloadLinks(results, "lung_sounds_all", "All:", this.constants) : [];
    byId("all").replaceChildren(...links);
  }

  /**
   * @private
   * @param {Entry} entry
   */
  show(entry) {
    this.player.stop();
    this.shown = entry;
    this.plot = null;
    for (const { button } of this.entries) button.removeAttribute("aria-current");
    entry.button.setAttribute("aria-current", "true");
    if (entry.error) byId("answer").replaceChildren(errorElement(entry.name, entry.error));
    else if (!entry.result) this.showProgress(entry);
    else {
      byId("answer").replaceChildren(answerElement(entry.result, this.constants));
      this.draw(entry, entry.result);
    }
  }

  /**
   * @private
   * @param {Entry} entry
   */
  showProgress({ name, progress }) {
    const bar = element("progress", { "aria-label": "Windows that are classified", max: progress.all || 1 });
    if (progress.all) bar.setAttribute("value", String(progress.done));
    const section = element("section", { class: "lung-empty" }, element("h2", {}, "Listening …"));
    section.append(element("p", { class: "lung-file" }, name), bar);
    byId("answer").replaceChildren(section);
  }

  /**
   * @private
   * @param {Entry} entry
   * @param {import("./pipeline.js").RecordingResult} result
   */
  async draw(entry, result) {
    const figure = /** @type {HTMLElement} */ (document.querySelector(".lung-plot"));
    try {
      const picture = await this.analyser.draw(entry.file);
      if (!figure.isConnected) return;
      const { plots, features, audio } = this.constants;
      const colours = {
        spectrogram: this.settings.colors,
        constants: { ...plots, LOWEST_FREQUENCY: features.LOWEST_FREQUENCY, SAMPLING_RATE: audio.SAMPLING_RATE },
      };
      const play = (/** @type {number} */ seconds) => {
        this.player.play(picture.waveform, picture.samplingRate, seconds);
        plot.show(seconds);
      };
      const toggle = () => (this.player.isPlaying ? this.player.stop() : play(plot.place));
      const plot = new Plot(result, picture, colours, plotText(result), { play, toggle });
      this.plot = plot;
      figure.replaceChildren(plot.scroll, this.legend(plot, toggle));
    } catch (error) {
      console.error(error);
      figure.replaceChildren("The plot could not be drawn; the file may have been moved.");
    }
  }

  /**
   * @private
   * @param {Plot} plot
   * @param {() => void} toggle
   */
  legend(plot, toggle) {
    const colours = Object.entries(this.constants.plots.CLASS_COLORS).map(([name, colour]) => {
      const swatch = element("span", { class: "lung-swatch" });
      swatch.style.background = String(colour);
      return element("span", { class: "lung-key" }, swatch, name);
    });
    const buttons = [
      ["Play or stop", toggle],
      ["Zoom in", () => plot.zoomIn()],
      ["Zoom out", () => plot.zoomOut()],
    ].map(([text, action]) => {
      const button = element("button", { type: "button" }, /** @type {string} */ (text));
      button.addEventListener("click", /** @type {() => void} */ (action));
      return button;
    });
    const unsure = element("span", { class: "lung-key" }, "pale: unsure");
    return element("figcaption", { class: "lung-buttons" }, ...colours, unsure, ...buttons);
  }
}

/** The rule that the browser enforces, and what the page has loaded so far. */
function showProof() {
  const rule = document.querySelector("meta[http-equiv]")?.getAttribute("content") ?? "";
  byId("policy").textContent = rule;
  const loaded = performance.getEntriesByType("resource").map(({ name }) => new URL(name));
  const others = loaded.filter(({ origin, protocol }) => origin !== location.origin && protocol !== "blob:");
  byId("loaded").textContent =
    `So far this page has loaded ${loaded.length} files from ${location.origin} and ${others.length} from elsewhere.`;
}

async function main() {
  if (typeof WebAssembly === "undefined") {
    byId("status").textContent = "";
    byId("alert").textContent =
      "This browser does not run WebAssembly, which the model needs; allow it in its settings, or use another one.";
    return;
  }
  try {
    const settings = JSON.parse(new TextDecoder().decode(await fetchChecked("settings.json")));
    new Page(settings).start();
  } catch (error) {
    byId("status").textContent = "";
    byId("alert").textContent = `${/** @type {Error} */ (error).message}.`;
  }
}

main();
