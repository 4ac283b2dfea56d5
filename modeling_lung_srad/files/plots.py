"""Plots a classified recording: its log-mel spectrogram, and below it classes, quality flags and probabilities."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ..audio import SAMPLING_RATE
from ..configuration_lung_srad import CLASS_NAMES
from ..errors import InputError, printable
from ..feature_extraction_lung_srad import FRAME_SECONDS, HOP_SECONDS, LOWEST_FREQUENCY, hertz_to_mel, kaldi_fbank
from ..timeline import QualityReport, RecordingResult, Segment, mean_probabilities
from .output_files import check_output, replaced_when_complete
from .recording_files import ArchivedRecording

PLOT_SUFFIXES = (".png", ".svg", ".pdf")
# The hues stay apart for all common kinds of colour blindness, and the lightness falls from class to class.
CLASS_COLORS = {"normal": "#d4d9dd", "crackle": "#e69f00", "wheeze": "#0072b2", "both": "#5b1a4f"}
NUM_MEL_BINS = 128
FREQUENCY_TICKS = (100, 250, 500, 1000, 2000, 4000, 8000)
DECIBELS_PER_NATURAL_LOGARITHM = 10 / np.log(10)
CHUNK_SECONDS = 60
MAX_COLUMNS = 8000
MOST_EDGED_BARS = 80
FLAG_COLOR = "#b3261e"
ABSTAINED_HATCH = "////"
LONGEST_TITLE = 90
LONGEST_INCHES = 16


def plot_recording(
    waveform: np.ndarray,
    result: RecordingResult,
    sampling_rate: int = SAMPLING_RATE,
    longest_inches: float = LONGEST_INCHES,
) -> Figure:
    """
    Draws one recording. Where windows overlap, the mean of their probabilities is shown; what the pipeline abstained
    from is hatched.

    Args:
        waveform (`np.ndarray`): the whole recording, shape `(samples,)`.
        result ([`RecordingResult`]): the answer of [`LungSoundPipeline`] for it.
        sampling_rate (`int`, *optional*, defaults to 16000): rate of `waveform` in Hz.
        longest_inches (`float`, *optional*, defaults to 16): width of the plot of a long recording.

    Returns:
        `matplotlib.figure.Figure`: with the axes spectrogram, rows (predicted, annotated, a row for each quality flag
        with times) and probabilities, and the colour bar.
    """
    timeline = result["timeline"]
    is_annotated = any("reference" in segment for segment in timeline)
    flags = [flag for flag in result["quality"] if flag["spans"]]
    num_rows = 1 + is_annotated + len(flags)
    figure = Figure(
        figsize=(float(np.clip(result["duration"] / 3, 10, longest_inches)), 5.5 + 0.25 * num_rows),
        dpi=120,
        layout="constrained",
    )
    spectrogram, rows, probabilities = figure.subplots(3, 1, sharex=True, height_ratios=(5, 0.5 * num_rows, 3))
    _draw_spectrogram(figure, spectrogram, waveform, sampling_rate)
    _draw_rows(rows, timeline, flags, is_annotated)
    _draw_probabilities(probabilities, timeline)
    if is_annotated:
        edges = sorted({edge for segment in timeline for edge in (segment["start"], segment["end"])})
        whole_height = spectrogram.get_xaxis_transform()
        spectrogram.vlines(edges, 0, 1, transform=whole_height, colors="white", linewidth=0.7, linestyles=":")
    # Do not parse `$` in file names as math.
    spectrogram.set_title(_shortened(printable(Path(result["file"] or "").name)), parse_math=False)
    probabilities.set_xlim(0, result["duration"])
    probabilities.set_xlabel("Time (s)")
    probabilities.xaxis.set_major_locator(MaxNLocator(nbins=round(figure.get_figwidth()), steps=[1, 2, 5, 10]))
    handles, labels = probabilities.get_legend_handles_labels()
    if any(segment["abstained"] for segment in timeline):
        handles.append(Patch(facecolor="gray", edgecolor="white", hatch=ABSTAINED_HATCH, alpha=0.4))
        labels.append("unsure")
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Writes a figure in the format that the suffix of `path` names; an existing file is replaced when it is done."""
    with replaced_when_complete(path) as temporary, warnings.catch_warnings():
        # Letters that the font lacks become boxes, without a warning for each.
        warnings.filterwarnings("ignore", message="Glyph ")
        figure.savefig(temporary, format=Path(path).suffix[1:].lower())


def plot_paths(target: str | os.PathLike, recordings: Sequence[Path | ArchivedRecording]) -> list[Path]:
    """
    Where the plots of recordings go. A folder for them is made.

    Args:
        target (`str` or `os.PathLike`):
            a `.png`, `.svg` or `.pdf` file, to whose name that of each recording is added where there are several;
            or a folder (an existing one, or a name without suffix) for `.png` files named after the recordings.
        recordings (sequence of `Path` or [`ArchivedRecording`]): the recordings.

    Returns:
        `list[Path]`: one path a recording, all different.

    Raises:
        InputError: where the suffix is another one, or the plots cannot be written there.
    """
    path = Path(target)
    if path.is_dir() or not path.suffix:
        check_output(path / "plot.png" if path.is_dir() else path)
        path.mkdir(exist_ok=True)
        return _numbered([path / f"{recording.stem}.png" for recording in recordings])
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise InputError(path, f"plots are written as {', '.join(PLOT_SUFFIXES)}", "give one of these suffixes")
    check_output(path)
    if len(recordings) == 1:
        return [path]
    return _numbered([path.with_name(f"{path.stem}_{recording.stem}{path.suffix}") for recording in recordings])


def log_mel_decibels(waveform: np.ndarray, sampling_rate: int, max_columns: int = MAX_COLUMNS) -> np.ndarray:
    """
    Log-mel spectrogram of a whole recording, in pieces of about a minute so that long ones fit in memory.

    Args:
        waveform (`np.ndarray`): shape `(samples,)`, at least 25 ms.
        sampling_rate (`int`): its rate in Hz.
        max_columns (`int`, *optional*, defaults to 8000):
            where there are more frames than this, each column is the largest value of several, so that short sounds
            stay visible.

    Returns:
        `np.ndarray`: mel energies in dB, shape `(columns, 128)`; up to `max_columns`, 100 columns a second.
    """
    hop, window = round(HOP_SECONDS * sampling_rate), round(FRAME_SECONDS * sampling_rate)
    num_frames = 1 + (len(waveform) - window) // hop
    frames_per_column = -(-num_frames // max_columns)
    frames_per_piece = frames_per_column * max(1, round(CHUNK_SECONDS / HOP_SECONDS) // frames_per_column)
    pieces = []
    for first in range(0, num_frames, frames_per_piece):
        last = min(first + frames_per_piece, num_frames) - 1
        piece = torch.from_numpy(waveform[first * hop : last * hop + window])
        log_mel = kaldi_fbank(piece[None], sampling_rate, NUM_MEL_BINS)[0].numpy()
        pieces.append(np.maximum.reduceat(log_mel, range(0, len(log_mel), frames_per_column)))
    return np.concatenate(pieces) * DECIBELS_PER_NATURAL_LOGARITHM


def _draw_spectrogram(figure: Figure, axes: Axes, waveform: np.ndarray, sampling_rate: int) -> None:
    decibels = log_mel_decibels(waveform, sampling_rate)
    # Stretches of digital silence would take up the whole colour range.
    audible = decibels[decibels > decibels.min()] if decibels.min() < decibels.max() else decibels
    low, high = np.percentile(audible, (5, 99.8))
    before = (FRAME_SECONDS - HOP_SECONDS) / 2
    num_frames = 1 + (len(waveform) - round(FRAME_SECONDS * sampling_rate)) // round(HOP_SECONDS * sampling_rate)
    times = (before, before + num_frames * HOP_SECONDS)
    extent = (*times, *hertz_to_mel((LOWEST_FREQUENCY, sampling_rate / 2)).tolist())
    image = axes.imshow(
        decibels.T, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=low, vmax=max(high, low + 1)
    )
    figure.colorbar(image, ax=axes, label="Mel energy (dB)", pad=0.01)
    ticks = [frequency for frequency in FREQUENCY_TICKS if frequency <= sampling_rate / 2]
    axes.set_yticks(hertz_to_mel(ticks), [str(frequency) for frequency in ticks])
    axes.set_ylabel("Frequency (Hz, mel scale)")


def _draw_rows(axes: Axes, timeline: Sequence[Segment], flags: Sequence[QualityReport], is_annotated: bool) -> None:
    rows = ["predicted"] + ["annotated"] * is_annotated + [flag["flag"].replace("_", " ") for flag in flags]
    _draw_predicted(axes, timeline)
    annotated = [segment for segment in timeline if "reference" in segment]
    _draw_bars(axes, 1, [(item["start"], item["end"], CLASS_COLORS[item["reference"]]) for item in annotated])
    for row, flag in enumerate(flags, start=1 + is_annotated):
        _draw_bars(axes, row, [(start, end, FLAG_COLOR) for start, end in flag["spans"]])
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def _draw_predicted(axes: Axes, timeline: Sequence[Segment]) -> None:
    """The most probable class at each time, by the segments that were answered; elsewhere by the others, hatched."""
    answered = [segment for segment in timeline if not segment["abstained"]]
    abstained = [segment for segment in timeline if segment["abstained"]]
    for segments, style in ((abstained, {"hatch": ABSTAINED_HATCH, "alpha": 0.4}), (answered, {})):
        times, probabilities = mean_probabilities(segments)
        steps = zip(times[:-1], times[1:], probabilities, strict=True)
        colors = [
            (start, end, CLASS_COLORS[CLASS_NAMES[int(values.argmax())]])
            for start, end, values in steps
            if values.any()
        ]
        _draw_bars(axes, 0, colors, **style)


def _draw_bars(axes: Axes, row: int, bars: Sequence[tuple[float, float, str]], **style: Any) -> None:
    """Bars of start, end and colour."""
    if not bars:
        return
    spans = [(start, end - start) for start, end, _ in bars]
    # Edges tell a few bars apart; of very many, they would be all that is seen.
    edges = 0.7 if len(bars) <= MOST_EDGED_BARS else 0
    axes.broken_barh(
        spans,
        (row - 0.4, 0.8),
        facecolors=[color for *_, color in bars],
        edgecolors="white",
        linewidth=edges,
        **style,
    )


def _draw_probabilities(axes: Axes, timeline: Sequence[Segment]) -> None:
    times, probabilities = mean_probabilities(timeline)
    heights = np.concatenate([probabilities, probabilities[-1:]]).T
    axes.stackplot(times, heights, step="post", labels=CLASS_NAMES, colors=list(CLASS_COLORS.values()), linewidth=0)
    axes.set_ylim(0, 1)
    axes.set_ylabel("Probability")


def _numbered(paths: Sequence[Path]) -> list[Path]:
    """Recordings of different folders may share a name; the second one gets `_2`, and so on."""
    unique: dict[Path, None] = {}
    for path in paths:
        number, name = 1, path
        while name in unique:
            number += 1
            name = path.with_name(f"{path.stem}_{number}{path.suffix}")
        unique[name] = None
    return list(unique)


def _shortened(name: str) -> str:
    half = LONGEST_TITLE // 2
    return name if len(name) <= LONGEST_TITLE else f"{name[:half]}…{name[-half:]}"
