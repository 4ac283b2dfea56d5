// @ts-check
/** Draws a recording over its time: spectrogram, classes and flags, probabilities; it scrolls, zooms and is clicked. */

import { element } from "./elements.js";
import { hertzToMel } from "./features.js";
import { fixed } from "./numbers.js";
import { CLASS_NAMES, meanProbabilities } from "./timeline.js";

// In CSS pixels.
const [LEFT, RIGHT, TOP] = [84, 18, 8];
const [SPECTROGRAM_HEIGHT, ROW_HEIGHT, PROBABILITIES_HEIGHT, AXIS_HEIGHT, GAP] = [220, 20, 90, 26, 8];
const [LEAST_PIXELS_PER_SECOND, MOST_PIXELS_PER_SECOND, PIXELS_PER_TICK] = [10, 640, 70];
const ZOOM = 2;
const STEPS = [0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120];
const [ARROW_SECONDS, PAGE_SECONDS] = [1, 10];
const LABEL =
  "Place in the recording: click, or use the arrow keys, to play from there; space stops; plus and minus zoom";

/**
 * @typedef {import("./pipeline.js").RecordingResult} RecordingResult
 * @typedef {import("./picture.js").Picture} Picture
 *
 * @typedef {object} Colours
 * @property {string[]} spectrogram 256 from dark to bright
 * @property {import("./features.js").Constants} constants of `plots.py`
 */

export class Plot {
  /**
   * @param {RecordingResult} result
   * @param {Picture} picture
   * @param {Colours} colours
   * @param {string} description for those who do not see it
   * @param {{play: (seconds: number) => void, toggle: () => void}} player
   */
  constructor(result, picture, colours, description, player) {
    this.result = result;
    this.colours = colours;
    this.player = player;
    this.image = makeImage(picture, colours.spectrogram);
    this.rows = result.quality.filter(({ spans }) => spans.length);
    this.answered = meanProbabilities(result.timeline.filter(({ abstained }) => !abstained));
    this.unsure = meanProbabilities(result.timeline.filter(({ abstained }) => abstained));
    this.all = meanProbabilities(result.timeline);
    this.place = 0;
    this.pixelsPerSecond = 0;
    this.canvas = /** @type {HTMLCanvasElement} */ (element("canvas", { role: "img", "aria-label": description }));
    this.cursor = element("span", { class: "lung-cursor", hidden: true });
    this.window = element("div", { class: "lung-window" }, this.canvas, this.cursor);
    this.slider = element("div", {
      class: "lung-player",
      role: "slider",
      tabindex: 0,
      "aria-label": LABEL,
      "aria-valuemin": 0,
      "aria-valuemax": result.duration.toFixed(2),
      "aria-valuenow": 0,
      "aria-valuetext": "0.0 s",
    });
    this.slider.append(this.window);
    this.scroll = element("div", { class: "lung-scroll" }, this.slider);
    this.listen();
  }

  /** @private */
  listen() {
    this.scroll.addEventListener("scroll", () => this.draw());
    this.slider.addEventListener("click", (event) => {
      this.player.play(this.secondsAt(event.clientX - this.window.getBoundingClientRect().left));
    });
    this.slider.addEventListener("keydown", (event) => this.press(event));
    new ResizeObserver(() => this.layOut()).observe(this.scroll);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => this.draw());
  }

  /**
   * @private
   * @param {KeyboardEvent} event
   */
  press(event) {
    /** @type {Record<string, number>} */
    const steps = { ArrowLeft: -ARROW_SECONDS, ArrowRight: ARROW_SECONDS, PageDown: -PAGE_SECONDS, PageUp: PAGE_SECONDS };
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key in steps) this.player.play(this.clamped(this.place + steps[event.key]));
    else if (event.key === "Home") this.player.play(0);
    else if (event.key === " ") this.player.toggle();
    else if (event.key === "+" || event.key === "=") this.zoom(ZOOM);
    else if (event.key === "-") this.zoom(1 / ZOOM);
    else return;
    event.preventDefault();
  }

  /** Stretches the time by 2. */
  zoomIn() {
    this.zoom(ZOOM);
  }

  /** Compresses the time by 2, at most until all of it is seen. */
  zoomOut() {
    this.zoom(1 / ZOOM);
  }

  /**
   * @private
   * @param {number} factor
   */
  zoom(factor) {
    const middle = this.secondsAt(this.scroll.clientWidth / 2);
    this.setScale(this.pixelsPerSecond * factor);
    this.scroll.scrollLeft = LEFT + middle * this.pixelsPerSecond - this.scroll.clientWidth / 2;
    this.draw();
  }

  /**
   * @private
   * @param {number} pixelsPerSecond wanted
   */
  setScale(pixelsPerSecond) {
    const whole = (this.scroll.clientWidth - LEFT - RIGHT) / this.result.duration;
    this.pixelsPerSecond = Math.max(whole, Math.min(pixelsPerSecond, MOST_PIXELS_PER_SECOND));
    this.slider.style.width = `${Math.floor(LEFT + RIGHT + this.result.duration * this.pixelsPerSecond)}px`;
  }

  /** @private */
  layOut() {
    if (!this.scroll.clientWidth) return;
    this.setScale(this.pixelsPerSecond || LEAST_PIXELS_PER_SECOND);
    this.window.style.width = `${this.scroll.clientWidth}px`;
    this.draw();
  }

  /**
   * Moves the cursor, and what is seen with it.
   * @param {number} seconds
   */
  show(seconds) {
    this.place = this.clamped(seconds);
    this.slider.setAttribute("aria-valuenow", this.place.toFixed(2));
    this.slider.setAttribute("aria-valuetext", `${this.place.toFixed(1)} s`);
    const seen = this.x(this.place);
    if (seen > this.scroll.clientWidth - RIGHT || seen < LEFT) {
      this.scroll.scrollLeft = this.place * this.pixelsPerSecond;
    }
    this.moveCursor();
  }

  /** @private */
  moveCursor() {
    const seen = this.x(this.place);
    this.cursor.style.left = `${seen}px`;
    this.cursor.hidden = this.place === 0 || seen < LEFT;
  }

  /**
   * @private
   * @param {number} seconds
   */
  clamped(seconds) {
    return Math.min(Math.max(seconds, 0), this.result.duration);
  }

  /**
   * Place in the window, in pixels, of a time.
   * @private
   * @param {number} seconds
   */
  x(seconds) {
    return LEFT + seconds * this.pixelsPerSecond - this.scroll.scrollLeft;
  }

  /**
   * @private
   * @param {number} x in pixels from the left of the window
   */
  secondsAt(x) {
    return this.clamped((x - LEFT + this.scroll.scrollLeft) / this.pixelsPerSecond);
  }

  /** @private */
  draw() {
    const height =
      TOP + SPECTROGRAM_HEIGHT + PROBABILITIES_HEIGHT + ROW_HEIGHT * (1 + this.rows.length) + 2 * GAP + AXIS_HEIGHT;
    const width = this.scroll.clientWidth;
    const ratio = devicePixelRatio;
    this.canvas.width = width * ratio;
    this.canvas.height = height * ratio;
    this.canvas.style.height = `${height}px`;
    const context = /** @type {CanvasRenderingContext2D} */ (this.canvas.getContext("2d"));
    context.scale(ratio, ratio);
    context.font = "12px system-ui, sans-serif";
    context.fillStyle = getComputedStyle(this.slider).color;
    context.textBaseline = "middle";
    const rowsTop = TOP + SPECTROGRAM_HEIGHT + GAP;
    const probabilitiesTop = rowsTop + ROW_HEIGHT * (1 + this.rows.length) + GAP;
    this.drawLabels(context, rowsTop, probabilitiesTop);
    context.save();
    context.beginPath();
    context.rect(LEFT, 0, width - LEFT - RIGHT, height - AXIS_HEIGHT);
    context.clip();
    context.drawImage(this.image, this.x(0), TOP, this.result.duration * this.pixelsPerSecond, SPECTROGRAM_HEIGHT);
    this.drawRows(context, rowsTop);
    this.drawProbabilities(context, probabilitiesTop);
    context.restore();
    this.drawTimes(context, probabilitiesTop + PROBABILITIES_HEIGHT);
    this.moveCursor();
  }

  /**
   * @private
   * @param {CanvasRenderingContext2D} context
   * @param {number} rowsTop
   * @param {number} probabilitiesTop
   */
  drawLabels(context, rowsTop, probabilitiesTop) {
    context.textAlign = "right";
    const { FREQUENCY_TICKS, LOWEST_FREQUENCY, SAMPLING_RATE } = this.colours.constants;
    const [low, high] = [hertzToMel(LOWEST_FREQUENCY), hertzToMel(SAMPLING_RATE / 2)];
    for (const frequency of FREQUENCY_TICKS) {
      const share = (hertzToMel(frequency) - low) / (high - low);
      context.fillText(`${frequency} Hz`, LEFT - 6, TOP + Math.max(6, SPECTROGRAM_HEIGHT * (1 - share)));
    }
    const names = ["predicted", ...this.rows.map(({ flag }) => flag.replaceAll("_", " "))];
    names.forEach((name, row) => context.fillText(name, LEFT - 6, rowsTop + ROW_HEIGHT * (row + 0.5)));
    context.fillText("probability", LEFT - 6, probabilitiesTop + PROBABILITIES_HEIGHT / 2);
  }

  /**
   * The most probable class at each time by the windows that were answered; elsewhere by the others, pale.
   * @private
   * @param {CanvasRenderingContext2D} context
   * @param {number} top
   */
  drawRows(context, top) {
    const { CLASS_COLORS, FLAG_COLOR } = this.colours.constants;
    const bar = (/** @type {number} */ row, /** @type {number} */ start, /** @type {number} */ end) =>
      context.fillRect(this.x(start), top + ROW_HEIGHT * row + 2, (end - start) * this.pixelsPerSecond, ROW_HEIGHT - 4);
    for (const [{ times, probabilities }, opacity] of /** @type {const} */ ([[this.unsure, 0.35], [this.answered, 1]])) {
      context.globalAlpha = opacity;
      probabilities.forEach((row, index) => {
        if (row.every((value) => value === 0)) return;
        context.fillStyle = CLASS_COLORS[CLASS_NAMES[row.indexOf(Math.max(...row))]];
        bar(0, times[index], times[index + 1]);
      });
    }
    context.globalAlpha = 1;
    context.fillStyle = FLAG_COLOR;
    this.rows.forEach(({ spans }, row) => spans.forEach(([start, end]) => bar(1 + row, start, end)));
  }

  /**
   * @private
   * @param {CanvasRenderingContext2D} context
   * @param {number} top
   */
  drawProbabilities(context, top) {
    const { times, probabilities } = this.all;
    probabilities.forEach((row, index) => {
      let bottom = top + PROBABILITIES_HEIGHT;
      row.forEach((value, place) => {
        context.fillStyle = this.colours.constants.CLASS_COLORS[CLASS_NAMES[place]];
        const height = value * PROBABILITIES_HEIGHT;
        const width = (times[index + 1] - times[index]) * this.pixelsPerSecond;
        // Half a pixel more, or the page shines through between two steps.
        context.fillRect(this.x(times[index]), bottom - height, width + 0.5, height);
        bottom -= height;
      });
    });
  }

  /**
   * @private
   * @param {CanvasRenderingContext2D} context
   * @param {number} top
   */
  drawTimes(context, top) {
    context.textAlign = "center";
    context.fillStyle = getComputedStyle(this.slider).color;
    const step = STEPS.find((seconds) => seconds * this.pixelsPerSecond >= PIXELS_PER_TICK) ?? 300;
    const first = Math.ceil(this.secondsAt(LEFT) / step);
    const last = Math.floor(this.secondsAt(this.scroll.clientWidth - RIGHT) / step);
    const digits = step >= 1 ? 0 : step >= 0.1 ? 1 : 2;
    for (let tick = first; tick <= last; tick++) {
      const place = this.x(tick * step);
      context.fillRect(place, top, 1, 5);
      context.fillText(`${fixed(tick * step, digits)} s`, place, top + 15);
    }
  }
}

/**
 * @param {Picture} picture
 * @param {string[]} colours 256, as #rrggbb
 */
function makeImage({ columns, bins, levels }, colours) {
  const image = new ImageData(columns, bins);
  const bytes = colours.map((colour) => [1, 3, 5].map((place) => parseInt(colour.slice(place, place + 2), 16)));
  for (let column = 0; column < columns; column++) {
    for (let bin = 0; bin < bins; bin++) {
      const pixel = 4 * ((bins - 1 - bin) * columns + column);
      image.data.set(bytes[levels[column * bins + bin]], pixel);
      image.data[pixel + 3] = 255;
    }
  }
  const canvas = new OffscreenCanvas(columns, bins);
  /** @type {OffscreenCanvasRenderingContext2D} */ (canvas.getContext("2d")).putImageData(image, 0, 0);
  return canvas;
}
