"""Classifies recordings: windows over a whole recording, and class probabilities for cycles or windows."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from .audio import SAMPLING_RATE
from .configuration_lung_srad import CLASS_NAMES
from .feature_extraction_lung_srad import LungSradFeatureExtractor
from .modeling_lung_srad import LungSradForAudioClassification

# Clips much shorter than this hold no sound of breathing and hardly a frame of features.
SHORTEST_WINDOW_SECONDS = 0.05


class WindowError(ValueError):
    """A window or hop that cannot be used; the message names it and the remedy."""


@dataclass(frozen=True)
class ClassifiedCycle:
    """
    The answer for one cycle or window.

    Args:
        start (`float`): seconds from the beginning of the recording.
        end (`float`): seconds from the beginning of the recording.
        probabilities (`tuple[float, ...]`): one for each of `CLASS_NAMES`; they add up to 1.
        reference (`str`, *optional*): the annotated class, where there is one.
    """

    start: float
    end: float
    probabilities: tuple[float, ...]
    reference: str | None = None

    @property
    def label(self) -> str:
        """Name of the most probable class."""
        return CLASS_NAMES[int(np.argmax(self.probabilities))]


@dataclass(frozen=True)
class ClassifiedRecording:
    """
    The answers for one recording.

    Args:
        file (`str`): path of the recording, as the caller wrote it.
        duration (`float`): seconds.
        cycles (`tuple[ClassifiedCycle, ...]`): in the order in which they were asked for.
    """

    file: str
    duration: float
    cycles: tuple[ClassifiedCycle, ...]

    @property
    def label_counts(self) -> dict[str, int]:
        """Number of cycles of each class that occurs, in the order of `CLASS_NAMES`."""
        counts = Counter(cycle.label for cycle in self.cycles)
        return {name: counts[name] for name in CLASS_NAMES if counts[name]}


def check_window(window: float, hop: float, longest: float) -> None:
    """
    Checks the settings of [`sliding_windows`].

    Args:
        window (`float`): seconds.
        hop (`float`): seconds.
        longest (`float`): seconds that the feature extractor keeps of a clip.

    Raises:
        WindowError: naming the setting and the remedy.
    """
    if not SHORTEST_WINDOW_SECONDS <= window <= longest:
        raise WindowError(
            f"a window of {window:g} s is not possible; give {SHORTEST_WINDOW_SECONDS:g} s to {longest:g} s, "
            "the most that the model hears at once"
        )
    if not 1 / SAMPLING_RATE <= hop <= window:
        raise WindowError(
            f"a hop of {hop:g} s is not possible; give more than 0 and at most the window of {window:g} s, "
            "so that no part of the recording is left out"
        )


def sliding_windows(duration: float, window: float, hop: float) -> list[tuple[float, float]]:
    """
    Windows over a whole recording, `hop` apart; the last one ends where the recording ends.

    Args:
        duration (`float`): seconds of the recording. Up to `window`, the whole recording is the only window.
        window (`float`): seconds.
        hop (`float`): seconds.

    Returns:
        `list[tuple[float, float]]`: start and end in seconds, in order.

    Example:

    ```python
    >>> sliding_windows(11.0, window=8.0, hop=2.0)
    [(0.0, 8.0), (2.0, 10.0), (3.0, 11.0)]

    ```"""
    if duration <= window:
        return [(0.0, duration)]
    # A remainder under one sample is rounding, not sound.
    steps = int((duration - window) / hop + 1e-9)
    windows = [(index * hop, index * hop + window) for index in range(steps + 1)]
    if duration - windows[-1][1] > 0.5 / SAMPLING_RATE:
        windows.append((duration - window, duration))
    return windows


def classify_clips(
    model: LungSradForAudioClassification,
    feature_extractor: LungSradFeatureExtractor,
    clips: Sequence[np.ndarray],
    batch_size: int = 16,
) -> np.ndarray:
    """
    Class probabilities of clips of one recording.

    Args:
        model ([`LungSradForAudioClassification`]): with the four labels `CLASS_NAMES`, in any order.
        feature_extractor ([`LungSradFeatureExtractor`]): the one saved with it.
        clips (sequence of `np.ndarray`): waveforms of shape `(samples,)` at the extractor's rate, at least 25 ms each.
        batch_size (`int`, *optional*, defaults to 16): clips per forward pass.

    Returns:
        `np.ndarray`: shape `(clips, 4)`, the columns in the order of `CLASS_NAMES`.
    """
    label_names = list((model.config.id2label or {}).values())
    order = [label_names.index(name) for name in CLASS_NAMES]
    batches = [_probabilities(model, feature_extractor, batch) for batch in _batched(clips, batch_size)]
    return np.concatenate(batches)[:, order] if batches else np.zeros((0, len(CLASS_NAMES)), dtype=np.float32)


def _batched(clips: Sequence[np.ndarray], batch_size: int) -> Iterator[list[np.ndarray]]:
    for first in range(0, len(clips), batch_size):
        yield list(clips[first : first + batch_size])


@torch.inference_mode()
def _probabilities(
    model: LungSradForAudioClassification, feature_extractor: LungSradFeatureExtractor, batch: list[np.ndarray]
) -> np.ndarray:
    features = feature_extractor(batch, sampling_rate=feature_extractor.sampling_rate, return_tensors="pt")
    logits = model(features["input_values"].to(model.device)).logits
    return torch.softmax(logits.float(), dim=-1).cpu().numpy()
