// @ts-check
/** The answer for one recording as elements: summary, plot, quality, windows and downloads. */

import { element } from "./elements.js";
import { fixed, percent } from "./numbers.js";
import { csvText, jsonText } from "./tables.js";
import { flagName, headline, spansText, summarySentences } from "./texts.js";
import { CLASS_NAMES, whyNoAnswer } from "./timeline.js";

/**
 * @typedef {import("./pipeline.js").RecordingResult} RecordingResult
 * @typedef {import("./texts.js").ConstantsByModule} ConstantsByModule
 */

/**
 * @param {RecordingResult} result
 * @param {ConstantsByModule} constants
 * @returns {HTMLElement} with an empty `.lung-plot` for the plot
 */
export function answerElement(result, constants) {
  return element(
    "section",
    { class: "lung-answer" },
    element("h2", {}, headline(result, constants)),
    element("p", { class: "lung-file" }, result.file),
    element("p", {}, summarySentences(result, constants).join(" ")),
    sharesElement(result, constants),
    element("figure", { class: "lung-plot" }, "Drawing …"),
    element("h3", {}, "Quality of the recording"),
    qualityElement(result, constants),
    element("h3", {}, "Windows"),
    tableElement(result, constants),
    element("p", { class: "lung-buttons" }, ...downloadLinks([result], "lung_sounds", "Download the", constants)),
  );
}

/**
 * Why a recording has no answer, in the words of `texts.py`.
 * @param {string} name
 * @param {{problem: string, remedy: string}} error
 */
export function errorElement(name, { problem, remedy }) {
  return element(
    "section",
    { class: "lung-error" },
    element("h2", {}, "No answer"),
    element("p", {}, `${name}: ${problem}.`),
    element("p", {}, `What helps: ${remedy}.`),
  );
}

/**
 * Links to tables of some results.
 * @param {RecordingResult[]} results
 * @param {string} stem of the file names
 * @param {string} verb
 * @param {ConstantsByModule} constants
 */
export function downloadLinks(results, stem, verb, { formats }) {
  return [
    downloadLink(`${verb} windows as CSV`, `${stem}.csv`, "text/csv", csvText(results, formats)),
    downloadLink(`${verb} answer as JSON`, `${stem}.json`, "application/json", jsonText(results, formats)),
  ];
}

/**
 * @param {string} text
 * @param {string} name of the file
 * @param {string} type
 * @param {string} content
 */
function downloadLink(text, name, type, content) {
  const link = element("a", { class: "lung-button", download: name, href: "#" }, text);
  // The address is made when it is used and freed right after, so that many answers take no memory.
  link.addEventListener("click", () => {
    const address = URL.createObjectURL(new Blob([content], { type: `${type};charset=utf-8` }));
    link.setAttribute("href", address);
    setTimeout(() => URL.revokeObjectURL(address), 10_000);
  });
  return link;
}

/**
 * @param {RecordingResult} result
 * @param {ConstantsByModule} constants
 */
function sharesElement({ summary, timeline }, constants) {
  const isAnswered = whyNoAnswer(timeline, constants.timeline) === null;
  const shares = [
    ["Crackles", isAnswered ? percent(summary.crackle_share) : "–"],
    ["Wheezes", isAnswered ? percent(summary.wheeze_share) : "–"],
    ["Unsure", percent(summary.abstained_share)],
  ];
  return element(
    "dl",
    { class: "lung-shares" },
    ...shares.map(([name, share]) =>
      element("div", {}, element("dt", {}, name), element("dd", {}, share), element("dd", {}, "of the time")),
    ),
  );
}

/**
 * @param {RecordingResult} result
 * @param {ConstantsByModule} constants
 */
function qualityElement({ quality }, { analysis }) {
  if (!quality.length) return element("p", {}, "Nothing wrong was found.");
  return element(
    "ul",
    { class: "lung-flags" },
    ...quality.map(({ flag, message, spans }) =>
      element("li", {}, element("strong", {}, flagName(flag)), `${spansText(spans, analysis.MOST_SPANS)}: ${message}`),
    ),
  );
}

/**
 * @param {RecordingResult} result
 * @param {ConstantsByModule} constants
 */
function tableElement({ timeline }, { plots }) {
  const heads = ["Time (s)", "Class", ...CLASS_NAMES, "Notes"];
  const rows = timeline.map((segment) => {
    const swatch = element("span", { class: "lung-swatch" });
    swatch.style.background = plots.CLASS_COLORS[segment.label];
    const notes = [segment.abstained ? ["unsure"] : [], segment.flags.map((flag) => flag.replaceAll("_", " "))].flat();
    return element(
      "tr",
      {},
      element("th", { scope: "row" }, `${fixed(segment.start, 1)}–${fixed(segment.end, 1)}`),
      element("td", {}, swatch, segment.label),
      ...CLASS_NAMES.map((name) => element("td", {}, fixed(segment.probabilities[name], 2))),
      element("td", {}, notes.join(", ")),
    );
  });
  return element(
    "div",
    { class: "lung-table", role: "region", "aria-label": "Windows and their probabilities", tabindex: 0 },
    element(
      "table",
      {},
      element("thead", {}, element("tr", {}, ...heads.map((name) => element("th", { scope: "col" }, name)))),
      element("tbody", {}, ...rows),
    ),
  );
}
