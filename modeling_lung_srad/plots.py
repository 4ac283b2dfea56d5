"""Plots a classified recording: its log-mel spectrogram, and below it the class probabilities over time."""

import os
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .audio import SAMPLING_RATE
from .classify import ClassifiedCycle, ClassifiedRecording
from .configuration_lung_srad import CLASS_NAMES
from .feature_extraction_lung_srad import FRAME_SECONDS, HOP_SECONDS, LOWEST_FREQUENCY, kaldi_fbank
from .output_files import OutputError, check_output, replaced_when_complete

PLOT_SUFFIXES = (".png", ".svg", ".pdf")
# The hues stay apart for all common kinds of colour blindness, and the lightness falls from class to class.
CLASS_COLORS = {"normal": "#d4d9dd", "crackle": "#e69f00", "wheeze": "#0072b2", "both": "#5b1a4f"}
NUM_MEL_BINS = 128
FREQUENCY_TICKS = (100, 250, 500, 1000, 2000, 4000, 8000)
DECIBELS_PER_NATURAL_LOGARITHM = 10 / np.log(10)
CHUNK_SECONDS = 60
LONGEST_TITLE = 90


def plot_recording(waveform: np.ndarray, recording: ClassifiedRecording, sampling_rate: int = SAMPLING_RATE) -> Figure:
    """
    Draws one recording. Where windows overlap, the mean of their probabilities is shown.

    Args:
        waveform (`np.ndarray`): the whole recording, shape `(samples,)`.
        recording ([`ClassifiedRecording`]): its classified cycles or windows.
        sampling_rate (`int`, *optional*, defaults to 16000): rate of `waveform` in Hz.

    Returns:
        `matplotlib.figure.Figure`: with the axes spectrogram, classes and probabilities, and the colour bar.
    """
    is_annotated = any(cycle.reference for cycle in recording.cycles)
    figure = Figure(figsize=(float(np.clip(recording.duration / 3, 10, 16)), 6), dpi=120, layout="constrained")
    spectrogram, classes, probabilities = figure.subplots(
        3, 1, sharex=True, height_ratios=(5, 1 if is_annotated else 0.5, 3)
    )
    _draw_spectrogram(figure, spectrogram, waveform, sampling_rate)
    _draw_classes(classes, recording.cycles, is_annotated)
    _draw_probabilities(probabilities, recording.cycles)
    if is_annotated:
        edges = sorted({edge for cycle in recording.cycles for edge in (cycle.start, cycle.end)})
        whole_height = spectrogram.get_xaxis_transform()
        spectrogram.vlines(edges, 0, 1, transform=whole_height, colors="white", linewidth=0.7, linestyles=":")
    # A file name is no formula, whatever signs it has.
    spectrogram.set_title(_shortened(Path(recording.file).name), parse_math=False)
    probabilities.set_xlim(0, recording.duration)
    probabilities.set_xlabel("Time (s)")
    probabilities.xaxis.set_major_locator(MaxNLocator(nbins=12, steps=[1, 2, 5, 10]))
    handles, labels = probabilities.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(CLASS_NAMES), frameon=False)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike) -> None:
    """Writes a figure in the format that the suffix of `path` names; an existing file is replaced when it is done."""
    with replaced_when_complete(path) as temporary, warnings.catch_warnings():
        # Letters that the font lacks become boxes; that is no reason to warn once for each of them.
        warnings.filterwarnings("ignore", message="Glyph ")
        figure.savefig(temporary, format=Path(path).suffix[1:].lower())


def plot_paths(target: str | os.PathLike, recordings: Sequence[Path]) -> list[Path]:
    """
    Where the plots of recordings go. A folder for them is made.

    Args:
        target (`str` or `os.PathLike`):
            a `.png`, `.svg` or `.pdf` file, to whose name that of each recording is added where there are several;
            or a folder (an existing one, or a name without suffix) for `.png` files named after the recordings.
        recordings (sequence of `Path`): the recordings.

    Returns:
        `list[Path]`: one path a recording, all different.

    Raises:
        OutputError: where the suffix is another one, or the plots cannot be written there.
    """
    path = Path(target)
    if path.is_dir() or not path.suffix:
        check_output(path / "plot.png" if path.is_dir() else path)
        path.mkdir(exist_ok=True)
        return _numbered([path / f"{recording.stem}.png" for recording in recordings])
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise OutputError(f"{path}: plots are written as {', '.join(PLOT_SUFFIXES)}; give one of these suffixes")
    check_output(path)
    if len(recordings) == 1:
        return [path]
    return _numbered([path.with_name(f"{path.stem}_{recording.stem}{path.suffix}") for recording in recordings])


def log_mel_decibels(waveform: np.ndarray, sampling_rate: int) -> np.ndarray:
    """
    Log-mel spectrogram of a whole recording, in pieces of a minute so that long ones fit in memory.

    Args:
        waveform (`np.ndarray`): shape `(samples,)`, at least 25 ms.
        sampling_rate (`int`): its rate in Hz.

    Returns:
        `np.ndarray`: mel energies in dB, shape `(frames, 128)`, 100 frames a second.
    """
    hop, window = round(HOP_SECONDS * sampling_rate), round(FRAME_SECONDS * sampling_rate)
    num_frames = 1 + (len(waveform) - window) // hop
    frames_per_piece = round(CHUNK_SECONDS / HOP_SECONDS)
    pieces = []
    for first in range(0, num_frames, frames_per_piece):
        last = min(first + frames_per_piece, num_frames) - 1
        piece = torch.from_numpy(waveform[first * hop : last * hop + window])
        pieces.append(kaldi_fbank(piece[None], sampling_rate, NUM_MEL_BINS)[0].numpy())
    return np.concatenate(pieces) * DECIBELS_PER_NATURAL_LOGARITHM


def mean_probabilities(cycles: Sequence[ClassifiedCycle]) -> tuple[np.ndarray, np.ndarray]:
    """
    Class probabilities as a step function of time.

    Args:
        cycles (sequence of [`ClassifiedCycle`]): in any order; they may overlap or leave gaps.

    Returns:
        `tuple[np.ndarray, np.ndarray]`: the times of the steps in seconds, shape `(steps + 1,)`, and between each two
        of them the mean of the cycles there, shape `(steps, 4)`; zeros where there is none.

    Example:

    ```python
    >>> cycles = [ClassifiedCycle(0, 2, (1, 0, 0, 0)), ClassifiedCycle(1, 3, (0, 1, 0, 0))]
    >>> mean_probabilities(cycles)[1].tolist()
    [[1.0, 0.0, 0.0, 0.0], [0.5, 0.5, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]]

    ```"""
    times = np.unique([edge for cycle in cycles for edge in (cycle.start, cycle.end)])
    totals = np.zeros((len(times) - 1, len(CLASS_NAMES)))
    counts = np.zeros((len(times) - 1, 1))
    for cycle in cycles:
        covered = slice(np.searchsorted(times, cycle.start), np.searchsorted(times, cycle.end))
        totals[covered] += cycle.probabilities
        counts[covered] += 1
    return times, totals / np.maximum(counts, 1)


def _draw_spectrogram(figure: Figure, axes: Axes, waveform: np.ndarray, sampling_rate: int) -> None:
    decibels = log_mel_decibels(waveform, sampling_rate)
    # Stretches of digital silence would take up the whole colour range.
    audible = decibels[decibels > decibels.min()] if decibels.min() < decibels.max() else decibels
    low, high = np.percentile(audible, (5, 99.8))
    before = (FRAME_SECONDS - HOP_SECONDS) / 2
    times = (before, before + len(decibels) * HOP_SECONDS)
    extent = (*times, _to_mel(LOWEST_FREQUENCY), _to_mel(sampling_rate / 2))
    image = axes.imshow(
        decibels.T, origin="lower", aspect="auto", extent=extent, cmap="magma", vmin=low, vmax=max(high, low + 1)
    )
    figure.colorbar(image, ax=axes, label="Mel energy (dB)", pad=0.01)
    ticks = [frequency for frequency in FREQUENCY_TICKS if frequency <= sampling_rate / 2]
    axes.set_yticks([_to_mel(frequency) for frequency in ticks], [str(frequency) for frequency in ticks])
    axes.set_ylabel("Frequency (Hz, mel scale)")


def _draw_classes(axes: Axes, cycles: Sequence[ClassifiedCycle], is_annotated: bool) -> None:
    times, probabilities = mean_probabilities(cycles)
    rows = ["predicted", "annotated"] if is_annotated else ["predicted"]
    for start, end, values in zip(times[:-1], times[1:], probabilities, strict=True):
        if values.any():
            _draw_class(axes, 0, start, end, CLASS_NAMES[int(values.argmax())])
    for cycle in cycles:
        if cycle.reference:
            _draw_class(axes, 1, cycle.start, cycle.end, cycle.reference)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)


def _draw_class(axes: Axes, row: int, start: float, end: float, name: str) -> None:
    axes.broken_barh([(start, end - start)], (row - 0.4, 0.8), facecolors=CLASS_COLORS[name], edgecolors="white")


def _draw_probabilities(axes: Axes, cycles: Sequence[ClassifiedCycle]) -> None:
    times, probabilities = mean_probabilities(cycles)
    heights = np.concatenate([probabilities, probabilities[-1:]]).T
    axes.stackplot(times, heights, step="post", labels=CLASS_NAMES, colors=list(CLASS_COLORS.values()), linewidth=0)
    axes.set_ylim(0, 1)
    axes.set_ylabel("Probability")


def _to_mel(frequency: float) -> float:
    """The HTK mel scale, as in the features."""
    return 1127 * float(np.log1p(frequency / 700))


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
