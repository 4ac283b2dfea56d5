"""Draws spectral responses of layers, their figures over depth, what a position reads, and the regularization."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..feature_extraction_lung_srad import hertz_to_mel
from ..files.plots import FREQUENCY_TICKS
from .layers import MixingLayer
from .profile import LayerProfile, spread

# Apart for all common kinds of colour blindness.
COLORS = ("#0072b2", "#e69f00", "#5b1a4f", "#009e73", "#d55e00", "#56b4e9")
MARK_COLOR = "#d55e00"
DPI = 110
LOWEST_DECIBELS = -80
DEPTH_PANELS = {
    "zero_share": "Share at frequency 0",
    "high_share": "Share above half Nyquist",
    "cutoff": "-3 dB point (cycles per patch)",
    "high_to_low": "High-to-low ratio",
}
VARIANTS = {
    "without": ("convolution off in the whole network", "#888888"),
    "scan_alone": ("on, scan alone", "#e69f00"),
    "with": ("on, scan and convolution", "#0072b2"),
}


class AttentionMap(NamedTuple):
    """
    What one position of the grid reads in one layer.

    Args:
        model (`str`): name of the model.
        layer ([`MixingLayer`]): which layer.
        row, column (`int`): the position.
        weights (`np.ndarray` of shape `(mel, time)`): of all positions.
    """

    model: str
    layer: MixingLayer
    row: int
    column: int
    weights: np.ndarray


def plot_responses(profiles: Mapping[str, Sequence[LayerProfile]]) -> Figure:
    """
    Response curves, a column a model: above as published (min-max normalised, mirrored), below in decibels of the
    largest magnitude. Bands are the standard deviation over recordings.

    Args:
        profiles (mapping of `str` to sequence of [`LayerProfile`]): for each model the layers to draw.

    Returns:
        `matplotlib.figure.Figure`
    """
    figure = Figure(figsize=(5.5 * len(profiles) + 0.5, 7), dpi=DPI, layout="constrained")
    axes = figure.subplots(2, len(profiles), sharex=True, sharey="row", squeeze=False)
    for (above, below), (name, layers) in zip(axes.T, profiles.items(), strict=True):
        for number, profile in enumerate(layers):
            color, label = COLORS[number % len(COLORS)], str(profile.layer)
            _draw_band(above, *_mirrored(profile.frequency, profile.normalized), color, label)
            _draw_band(below, *_mirrored(profile.frequency, _decibels(profile.relative)), color, label)
        above.set_title(name, parse_math=False)
        above.legend(frameon=False)
        below.set_xlabel("Frequency (cycles per patch, row-major)")
    axes[0, 0].set_ylabel("Magnitude (min-max normalised)")
    axes[1, 0].set_ylabel("Magnitude (dB of the largest)")
    return figure


def plot_depth(profiles: Mapping[str, Sequence[LayerProfile]]) -> Figure:
    """
    Figures of all layers over depth, from the first (0) to the last (1) layer of each model. Bars are the standard
    deviation over recordings.

    Args:
        profiles (mapping of `str` to sequence of [`LayerProfile`]): for each model all layers, in order.

    Returns:
        `matplotlib.figure.Figure`
    """
    figure = Figure(figsize=(11, 7), dpi=DPI, layout="constrained")
    panels = figure.subplots(2, 2, sharex=True)
    for axes, (key, title) in zip(panels.flat, DEPTH_PANELS.items(), strict=True):
        for number, (name, layers) in enumerate(profiles.items()):
            depth = np.linspace(0, 1, len(layers)) if len(layers) > 1 else np.zeros(1)
            values = [profile.figures[key] for profile in layers]
            axes.errorbar(
                depth,
                [value.mean() for value in values],
                yerr=None if len(values[0]) < 2 else [value.std(ddof=1) for value in values],
                color=COLORS[number % len(COLORS)],
                marker="o",
                markersize=4,
                capsize=2,
                label=_plain(name),
            )
            _mark_stages(axes, layers, depth, COLORS[number % len(COLORS)])
        axes.set_title(title)
        axes.set_ylim(bottom=0)
    for axes in panels[1]:
        axes.set_xlabel("Depth (0 first layer, 1 last layer)")
    panels[0, 0].legend(frameon=False)
    return figure


def plot_attention_maps(
    maps: Sequence[AttentionMap], log_mel: np.ndarray, seconds: float, frequencies: tuple[float, float], title: str
) -> Figure:
    """
    The window that the network saw, and below it, on the same axes, what one position of it reads in each layer.

    Args:
        maps (sequence of [`AttentionMap`]): one panel each.
        log_mel (`np.ndarray` of shape `(frames, mel_bins)`): the input of the network.
        seconds (`float`): its duration.
        frequencies (`tuple[float, float]`): edges of its mel bins, in Hz.
        title (`str`): of the figure.

    Returns:
        `matplotlib.figure.Figure`
    """
    figure = Figure(figsize=(9, 2.1 * (1 + len(maps))), dpi=DPI, layout="constrained")
    panels = figure.subplots(1 + len(maps), 1, sharex=True, squeeze=False)[:, 0]
    extent = (0.0, seconds, 0.0, 1.0)
    panels[0].imshow(log_mel.T, origin="lower", aspect="auto", extent=extent, cmap="magma")
    panels[0].set_title(title, parse_math=False)
    for axes, found in zip(panels[1:], maps, strict=True):
        # Values of both signs are drawn around zero; attention, never negative, over its own range.
        limit = np.abs(found.weights).max() or 1.0
        colors = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit} if found.weights.min() < 0 else {"cmap": "viridis"}
        image = axes.imshow(found.weights, origin="lower", aspect="auto", extent=extent, **colors)
        figure.colorbar(image, ax=axes, pad=0.01)
        axes.set_title(f"{found.model}, {found.layer}", parse_math=False, fontsize="medium")
    ticks = [frequency for frequency in FREQUENCY_TICKS if frequencies[0] <= frequency <= frequencies[1]]
    for axes, found in zip(panels, [maps[0], *maps], strict=True):
        rows, columns = found.weights.shape
        axes.plot((found.column + 0.5) / columns * seconds, (found.row + 0.5) / rows, "x", color=MARK_COLOR)
        axes.set_yticks([mel_share(frequency, frequencies) for frequency in ticks], [str(x) for x in ticks])
        axes.set_ylabel("Hz")
    panels[-1].set_xlabel("Time in the input (s)")
    return figure


def plot_regularization(variants: Mapping[str, Sequence[LayerProfile]]) -> Figure:
    """
    Responses with and without the Gaussian convolution, a panel a stage: the mean of its blocks.

    Args:
        variants (mapping of `str` to sequence of [`LayerProfile`]): for each key of `VARIANTS` the layers, in order.

    Returns:
        `matplotlib.figure.Figure`
    """
    stages = sorted({profile.layer.stage or 0 for profile in variants["with"]})
    figure = Figure(figsize=(11, 3.5 * -(-len(stages) // 2)), dpi=DPI, layout="constrained")
    panels = figure.subplots(-(-len(stages) // 2), 2, squeeze=False)
    for axes, stage in zip(panels.flat, stages, strict=False):
        for name, layers in variants.items():
            of_stage = [profile for profile in layers if profile.layer.stage == stage]
            if not of_stage:
                continue
            label, color = VARIANTS[name]
            curves = np.mean([_decibels(profile.relative) for profile in of_stage], axis=0)
            _draw_band(axes, of_stage[0].frequency, curves, color, label)
        blocks = sum(profile.layer.stage == stage for profile in variants["with"])
        axes.set_title(f"stage {stage}, mean of {blocks} blocks" if blocks > 1 else f"stage {stage}, its block")
        axes.set_xlabel("Frequency (cycles per patch, row-major)")
        axes.set_ylabel("dB of the largest")
    for axes in list(panels.flat)[len(stages) :]:
        axes.set_visible(False)
    most_curves = max(panels.flat, key=lambda axes: len(axes.lines))
    figure.legend(*most_curves.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    return figure


def mel_share(frequency: float, frequencies: tuple[float, float]) -> float:
    """
    Where a frequency in Hz lies on the mel axis of features with these edges, from 0 (lowest bin) to 1 (highest).

    Example:

    ```python
    >>> round(mel_share(8000, (20, 8000)), 3), round(mel_share(1000, (20, 8000)), 3)
    (1.0, 0.345)

    ```"""
    lowest, wanted, highest = hertz_to_mel([frequencies[0], frequency, frequencies[1]])
    return float(np.clip((wanted - lowest) / (highest - lowest), 0, 1))


def _draw_band(axes: Axes, frequency: np.ndarray, values: np.ndarray, color: str, label: str) -> None:
    mean, deviation = values.mean(0), spread(values)
    axes.plot(frequency, mean, color=color, linewidth=1, label=label)
    if deviation is not None:
        axes.fill_between(frequency, mean - deviation, mean + deviation, color=color, alpha=0.2, linewidth=0)


def _mirrored(frequency: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    both = np.concatenate((-frequency[:0:-1], frequency))
    return both, np.concatenate((values[:, :0:-1], values), axis=1)


def _decibels(relative: np.ndarray) -> np.ndarray:
    return 20 * np.log10(np.maximum(relative, 10 ** (LOWEST_DECIBELS / 20)))


def _mark_stages(axes: Axes, layers: Sequence[LayerProfile], depth: np.ndarray, color: str) -> None:
    for before, after, left, right in zip(layers[:-1], layers[1:], depth[:-1], depth[1:], strict=True):
        if before.layer.stage != after.layer.stage:
            axes.axvline((left + right) / 2, color=color, linewidth=0.6, linestyle=":")


def _plain(name: str) -> str:
    """A legend leaves out labels that begin with an underscore, and reads dollars as formulas."""
    return name.replace("$", r"\$").lstrip("_") or "model"
