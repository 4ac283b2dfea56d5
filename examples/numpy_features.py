"""The features of a Lung-SRAD checkpoint in numpy alone, for programs without torch.

The steps and the settings are those of `LungSradFeatureExtractor`; a test compares the two.
"""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

FRAME_SECONDS, HOP_SECONDS, PREEMPHASIS = 0.025, 0.010, 0.97
LOG_FLOOR = float(np.finfo(np.float32).eps)


def read_settings(folder: str | Path) -> dict[str, Any]:
    """The settings in `preprocessor_config.json` of an export."""
    return json.loads((Path(folder) / "preprocessor_config.json").read_text(encoding="utf-8"))


def input_values(waveform: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """
    Makes the network's input from one cycle.

    Args:
        waveform (`np.ndarray` of shape `(samples,)`): at `settings["sampling_rate"]`, at least 25 ms, in [-1, 1].
        settings (`dict`): of [`read_settings`].

    Returns:
        `np.ndarray` of shape `(1, num_frames, num_mel_bins)`, float32.
    """
    cycle = fit_length(waveform, settings)
    floor = settings["floor_decibels"]
    if floor is not None:
        cycle = cycle / max(np.sqrt(np.mean(cycle**2)), 1e-9)
    log_mel = kaldi_fbank(cycle, settings)
    if floor is not None:
        log_mel = np.log(np.exp(log_mel) + np.exp(log_mel).mean() * 10 ** (-floor / 10))
    if settings["normalization"] == "band":
        log_mel = log_mel - log_mel.mean(axis=0)
    mean, std = settings["mean"], settings["std"]
    if settings["normalization"] != "dataset":
        mean, std = log_mel.mean(), max(log_mel.std(ddof=1), 1e-3)
    normalized = (log_mel - mean) / (2 * std)
    return (resize_weights(len(normalized), settings["num_frames"]) @ normalized).astype(np.float32)[None]


def fit_length(waveform: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """A cycle of `cycle_seconds`: cut, or repeated and faded out, or filled with silence."""
    target = round(settings["cycle_seconds"] * settings["sampling_rate"])
    if len(waveform) >= target:
        return waveform[:target].astype(np.float64)
    if settings["padding_mode"] == "zero":
        return np.pad(waveform.astype(np.float64), (0, target - len(waveform)))
    filled = np.resize(waveform.astype(np.float64), target)
    fade = round(settings["fade_seconds"] * settings["sampling_rate"])
    filled[target - fade :] *= np.linspace(1, 0, fade)
    return filled


def kaldi_fbank(waveform: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    """Log mel filter banks `(frames, num_mel_bins)` of a waveform, as Kaldi computes them."""
    sampling_rate = settings["sampling_rate"]
    length, hop = round(settings["frame_seconds"] * sampling_rate), round(HOP_SECONDS * sampling_rate)
    fft_length = settings["fft_length"] or 2 ** math.ceil(math.log2(length))
    frames = np.lib.stride_tricks.sliding_window_view(waveform, length)[::hop]
    frames = frames - frames.mean(axis=1, keepdims=True)
    frames = frames - PREEMPHASIS * np.pad(frames, ((0, 0), (1, 0)), mode="edge")[:, :-1]
    power = np.abs(np.fft.rfft(frames * np.hanning(length), n=fft_length)) ** 2
    return np.log(np.maximum(power @ mel_filters(fft_length, settings), LOG_FLOOR))


def mel_filters(fft_length: int, settings: dict[str, Any]) -> np.ndarray:
    """Triangles in mel, `(fft_length / 2 + 1, num_mel_bins)`; the bin at Nyquist is unused."""
    sampling_rate = settings["sampling_rate"]
    frequencies = settings["min_frequency"], settings["max_frequency"] or sampling_rate / 2
    lowest, highest = 1127 * np.log1p(np.array(frequencies) / 700)
    edges = np.linspace(lowest, highest, settings["num_mel_bins"] + 2)
    bins = 1127 * np.log1p(np.arange(fft_length // 2) * sampling_rate / fft_length / 700)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return np.pad(np.maximum(np.minimum(rising, falling), 0), ((0, fft_length // 2 + 1 - len(bins)), (0, 0)))


def resize_weights(frames: int, num_frames: int) -> np.ndarray:
    """Weights `(num_frames, frames)` of a linear, antialiased resize, as `torch.nn.functional.interpolate` does it."""
    if frames == num_frames:
        return np.eye(frames)
    scale = frames / num_frames
    centers = scale * (np.arange(num_frames) + 0.5)
    distances = np.abs(np.arange(frames) + 0.5 - centers[:, None]) / max(scale, 1)
    weights = np.maximum(1 - distances, 0)
    return weights / weights.sum(axis=1, keepdims=True)
