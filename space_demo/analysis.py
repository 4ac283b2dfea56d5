"""Classifies an upload and writes the answer: summary, figure, quality, windows and the CSV file to download."""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from modeling_lung_srad import LungSoundPipeline
from modeling_lung_srad.configuration_lung_srad import CLASS_NAMES
from modeling_lung_srad.errors import InputError
from modeling_lung_srad.files.plots import CLASS_COLORS, plot_recording
from modeling_lung_srad.files.result_formats import csv_text, json_text
from modeling_lung_srad.timeline import QualityReport, RecordingResult, Segment, Summary, why_no_answer
from space_demo.parts import choices
from space_demo.recordings import load_upload

# Ten minutes at this hop are 1200 windows, a minute's work.
SHORTEST_HOP_SECONDS = 0.5
MOST_SPANS = 4
# A plot of minutes scrolls sideways.
LONGEST_INCHES = 60
HEADLINES = {
    "normal": "The model found no crackles or wheezes",
    "crackle": "The model found crackles",
    "wheeze": "The model found wheezes",
    "both": "The model found crackles and wheezes",
}


def analyse(
    path: str | None, folder: Path, lung_sounds: LungSoundPipeline, window: float, hop: float, min_confidence: float
) -> str:
    """
    Classifies an upload in the private folder, with window and hop in seconds; returns the answer as HTML.

    Raises:
        InputError: for a recording that cannot be used;
            for settings that do not fit.
    """
    if hop < SHORTEST_HOP_SECONDS:
        raise InputError("hop", f"{hop:g} s is too short for this page", f"give at least {SHORTEST_HOP_SECONDS:g} s")
    recording = load_upload(path, folder)
    result = lung_sounds(recording, window=window, hop=min(hop, window), min_confidence=min_confidence)
    untitled = result.copy()
    untitled["file"] = None
    figure = plot_recording(recording.waveform, untitled, recording.sampling_rate, LONGEST_INCHES)
    return answer_html(result, player_html(figure, result))


def answer_html(result: RecordingResult, figure: str) -> str:
    """The answer as HTML, with the HTML of its figure; the name of the file is escaped."""
    reason = why_no_answer(result["timeline"])
    headline = HEADLINES[result["summary"]["label"] or "normal"] if reason is None else f"No answer: {reason}"
    return f"""
<section class="lung-answer">
  <h2>{headline}</h2>
  <p class="lung-file">{html.escape(result["file"] or "")}</p>
  <p>{" ".join(summary_sentences(result))}</p>
  {_shares_html(result["summary"], reason is not None)}
  <figure>{figure}</figure>
  <h3>Quality of the recording</h3>
  {_quality_html(result["quality"])}
  <h3>Windows</h3>
  {_table_html(result["timeline"])}
  <p>{_download("windows as CSV", "lung_sounds.csv", "text/csv", "".join(csv_text([result])))}
  {_download("answer as JSON", "lung_sounds.json", "application/json", "".join(json_text([result])))}
  <a class="lung-download" id="lung-plot-link" download="lung_sounds.webp" href="#">Download the plot</a></p>
  <p class="lung-part"><label for="lung-part">Window to explain</label> {_parts_html(result)}</p>
</section>"""


def summary_sentences(result: RecordingResult) -> Iterable[str]:
    """The summary in words."""
    summary = result["summary"]
    no_answer = why_no_answer(result["timeline"]) is not None
    yield f"Recording of {result['duration']:.1f} s at {result['sampling_rate'] / 1000:g} kHz."
    if no_answer:
        return
    yield (
        f"Where the model is sure enough, crackles are more likely than not in {summary['crackle_share']:.0%} of the "
        f"recording, wheezes in {summary['wheeze_share']:.0%}."
    )
    if summary["abstained_share"] > 0:
        yield f"It is unsure in {summary['abstained_share']:.0%}, for lack of confidence or of sound."
    if summary["strongest"]:
        strongest = summary["strongest"][0]
        yield (
            f"The strongest part is a {strongest['label']} from {strongest['start']:.1f} to {strongest['end']:.1f} s."
        )
    if not result["calibrated"]:
        yield "The probabilities of this model are not calibrated."


def figure_text(result: RecordingResult) -> str:
    """A description of the figure for those who do not see it."""
    classes = ", ".join(dict.fromkeys(segment["label"] for segment in result["timeline"]))
    return (
        f"Mel spectrogram of the {result['duration']:.1f} s, up to 8 kHz. Below it, over the same time: the most "
        f"probable class ({classes}), quality flags, and the probabilities of the four classes as a ribbon. "
        "The table of windows has the same figures."
    )


def image_html(figure: Figure, alternative: str) -> str:
    """An `img` element that holds the figure, so that no file is written; `alternative` describes it in words."""
    buffer = io.BytesIO()
    # A tenth of the size of a png.
    figure.savefig(buffer, format="webp", pil_kwargs={"quality": 90, "method": 2})
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img class="lung-figure" alt="{html.escape(alternative)}" src="data:image/webp;base64,{data}">'


def player_html(figure: Figure, result: RecordingResult) -> str:
    """The figure with the places of its time axis; the script of the page plays the recording from where it is
    clicked."""
    image = image_html(figure, figure_text(result))
    # Drawn by now, so the layout is settled.
    place = figure.axes[0].get_position()
    return f"""<div class="lung-scroll"><div class="lung-player" role="slider" tabindex="0" aria-label="Place in the
      recording: click, or use the arrow keys, to play from there; space stops" aria-valuemin="0" aria-valuenow="0"
      aria-valuemax="{result["duration"]:.2f}" aria-valuetext="0.0 s" style="--seconds: {result["duration"]:.0f}"
      data-left="{place.x0:.5f}" data-right="{place.x1:.5f}">{image}<span class="lung-cursor"></span></div></div>"""


def _download(what: str, name: str, kind: str, text: str) -> str:
    data = base64.b64encode(text.encode("utf-8", errors="backslashreplace")).decode()
    address = f"data:{kind};charset=utf-8;base64,{data}"
    return f'<a class="lung-download" download="{name}" href="{address}">Download the {what}</a>'


def _shares_html(summary: Summary, no_answer: bool) -> str:
    found = (("Crackles", summary["crackle_share"]), ("Wheezes", summary["wheeze_share"]))
    shares = [(name, "–" if no_answer else f"{share:.0%}") for name, share in found]
    shares.append(("Unsure", f"{summary['abstained_share']:.0%}"))
    items = "".join(f"<div><dt>{name}</dt><dd>{share}</dd><dd>of the time</dd></div>" for name, share in shares)
    return f'<dl class="lung-shares">{items}</dl>'


def _parts_html(result: RecordingResult) -> str:
    options = "".join(
        f'<option value="{html.escape(value)}">{html.escape(text)}</option>' for text, value in choices(result)
    )
    return f'<select id="lung-part">{options}</select>'


def _quality_html(quality: Sequence[QualityReport]) -> str:
    if not quality:
        return "<p>Nothing wrong was found.</p>"
    items = "".join(
        f"<li><strong>{html.escape(_flag_name(flag['flag']))}</strong>{_spans(flag['spans'])}: "
        f"{html.escape(flag['message'])}</li>"
        for flag in quality
    )
    return f'<ul class="lung-flags">{items}</ul>'


def _flag_name(flag: str) -> str:
    return flag.replace("_", " ").capitalize()


def _spans(spans: Sequence[Sequence[float]]) -> str:
    if not spans:
        return ""
    joined: list[list[float]] = []
    for start, end in sorted(map(tuple, spans)):
        if joined and start <= joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], end)
        else:
            joined.append([start, end])
    shown = ", ".join(f"{start:.1f}–{end:.1f} s" for start, end in joined[:MOST_SPANS])
    return f" ({shown}{', …' if len(joined) > MOST_SPANS else ''})"


def _table_html(timeline: Sequence[Segment]) -> str:
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Time (s)", "Class", *CLASS_NAMES, "Notes"))
    rows = "".join(_row_html(segment) for segment in timeline)
    return (
        '<div class="lung-table" role="region" aria-label="Windows and their probabilities" tabindex="0"><table>'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row_html(segment: Segment) -> str:
    color = CLASS_COLORS[segment["label"]]
    label = f'<span class="lung-swatch" style="background:{color}"></span>{segment["label"]}'
    notes = ["unsure"] if segment["abstained"] else []
    notes += [_flag_name(flag).lower() for flag in segment["flags"]]
    cells = [label, *(f"{segment['probabilities'][name]:.2f}" for name in CLASS_NAMES), html.escape(", ".join(notes))]
    time = f'<th scope="row">{segment["start"]:.1f}–{segment["end"]:.1f}</th>'
    return f"<tr>{time}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
