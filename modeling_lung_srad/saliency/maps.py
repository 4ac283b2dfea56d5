"""Saliency: which moments and frequencies of a clip a classifier's answer rests on.

The maps explain the log odds of one class, or of several together, and are counterfactual: a
sound is taken away by lowering its cells of the log-mel spectrogram to the background, the median over time of their
mel bin, and never by raising any. A sound that fills more than half of the clip at one frequency is thus background
itself. Two methods:

- `"gradient"` is integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365) along the straight path from the
  background to the clip, smoothed over 9 frames and 9 bins. It is finer and takes half the time, and the map adds up
  to nearly what all sounds together change.
- `"occlusion"` (Zeiler and Fergus 2014, arXiv 1311.2901) takes away one window after another, from coarse to fine
  where that changes the answer most. It needs no gradients, and what it says is measured and not extrapolated.

`benchmarks/saliency_localization.py` measures how often their peaks are on a planted sound. A map explains the model,
not the patient: where the model is wrong, so is what the map points at.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from transformers import PreTrainedModel

from ..errors import InputError
from ..feature_extraction_lung_srad import HOP_SECONDS, LungSradFeatureExtractor, Waveform, hertz_to_mel, mel_to_hertz
from .evaluation_mode import evaluation_mode

ANY_CRACKLE = ("crackle", "both")
ANY_WHEEZE = ("wheeze", "both")
METHODS = ("gradient", "occlusion")
PATH_STEPS = 16
CLIPS_AT_ONCE = 8
PATCH = 4
SMOOTHED_FRAMES, SMOOTHED_BINS = 9, 9
# Seconds and share of the mel bins: the first covers the clip, each other one the best of those before it.
WINDOWS = ((0.5, 1.0), (0.25, 0.25), (0.125, 0.125))
REFINED_WINDOWS = 2
# Smallest change of normalised log-mel values that is not rounding.
LEAST_EXCESS = 1e-3


class Window(NamedTuple):
    """A rectangle of the map: frames `start` to `stop` and mel bins `low` to `high`, the ends not included."""

    start: int
    stop: int
    low: int
    high: int

    @property
    def cells(self) -> tuple[slice, slice]:
        """Index of its cells in a map."""
        return slice(self.start, self.stop), slice(self.low, self.high)

    @property
    def num_cells(self) -> int:
        """Frames times mel bins."""
        return (self.stop - self.start) * (self.high - self.low)


@dataclass(frozen=True)
class SaliencyMap:
    """
    What each cell of a clip's log-mel spectrogram adds to the log odds of the target.

    Args:
        values (`np.ndarray`):
            shape `(frames, mel bins)`, log odds a cell, positive where a sound speaks for the target.
        times (`np.ndarray`): centres of the frames in seconds from the beginning of the clip, shape `(frames,)`.
        frequencies (`np.ndarray`): centres of the mel bins in Hz, shape `(mel bins,)`.
        target (`tuple[str, ...]`): the classes whose log odds are explained, taken together.
        method (`str`): one of `METHODS`.
        log_odds (`float`): natural logarithm of the odds of the target for the whole clip.
        background_log_odds (`float`): the same of the clip with every sound lowered to the background.
    """

    values: np.ndarray
    times: np.ndarray
    frequencies: np.ndarray
    target: tuple[str, ...]
    method: str
    log_odds: float
    background_log_odds: float

    @property
    def peak(self) -> tuple[int, int]:
        """Frame and mel bin of the largest value."""
        frame, mel_bin = np.unravel_index(int(np.argmax(self.values)), self.values.shape)
        return int(frame), int(mel_bin)

    @property
    def peak_time(self) -> float:
        """Seconds from the beginning of the clip to the largest value."""
        return float(self.times[self.peak[0]])

    @property
    def peak_frequency(self) -> float:
        """Frequency in Hz of the largest value."""
        return float(self.frequencies[self.peak[1]])


@torch.inference_mode(False)
def saliency_map(
    model: PreTrainedModel,
    feature_extractor: LungSradFeatureExtractor,
    waveform: Waveform,
    sampling_rate: int,
    target: str | Sequence[str] = ANY_CRACKLE,
    method: str = "gradient",
) -> SaliencyMap:
    """
    Explains the classification of one clip, such as a window of a recording or a respiratory cycle.

    A clip shorter than the extractor's `cycle_seconds` reaches the model repeated. The map is in the clip's own time:
    a moment stands for all its repeats, which are taken away together or whose gradients are added up.

    Args:
        model ([`LungSradForAudioClassification`] or another classifier of `input_values`): it is left as it is.
        feature_extractor ([`LungSradFeatureExtractor`]): the one saved with it.
        waveform (`np.ndarray`, `torch.Tensor` or `list[float]`): mono, shape `(samples,)`, 25 ms to `cycle_seconds`.
        sampling_rate (`int`): its rate in Hz, which must be that of the extractor.
        target (`str` or sequence of `str`, *optional*, defaults to `ANY_CRACKLE`):
            a class, or several whose probabilities are added.
        method (`str`, *optional*, defaults to `"gradient"`): or `"occlusion"`.

    Returns:
        [`SaliencyMap`]

    Raises:
        InputError: if a class or the method is unknown, or the clip is too long, silent or unusable otherwise.

    Example:

    ```python
    >>> import numpy as np
    >>> from modeling_lung_srad import LungSradConfig, LungSradFeatureExtractor, LungSradForAudioClassification

    >>> model = LungSradForAudioClassification(LungSradConfig.tiny())
    >>> cycle = np.random.default_rng(0).standard_normal(16000).astype(np.float32)
    >>> saliency = saliency_map(model, LungSradFeatureExtractor(num_frames=256), cycle, 16000, "wheeze", "gradient")
    >>> saliency.values.shape
    (32, 128)
    >>> saliency.target
    ('wheeze',)

    ```"""
    if method not in METHODS:
        raise InputError("method", f"{method!r} is not one", f"give {' or '.join(map(repr, METHODS))}")
    target = (target,) if isinstance(target, str) else tuple(target)
    columns = _columns(model, target)
    input_values, duration = _features(feature_extractor, waveform, sampling_rate)
    input_values = input_values.to(model.device)
    times = frame_times(feature_extractor)
    own_frame, num_own_frames = _own_frames(times, duration, feature_extractor.padding_mode == "repeat")
    # Neither padding nor repeats belong to the background.
    background = torch.minimum(input_values, input_values[:num_own_frames].median(dim=0).values)
    if (input_values - background).max() < LEAST_EXCESS:
        raise InputError("clip", "no sound stands out of its background", "choose a moment with sound")
    with evaluation_mode(model):
        log_odds, background_log_odds = _log_odds(model, torch.stack([input_values, background]), columns).tolist()
        if method == "gradient":
            cells = _integrated_gradients(model, input_values, background, columns)
            values = _smoothed(_fold(cells, own_frame, num_own_frames))
        else:
            sizes = _window_sizes(feature_extractor)
            values = _occlusion(model, input_values, background, columns, own_frame, sizes)
    return SaliencyMap(
        values=values.cpu().numpy(),
        times=times[:num_own_frames],
        frequencies=mel_frequencies(feature_extractor),
        target=target,
        method=method,
        log_odds=log_odds,
        background_log_odds=background_log_odds,
    )


def frame_times(feature_extractor: LungSradFeatureExtractor) -> np.ndarray:
    """Centres of the frames of `input_values` in seconds, shape `(num_frames,)`."""
    samples = round(feature_extractor.cycle_seconds * feature_extractor.sampling_rate)
    window = round(feature_extractor.frame_seconds * feature_extractor.sampling_rate)
    hop = round(HOP_SECONDS * feature_extractor.sampling_rate)
    scale = (1 + (samples - window) // hop) / feature_extractor.num_frames
    position = (np.arange(feature_extractor.num_frames) + 0.5) * scale - 0.5
    return (position * hop + window / 2) / feature_extractor.sampling_rate


def mel_frequencies(feature_extractor: LungSradFeatureExtractor) -> np.ndarray:
    """Centres of the mel bins in Hz, shape `(num_mel_bins,)`."""
    low, high = hertz_to_mel(feature_extractor.frequencies)
    return mel_to_hertz(np.linspace(low, high, feature_extractor.num_mel_bins + 2)[1:-1])


def _columns(model: PreTrainedModel, target: tuple[str, ...]) -> list[int]:
    """Logits of the target."""
    labels = [name for _, name in sorted((model.config.id2label or {}).items())]
    for name in target:
        if name not in labels:
            raise InputError("target", f"{name!r} is not a class of this model", f"give one of {', '.join(labels)}")
    if not target or len(set(target)) != len(target) or len(target) == len(labels):
        raise InputError(
            "target", f"{target} is not a choice of classes", f"name some of {', '.join(labels)}, once each"
        )
    return [labels.index(name) for name in target]


def _features(
    feature_extractor: LungSradFeatureExtractor, waveform: Waveform, sampling_rate: int
) -> tuple[torch.Tensor, float]:
    """Input of the model `(frames, mel bins)` and the clip's length in seconds."""
    try:
        features = feature_extractor(waveform, sampling_rate=sampling_rate, return_tensors="pt")["input_values"]
    except InputError as error:
        raise error.within("clip") from error
    if len(features) != 1:
        raise InputError("clip", f"there are {len(features)}", "explain one at a time")
    samples = torch.as_tensor(waveform)
    if not samples.any():
        raise InputError("clip", "is silent (all samples are zero)", "choose a moment with sound")
    duration = samples.numel() / sampling_rate
    if duration > feature_extractor.cycle_seconds + HOP_SECONDS:
        raise InputError(
            "clip",
            f"lasts {duration:.2f} s, and the model hears {feature_extractor.cycle_seconds:g} s",
            "cut it into windows and explain one at a time",
        )
    return features[0], duration


def _own_frames(times: np.ndarray, duration: float, is_repeated: bool) -> tuple[torch.Tensor, int]:
    """The frame of the first copy of the clip that each frame repeats, or -1 for padding; and their number."""
    num_own_frames = max(1, int(np.sum(times < duration)))
    own_times = times % duration
    nearest = np.abs(own_times[:, None] - times[None, :num_own_frames]).argmin(axis=1)
    own_frame = np.where((times < duration) | is_repeated, nearest, -1)
    return torch.from_numpy(own_frame), num_own_frames


def _log_odds_of(logits: torch.Tensor, columns: list[int]) -> torch.Tensor:
    logits = logits.float()
    others = [column for column in range(logits.shape[-1]) if column not in columns]
    return logits[:, columns].logsumexp(dim=-1) - logits[:, others].logsumexp(dim=-1)


@torch.no_grad()
def _log_odds(model: PreTrainedModel, input_values: torch.Tensor, columns: list[int]) -> torch.Tensor:
    """Log odds `(batch,)` of clips `(batch, frames, mel bins)`."""
    pieces = [_log_odds_of(model(piece).logits, columns) for piece in input_values.split(CLIPS_AT_ONCE)]
    return torch.cat(pieces)


def _integrated_gradients(
    model: PreTrainedModel, input_values: torch.Tensor, background: torch.Tensor, columns: list[int]
) -> torch.Tensor:
    """Contribution of each cell to the change in log odds from the background, `(frames, mel bins)`."""
    difference = input_values - background
    shares = (torch.arange(PATH_STEPS, device=input_values.device) + 0.5) / PATH_STEPS
    total = torch.zeros_like(input_values)
    with torch.enable_grad():
        for piece in shares.split(CLIPS_AT_ONCE):
            points = (background + piece[:, None, None] * difference).clone().requires_grad_()
            log_odds = _log_odds_of(model(points).logits, columns).sum()
            total += torch.autograd.grad(log_odds, points)[0].sum(dim=0)
    return total / PATH_STEPS * difference


def _fold(cells: torch.Tensor, own_frame: torch.Tensor, num_own_frames: int) -> torch.Tensor:
    """Adds the repeats of the clip to its first copy, `(own frames, mel bins)`."""
    kept = own_frame >= 0
    folded = cells.new_zeros(num_own_frames, cells.shape[1])
    return folded.index_add_(0, own_frame[kept].to(cells.device), cells[kept.to(cells.device)])


def _smoothed(values: torch.Tensor) -> torch.Tensor:
    """Means over windows, which even out the checkerboard that strides leave in gradients; zeros lie outside."""
    padding = (SMOOTHED_FRAMES // 2, SMOOTHED_BINS // 2)
    mean = F.avg_pool2d(values[None, None], (SMOOTHED_FRAMES, SMOOTHED_BINS), stride=1, padding=padding)
    return mean[0, 0]


def _occlusion(
    model: PreTrainedModel,
    input_values: torch.Tensor,
    background: torch.Tensor,
    columns: list[int],
    own_frame: torch.Tensor,
    window_sizes: Sequence[tuple[int, int]],
) -> torch.Tensor:
    """
    What each cell adds to the log odds, `(own frames, mel bins)`: the fall when a window is taken away, spread evenly
    over it, averaged over the finest windows that cover the cell.
    """
    num_frames, num_bins = int(own_frame.max()) + 1, input_values.shape[1]
    values = torch.zeros(num_frames, num_bins, dtype=torch.float64)
    log_odds = _log_odds(model, input_values[None], columns)
    regions = [Window(0, num_frames, 0, num_bins)]
    for frames, bins in window_sizes:
        windows = list(dict.fromkeys(_windows(regions, frames, bins)))
        falls = []
        for first in range(0, len(windows), CLIPS_AT_ONCE):
            occluded = _occluded(input_values, background, own_frame, windows[first : first + CLIPS_AT_ONCE])
            falls.append(log_odds - _log_odds(model, occluded, columns))
        densities = torch.cat(falls).cpu() / torch.tensor([window.num_cells for window in windows])
        totals, counts = torch.zeros_like(values), torch.zeros_like(values)
        for window, density in zip(windows, densities, strict=True):
            totals[window.cells] += density
            counts[window.cells] += 1
        values = torch.where(counts > 0, totals / counts.clamp_min(1), values)
        best = densities.topk(min(REFINED_WINDOWS, len(windows))).indices.tolist()
        regions = [windows[index] for index in best]
    return values.float()


def _windows(regions: Sequence[Window], frames: int, bins: int) -> Iterator[Window]:
    """Windows of that size over regions, overlapping by half; the last ones end where their region does."""
    for region in regions:
        for start in _starts(region.start, region.stop, frames):
            for low in _starts(region.low, region.high, bins):
                yield Window(start, min(start + frames, region.stop), low, min(low + bins, region.high))


def _starts(first: int, end: int, length: int) -> list[int]:
    last = max(first, end - length)
    return [*range(first, last, max(1, length // 2)), last]


def _occluded(
    input_values: torch.Tensor, background: torch.Tensor, own_frame: torch.Tensor, windows: Sequence[Window]
) -> torch.Tensor:
    """Copies of the clip, each without the sounds of one window in any of its repeats."""
    copies = input_values.repeat(len(windows), 1, 1)
    for copy, window in zip(copies, windows, strict=True):
        covered = ((own_frame >= window.start) & (own_frame < window.stop)).to(copy.device)
        copy[covered, window.low : window.high] = background[covered, window.low : window.high]
    return copies


def _window_sizes(feature_extractor: LungSradFeatureExtractor) -> list[tuple[int, int]]:
    """`WINDOWS` in frames and mel bins, none smaller than a patch of the model."""
    frames_per_second = 1 / np.diff(frame_times(feature_extractor)).mean()
    bins = feature_extractor.num_mel_bins
    return [
        (max(PATCH, round(seconds * frames_per_second)), max(PATCH, round(share * bins))) for seconds, share in WINDOWS
    ]
