"""Spectral responses of the layers of a model, averaged over recordings, with their spread."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields

import numpy as np
from transformers import PreTrainedModel

from ..errors import InputError
from ..feature_extraction_lung_srad import LungSradFeatureExtractor
from .attention import SpectralSummary, min_max_normalize, normalize_response, response_magnitudes, summarize_response
from .layers import AST, LayerMatrix, MixingLayer, layer_matrices

FIGURES = (*(field.name for field in fields(SpectralSummary)), "high_share_above_zero")


@dataclass(frozen=True)
class LayerProfile:
    """
    The response of one layer in recordings. The windows of a recording are averaged first, so that
    each recording counts once, however long it is.

    Args:
        layer ([`MixingLayer`]): which one.
        grid (`tuple[int, int]`): its rows (mel) and columns (time).
        frequency (`np.ndarray` of shape `(frequencies,)`): from 0 to the Nyquist frequency, in cycles per patch.
        normalized (`np.ndarray` of shape `(recordings, frequencies)`): min-max normalised magnitude, as published.
        relative (`np.ndarray` of shape `(recordings, frequencies)`): magnitude divided by the largest one.
        figures (`dict[str, np.ndarray]`): for each name in `FIGURES` (those of [`SpectralSummary`]), a value for each
            recording.
    """

    layer: MixingLayer
    grid: tuple[int, int]
    frequency: np.ndarray
    normalized: np.ndarray
    relative: np.ndarray
    figures: dict[str, np.ndarray]


def profile_layers(
    model: PreTrainedModel,
    feature_extractor: LungSradFeatureExtractor,
    recordings: Iterable[Sequence[np.ndarray]],
    layers: Sequence[MixingLayer] | None = None,
    definition: str = "exact",
    gaussian: str = "included",
    on_window: Callable[[], object] = lambda: None,
) -> list[LayerProfile]:
    """
    Measures layers in recordings.

    Args:
        model (`PreTrainedModel`): a Lung-SRAD model or an AST.
        feature_extractor ([`LungSradFeatureExtractor`]): the one saved with it.
        recordings (iterable of sequences of `np.ndarray`): for each recording the waveforms of its windows, at the
            rate of the extractor.
        layers (sequence of [`MixingLayer`], *optional*): which ones; all by default.
        definition (`str`, *optional*, defaults to `"exact"`): as for [`layer_matrices`]. Matrices of SS2D blocks are
            min-max normalised with `"published"`, as they are there.
        gaussian (`str`, *optional*, defaults to `"included"`): as for [`layer_matrices`].
        on_window (callable, *optional*): called after each window.

    Returns:
        `list[LayerProfile]`: in the order of `layers`; empty without recordings.

    Raises:
        InputError: as for [`layer_matrices`].
    """
    is_normalized = definition == "published" and model.config.model_type != AST
    found: dict[MixingLayer, list[list[_Measured]]] = {}
    grids: dict[MixingLayer, tuple[int, int]] = {}
    for windows in recordings:
        in_windows: dict[MixingLayer, list[_Measured]] = {}
        for waveform in windows:
            inputs = feature_extractor(waveform, sampling_rate=feature_extractor.sampling_rate, return_tensors="pt")
            for matrix in layer_matrices(model, inputs["input_values"], layers, definition, gaussian):
                in_windows.setdefault(matrix.layer, []).append(_measure(matrix, is_normalized))
                grids[matrix.layer] = matrix.grid
            on_window()
        for layer, measured in in_windows.items():
            found.setdefault(layer, []).append(measured)
    return [_profile(layer, grids[layer], measured) for layer, measured in found.items()]


@dataclass(frozen=True)
class _Measured:
    normalized: np.ndarray
    relative: np.ndarray
    figures: np.ndarray


def _measure(found: LayerMatrix, is_normalized: bool) -> _Measured:
    [matrix] = min_max_normalize(found.matrix) if is_normalized else found.matrix
    try:
        magnitudes = response_magnitudes(matrix)
        summary = summarize_response(magnitudes, len(matrix))
    except InputError as error:
        raise error.within(found.layer) from error
    return _Measured(
        normalized=normalize_response(magnitudes).numpy(),
        relative=(magnitudes / magnitudes.max()).numpy(),
        figures=np.array([getattr(summary, name) for name in FIGURES]),
    )


def _profile(layer: MixingLayer, grid: tuple[int, int], recordings: list[list[_Measured]]) -> LayerProfile:
    def averaged(name: str) -> np.ndarray:
        return np.stack([np.mean([getattr(window, name) for window in windows], axis=0) for windows in recordings])

    positions = grid[0] * grid[1]
    frequency = np.arange(positions // 2 + 1) / positions
    figures = dict(zip(FIGURES, averaged("figures").T, strict=True))
    return LayerProfile(layer, grid, frequency, averaged("normalized"), averaged("relative"), figures)


def spread(values: np.ndarray) -> np.ndarray | None:
    """Standard deviation over recordings (the first axis), of a sample; none where there is only one."""
    return values.std(axis=0, ddof=1) if len(values) > 1 else None
