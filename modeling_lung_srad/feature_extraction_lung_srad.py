"""Feature extractor of Lung-SRAD: waveforms of respiratory cycles to normalised log-mel spectrograms.

The steps are those of the authors (Kaldi filter banks as in `torchaudio.compliance.kaldi.fbank`), batched in plain
torch. Every setting is saved in `preprocessor_config.json`.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from transformers import BatchFeature
from transformers.feature_extraction_sequence_utils import SequenceFeatureExtractor
from transformers.utils import logging

from .audio import MAX_SOURCE_RATE, MIN_SOURCE_RATE
from .errors import InputError, one_line

logger = logging.get_logger(__name__)

FRAME_SECONDS = 0.025
HOP_SECONDS = 0.010
PREEMPHASIS = 0.97
LOWEST_FREQUENCY = 20.0
LARGEST_SAMPLE = 2.0**31
# A grid of one column after the last stage: about 0.25 s of sound.
FEWEST_FRAMES = 32
# Limits of a settings file, which may be a stranger's: what lies beyond takes gigabytes for each clip. The points are
# those of all Fourier transforms of a clip, the values those that the network gets; the paper has 2**19 and 2**17.
MAX_CYCLE_SECONDS, MAX_FRAMES, MAX_MEL_BINS = 3600.0, 360_000, 1024
MAX_FRAME_SECONDS, MAX_FFT_LENGTH, MAX_FLOOR_DECIBELS = 1.0, 2**16, 200.0
MAX_POINTS, MAX_VALUES = 2**24, 2**21
SMALLEST_RMS = 1e-9
# The spread of digital silence is zero; it becomes (almost) zero instead of NaN.
SMALLEST_STD = 1e-3
LOG_FLOOR = torch.finfo(torch.float32).eps

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
Waveform = np.ndarray | torch.Tensor | Sequence[float]


class LungSradFeatureExtractor(SequenceFeatureExtractor):
    r"""
    Makes `input_values` from the waveforms of respiratory cycles.

    A cycle of `cycle_seconds` or more is cut; a shorter one is repeated to that length and faded out. Then follow
    Kaldi filter banks, normalisation and a bilinear resize of the frames.

    The defaults are those of the authors. With `floor_decibels`, the level of a recording does not matter.

    Args:
        sampling_rate (`int`, *optional*, defaults to 16000):
            Sampling rate of the waveforms, in Hz.
        num_mel_bins (`int`, *optional*, defaults to 128):
            Mel bins between `min_frequency` and `max_frequency`.
        cycle_seconds (`float`, *optional*, defaults to 8.0):
            Length of the network's input, in seconds.
        padding_mode (`str`, *optional*, defaults to `"repeat"`):
            How shorter cycles are filled: `"repeat"`, or `"zero"` for silence.
        fade_seconds (`float`, *optional*, defaults to 0.0625):
            Linear fade-out at the end of a filled cycle, in seconds.
        num_frames (`int`, *optional*, defaults to 1024):
            Frames after the resize.
        normalization (`str`, *optional*, defaults to `"clip"`):
            `"clip"` uses mean and standard deviation of each clip (DASS), `"dataset"` the two given ones (AST), and
            `"band"` the mean over time of each mel bin, then the clip's standard deviation, which leaves out the
            frequency response of a stethoscope and steady hum.
        mean (`float`, *optional*, defaults to -4.2677393):
            Mean for `"dataset"`; the default is that of AudioSet.
        std (`float`, *optional*, defaults to 4.5689974):
            Standard deviation for `"dataset"`; the default is that of AudioSet.
        min_frequency (`float`, *optional*, defaults to 20.0):
            Lower edge of the lowest mel bin, in Hz.
        max_frequency (`float`, *optional*):
            Upper edge of the highest mel bin, in Hz; by default half the sampling rate.
        frame_seconds (`float`, *optional*, defaults to 0.025):
            Length of the Hann window, in seconds. Frames are 10 ms apart.
        fft_length (`int`, *optional*):
            Points of the Fourier transform; by default the next power of two from the window's length on.
        floor_decibels (`float`, *optional*):
            Clips are scaled to an RMS of 1, and this many decibels below their mean energy is added to all energies:
            neither the level nor what is much quieter than the rest matters. By default neither is done.

    Example:

    ```python
    >>> import numpy as np
    >>> from modeling_lung_srad import LungSradFeatureExtractor

    >>> feature_extractor = LungSradFeatureExtractor()
    >>> waveform = np.random.default_rng(0).standard_normal(48000)
    >>> feature_extractor(waveform, sampling_rate=16000, return_tensors="pt")["input_values"].shape
    torch.Size([1, 1024, 128])

    ```"""

    model_input_names = ["input_values"]

    def __init__(
        self,
        sampling_rate: int = 16000,
        num_mel_bins: int = 128,
        cycle_seconds: float = 8.0,
        padding_mode: str = "repeat",
        fade_seconds: float = 1 / 16,
        num_frames: int = 1024,
        normalization: str = "clip",
        mean: float = -4.2677393,
        std: float = 4.5689974,
        min_frequency: float = LOWEST_FREQUENCY,
        max_frequency: float | None = None,
        frame_seconds: float = FRAME_SECONDS,
        fft_length: int | None = None,
        floor_decibels: float | None = None,
        feature_size: int = 1,
        padding_value: float = 0.0,
        **kwargs,
    ):
        _check_choice("padding_mode", padding_mode, ("repeat", "zero"))
        _check_choice("normalization", normalization, ("clip", "dataset", "band"))
        sampling_rate = _whole("sampling_rate", sampling_rate, MIN_SOURCE_RATE, MAX_SOURCE_RATE)
        num_mel_bins = _whole("num_mel_bins", num_mel_bins, 1, MAX_MEL_BINS)
        num_frames = _whole("num_frames", num_frames, 1, MAX_FRAMES)
        if not math.isfinite(mean):
            raise InputError("mean", f"must be a finite number, got {mean}")
        if not 0 < std < math.inf:
            raise InputError("std", f"must be positive and finite, got {std}")
        if not HOP_SECONDS <= frame_seconds <= MAX_FRAME_SECONDS:
            raise InputError("frame_seconds", f"must be {HOP_SECONDS} to {MAX_FRAME_SECONDS}, got {frame_seconds}")
        if not frame_seconds <= cycle_seconds <= MAX_CYCLE_SECONDS or not 0 <= fade_seconds <= cycle_seconds:
            raise InputError(
                "cycle_seconds, fade_seconds",
                f"must be {frame_seconds} to {MAX_CYCLE_SECONDS}, and 0 to cycle_seconds, got {cycle_seconds} and "
                f"{fade_seconds}",
            )
        if not 0 <= min_frequency < (max_frequency or sampling_rate / 2) <= sampling_rate / 2:
            raise InputError(
                "min_frequency, max_frequency",
                f"must be in order and at most {sampling_rate / 2:g} Hz, got {min_frequency} and {max_frequency}",
            )
        window_length = round(frame_seconds * sampling_rate)
        if fft_length is not None:
            fft_length = _whole("fft_length", fft_length, window_length, MAX_FFT_LENGTH)
        frames = max(cycle_seconds / HOP_SECONDS, num_frames)
        if frames * (fft_length or window_length) > MAX_POINTS or num_frames * num_mel_bins > MAX_VALUES:
            raise InputError(
                "cycle_seconds, frame_seconds, num_frames, num_mel_bins",
                f"ask for too large a clip, got {cycle_seconds}, {frame_seconds}, {num_frames} and {num_mel_bins}",
            )
        if floor_decibels is not None and not 0 < floor_decibels <= MAX_FLOOR_DECIBELS:
            raise InputError(
                "floor_decibels", f"must be above 0 and at most {MAX_FLOOR_DECIBELS}, got {floor_decibels}"
            )
        super().__init__(feature_size=feature_size, sampling_rate=sampling_rate, padding_value=padding_value, **kwargs)
        self.num_mel_bins = num_mel_bins
        self.cycle_seconds = cycle_seconds
        self.padding_mode = padding_mode
        self.fade_seconds = fade_seconds
        self.num_frames = num_frames
        self.normalization = normalization
        self.mean = mean
        self.std = std
        self.min_frequency = min_frequency
        self.max_frequency = max_frequency
        self.frame_seconds = frame_seconds
        self.fft_length = fft_length
        self.floor_decibels = floor_decibels

    @property
    def frequencies(self) -> tuple[float, float]:
        """Edges of the mel bins in Hz."""
        return self.min_frequency, self.max_frequency or self.sampling_rate / 2

    def __call__(
        self,
        waveforms: Waveform | Sequence[Waveform],
        sampling_rate: int | None = None,
        return_tensors: str | None = None,
    ) -> BatchFeature:
        r"""
        Args:
            waveforms (`np.ndarray`, `torch.Tensor`, `list[float]` or a list of these):
                One mono waveform or a batch of them, each at least 25 ms long, in [-1, 1]. A two-dimensional array or
                tensor is a batch `(batch, samples)`.
            sampling_rate (`int`):
                Their sampling rate in Hz, which must be that of the extractor.
            return_tensors (`str`, *optional*):
                `"pt"` or `"np"`; by default NumPy arrays.

        Returns:
            [`~transformers.BatchFeature`]: with `input_values` of shape `(batch, num_frames, num_mel_bins)`.

        Raises:
            InputError: if `sampling_rate` is missing or another one, or a waveform is not mono, shorter than 25 ms or
                not finite.
        """
        if sampling_rate != self.sampling_rate:
            stated = "is missing" if sampling_rate is None else f"is {sampling_rate}"
            raise InputError(
                "sampling_rate",
                f"{stated}, and this feature extractor works at {self.sampling_rate} Hz",
                f"resample the waveform and pass sampling_rate={self.sampling_rate}",
            )
        input_values = self.resize(self.normalize(self.log_mel(waveforms)))
        if return_tensors == "pt":
            return BatchFeature({"input_values": input_values})
        return BatchFeature({"input_values": input_values.detach()}).convert_to_tensors(return_tensors or "np")

    def log_mel(self, waveforms: Waveform | Sequence[Waveform]) -> torch.Tensor:
        r"""
        Cuts or fills each cycle and computes its filter banks, the part of the work that depends on the audio alone.

        Args:
            waveforms: as for `__call__`, at the extractor's sampling rate.

        Returns:
            `torch.Tensor` of shape `(batch, frames, num_mel_bins)`: natural logarithm of the mel energies, 798 frames
            for 8 s.

        Raises:
            InputError: as for `__call__`.
        """
        return self.filter_bank(torch.stack([self._fit_length(waveform) for waveform in self._to_batch(waveforms)]))

    def with_cycle_seconds(self, cycle_seconds: float) -> "LungSradFeatureExtractor":
        """
        A copy for inputs of another length, with `num_frames` in proportion, but not below the 32 that the network
        needs.

        Raises:
            InputError: for a length that the constructor refuses.
        """
        copied: Any = self.from_dict(self.to_dict() | {"cycle_seconds": cycle_seconds})
        in_proportion = round(self.num_frames * copied._filter_bank_frames() / self._filter_bank_frames())
        copied.num_frames = max(in_proportion, min(self.num_frames, FEWEST_FRAMES))
        return copied

    def _filter_bank_frames(self) -> int:
        """Frames of a filled cycle, before the resize."""
        samples = round(self.cycle_seconds * self.sampling_rate) - round(self.frame_seconds * self.sampling_rate)
        return 1 + samples // round(HOP_SECONDS * self.sampling_rate)

    def filter_bank(self, waveforms: torch.Tensor) -> torch.Tensor:
        """
        Log mel energies `(batch, frames, num_mel_bins)` of waveforms `(batch, samples)` of any length, as they are.

        With `floor_decibels`, each is scaled to an RMS of 1 before.
        """
        if self.floor_decibels is not None:
            waveforms = waveforms / waveforms.square().mean(dim=-1, keepdim=True).sqrt().clamp_min(SMALLEST_RMS)
        return kaldi_fbank(
            waveforms,
            self.sampling_rate,
            self.num_mel_bins,
            self.frequencies,
            self.frame_seconds,
            self.fft_length,
        )

    def normalize(self, log_mel: torch.Tensor) -> torch.Tensor:
        """`(x - mean) / (2 std)` of `(batch, frames, num_mel_bins)`, by clip, by mel bin or with the given constants,
        after the floor is added."""
        if self.floor_decibels is not None:
            energy = log_mel.logsumexp(dim=(-2, -1), keepdim=True) - math.log(log_mel[0].numel())
            log_mel = torch.logaddexp(log_mel, energy - self.floor_decibels * math.log(10) / 10)
        if self.normalization == "dataset":
            return (log_mel - self.mean) / (2 * self.std)
        if self.normalization == "band":
            log_mel = log_mel - log_mel.mean(dim=-2, keepdim=True)
        mean = log_mel.mean(dim=(-2, -1), keepdim=True)
        std = log_mel.std(dim=(-2, -1), keepdim=True).clamp_min(SMALLEST_STD)
        return (log_mel - mean) / (2 * std)

    def resize(self, log_mel: torch.Tensor) -> torch.Tensor:
        """Bilinear, antialiased resize of `(batch, frames, num_mel_bins)` to `num_frames` frames."""
        if log_mel.shape[-2] == self.num_frames:
            return log_mel
        size = (self.num_frames, log_mel.shape[-1])
        return F.interpolate(log_mel.unsqueeze(1), size=size, mode="bilinear", antialias=True).squeeze(1)

    def _to_batch(self, waveforms: Waveform | Sequence[Waveform]) -> list[torch.Tensor]:
        if isinstance(waveforms, np.ndarray | torch.Tensor):
            if waveforms.ndim > 2:
                raise InputError("waveforms", f"must be mono, got an array of shape {tuple(waveforms.shape)}")
            if waveforms.ndim == 2 and waveforms.shape[1] <= 2 < len(waveforms):
                raise InputError(
                    "waveforms",
                    f"shape {tuple(waveforms.shape)} is of channels",
                    "average them: waveform.mean(axis=1)",
                )
            if waveforms.ndim == 2 and len(waveforms) == 2:
                logger.warning_once("waveforms of shape (2, samples) are a batch of two, not the channels of one")
            batch = list(waveforms) if waveforms.ndim == 2 else [waveforms]
        elif isinstance(waveforms, Sequence) and len(waveforms) and _is_array(waveforms[0]):
            batch = list(waveforms)
        else:
            batch = [waveforms]
        if not batch:
            raise InputError("waveforms", "the batch is empty", "pass one or more")
        return [self._check(index, _as_tensor(index, waveform)) for index, waveform in enumerate(batch)]

    def _check(self, index: int, waveform: torch.Tensor) -> torch.Tensor:
        if waveform.ndim != 1:
            raise InputError(
                f"waveform {index}", f"must be mono, got shape {tuple(waveform.shape)}", "average its channels"
            )
        if waveform.dtype not in FLOATS:
            raise InputError(
                f"waveform {index}", f"has dtype {waveform.dtype}", "scale its samples to floats in [-1, 1]"
            )
        shortest = round(FRAME_SECONDS * self.sampling_rate)
        if waveform.shape[0] < shortest:
            raise InputError(
                f"waveform {index}", f"has {waveform.shape[0]} samples", f"at least {shortest} (25 ms) are needed"
            )
        if not torch.isfinite(waveform).all():
            raise InputError(f"waveform {index}", "has NaN or infinite samples", "remove or replace them")
        if waveform.abs().max() > LARGEST_SAMPLE:
            raise InputError(f"waveform {index}", f"has samples beyond {LARGEST_SAMPLE:g}", "scale it to [-1, 1]")
        return waveform.to(torch.float32)

    def _fit_length(self, waveform: torch.Tensor) -> torch.Tensor:
        target = round(self.cycle_seconds * self.sampling_rate)
        length = waveform.shape[0]
        # The authors' code also fades a cycle of exactly this length; here it passes, so that filling is idempotent.
        if length >= target:
            return waveform[:target]
        if self.padding_mode == "zero":
            return F.pad(waveform, (0, target - length))
        filled = waveform.repeat(-(-target // length))[:target]
        fade = round(self.fade_seconds * self.sampling_rate)
        if fade:
            filled = filled.clone()
            filled[-fade:] *= torch.linspace(1, 0, fade, device=filled.device)
        return filled


def kaldi_fbank(
    waveforms: torch.Tensor,
    sampling_rate: int,
    num_mel_bins: int,
    frequencies: tuple[float, float] | None = None,
    frame_seconds: float = FRAME_SECONDS,
    fft_length: int | None = None,
) -> torch.Tensor:
    r"""
    Log mel filter banks as Kaldi computes them: Hann window, 10 ms hop, DC offset removed, pre-emphasis 0.97, power
    spectrum, HTK mel scale, no dither, no energy.

    Args:
        waveforms (`torch.Tensor` of shape `(batch, samples)`): at least a window long, on any device.
        sampling_rate (`int`): in Hz.
        num_mel_bins (`int`): number of filters.
        frequencies (`tuple[float, float]`, *optional*): their edges in Hz; by default 20 Hz and Nyquist.
        frame_seconds (`float`, *optional*, defaults to 0.025): length of the window.
        fft_length (`int`, *optional*): by default the next power of two from the window's length on.

    Returns:
        `torch.Tensor` of shape `(batch, frames, num_mel_bins)`.
    """
    window_length = round(frame_seconds * sampling_rate)
    fft_length = fft_length or 2 ** math.ceil(math.log2(window_length))
    frames = waveforms.unfold(-1, window_length, round(HOP_SECONDS * sampling_rate))
    frames = frames - frames.mean(dim=-1, keepdim=True)
    frames = frames - PREEMPHASIS * F.pad(frames, (1, 0), mode="replicate")[..., :-1]
    window = torch.hann_window(window_length, periodic=False, dtype=frames.dtype, device=frames.device)
    power = torch.fft.rfft(frames * window, n=fft_length).abs().square()
    filters = _mel_filters(
        num_mel_bins, fft_length, sampling_rate, frequencies or (LOWEST_FREQUENCY, sampling_rate / 2)
    )
    return (power @ filters.to(power)).clamp_min(LOG_FLOOR).log()


# Kept for all calls, whatever the mode and the default device of the first one.
@lru_cache(maxsize=8)
@torch.inference_mode(False)
def _mel_filters(
    num_mel_bins: int, fft_length: int, sampling_rate: int, edges_in_hz: tuple[float, float]
) -> torch.Tensor:
    """Triangles in mel of shape `(fft_length / 2 + 1, num_mel_bins)`; the bin at Nyquist is unused, as in Kaldi."""
    lowest, highest = hertz_to_mel(edges_in_hz)
    edges = torch.from_numpy(np.linspace(lowest, highest, num_mel_bins + 2))
    bins = torch.from_numpy(hertz_to_mel(np.arange(fft_length // 2) * sampling_rate / fft_length)).unsqueeze(1)
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    missing = fft_length // 2 + 1 - len(bins)
    return F.pad(torch.minimum(rising, falling).clamp_min(0), (0, 0, 0, missing)).to(torch.float32)


def hertz_to_mel(frequencies: npt.ArrayLike) -> np.ndarray:
    """Mel scale of HTK and Kaldi, 1127 ln(1 + f / 700)."""
    return 1127.0 * np.log1p(np.asarray(frequencies) / 700.0)


def mel_to_hertz(mel: npt.ArrayLike) -> np.ndarray:
    """The inverse of [`hertz_to_mel`]."""
    return 700.0 * np.expm1(np.asarray(mel) / 1127.0)


def _is_array(value: object) -> bool:
    """True for a waveform, false for a sample."""
    return isinstance(value, list | tuple) or getattr(value, "ndim", 0) > 0


def _as_tensor(index: int, waveform: Waveform) -> torch.Tensor:
    """A waveform as an ordinary tensor, dense and with data."""
    name, remedy = f"waveform {index}", "give one array of floats in [-1, 1] for each"
    try:
        tensor = torch.as_tensor(waveform)
    except (OverflowError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(name, f"is not readable as an array ({one_line(error, 100)})", remedy) from error
    if tensor.layout != torch.strided or tensor.is_meta:
        raise InputError(name, "is sparse or without data", remedy)
    return tensor


def _whole(name: str, value: float, lowest: int, highest: int) -> int:
    """The value, which a settings file may have as a float."""
    if not lowest <= value <= highest or value != int(value):
        raise InputError(name, f"must be a whole number from {lowest} to {highest}, got {value}")
    return int(value)


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise InputError(name, f"must be one of {', '.join(map(repr, choices))}, got {value!r}")


__all__ = ["LungSradFeatureExtractor"]
