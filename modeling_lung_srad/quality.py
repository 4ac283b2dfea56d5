"""Flags recordings that cannot carry the answer of the model: silent, clipped, too faint, too narrow or too short.

Everything is measured at the rate that the recording was made at, since resampling rounds clipped tops and moves the
end of the spectrum. How often each flag is right is measured by `python -m benchmarks.quality_flags`.
"""

import math
from dataclasses import dataclass

import numpy as np

from .errors import InputError

LEVEL_SECONDS = 0.05
FRAMES_PER_BLOCK = 200
# Smallest step of 16 bit, the coarsest format in use.
STEP = 2.0**-15

# A pause between breaths still has the noise of sensor and skin. Frames within one step of 16 bit around their middle
# have none: the recorder was muted, or zeros were written.
SILENCE_RANGE = 2 * STEP
# Recordings of finer formats may be so faint that this is all of their sound.
SILENCE_RELATIVE_RANGE = 1e-3
# Resampling and fades leave up to 0.1 s of zeros at the ends of intact ICBHI recordings.
SILENCE_SECONDS = 0.5

# A waveform that was cut off stays within this share of its largest value for at least three samples.
FLAT_TOP_TOLERANCE = 5e-4
FLAT_TOP_SAMPLES = 3
# Recordings of ICBHI and SPRSound that stay under full scale have up to 7e-5, where blows against the sensor end flat.
CLIPPING_SHARE = 2e-4

# The loudest twentieth of the frames lies above -40 dBFS in ICBHI and above -54 dBFS in 99 % of SPRSound. Below, the
# log-mel reaches its floor, and rounding to 16 bit takes the sound above 1 kHz.
LOW_LEVEL_DECIBELS = -55.0
LOUD_FRAMES_QUANTILE = 0.95

# Two thirds of fine crackles have peaks above 800 Hz (Nihon Kyobu Shikkan Gakkai Zasshi 33, 1341) and last some 5 ms
# (doi:10.1038/s41598-021-96724-7), so their spectrum is taken to reach 2 kHz; wheezes lie between 100 Hz and 1 kHz
# (Sovijärvi et al. 2000, ERS definitions).
CRACKLE_FREQUENCY = 2000.0
WHEEZE_FREQUENCY = 1000.0
BAND_WIDTH = 125.0
# A band is empty where even its loudest hundredth of frames is no louder than 6 dB above the noise of rounding to
# 16 bit (-101 dBFS), or 90 dB under the loudest band. From 1 kHz on, all bands are in one of 2107 recordings of ICBHI
# and SPRSound, and from 1125 Hz on in one in a hundred.
BAND_QUANTILE = 0.99
EMPTY_BAND_DECIBELS = -95.0
EMPTY_BAND_RELATIVE_DECIBELS = -90.0
SMALLEST_POWER = 1e-30

# 94 % of the annotated cycles of ICBHI's training part last longer; it is a whole breath at 60 breaths a minute.
SHORTEST_SECONDS = 1.0


@dataclass(frozen=True)
class QualityFlag:
    """
    One reason to distrust the answer for a recording.

    Args:
        flag (`str`): `silence`, `clipping`, `low_level`, `narrow_bandwidth` or `too_short`; of a file also
            `wrong_length`, `lossy` or `one_channel`; `unfamiliar` where a checkpoint knows what it was trained on.
        message (`str`): one sentence that says what is wrong and what to do.
        value (`float`): what was measured: the share of the recording that is silent or of its samples that are cut
            off or of its windows that are unfamiliar, the level in dBFS, the bandwidth in Hz, the duration in seconds,
            the seconds that are missing (negative: left over), the bit rate in bits/s, or the power of the fainter
            channel as a share of the louder one's.
        spans (`tuple[tuple[float, float], ...]`): start and end in seconds of what is silent, clipped or unfamiliar;
            empty where the whole recording is meant.
    """

    flag: str
    message: str
    value: float
    spans: tuple[tuple[float, float], ...] = ()


def assess_recording(waveform: np.ndarray, sampling_rate: int) -> list[QualityFlag]:
    """
    Looks for what keeps a recording from being judged.

    Args:
        waveform (`np.ndarray`): mono float waveform of shape `(samples,)`, full scale at -1 and 1, at the rate that it
            was recorded at. A memory-mapped array is read piece by piece.
        sampling_rate (`int`): that rate in Hz.

    Returns:
        `list[QualityFlag]`: in the order `too_short`, `silence`, `clipping`, `low_level`, `narrow_bandwidth`; empty
        where nothing is wrong.

    Raises:
        InputError: where the waveform is not mono or not finite, or the rate is not positive.

    Example:

    ```python
    >>> import numpy as np
    >>> from modeling_lung_srad.quality import assess_recording

    >>> noise = np.random.default_rng(0).normal(scale=0.1, size=160000)
    >>> assess_recording(noise, sampling_rate=16000)
    []
    >>> [flag.flag for flag in assess_recording(noise.clip(-0.1, 0.1), sampling_rate=16000)]
    ['clipping']

    ```"""
    if waveform.ndim != 1:
        raise InputError("waveform", f"has the shape {waveform.shape}", "average its channels to one")
    assessment = RecordingAssessment(sampling_rate)
    for start in range(0, len(waveform), assessment.block_samples):
        assessment.update(waveform[start : start + assessment.block_samples])
    return assessment.flags()


class RecordingAssessment:
    """
    [`assess_recording`] for a recording that is read piece by piece. It needs some 300 bytes for each 50 ms.

    Args:
        sampling_rate (`int`): in Hz.

    Raises:
        InputError: where the rate is not positive.

    Example:

    ```python
    >>> assessment = RecordingAssessment(4000)
    >>> for _ in range(3):
    ...     assessment.update(np.zeros(4000))
    >>> [(flag.flag, flag.spans) for flag in assessment.flags()]
    [('silence', ((0.0, 3.0),))]

    ```"""

    def __init__(self, sampling_rate: int):
        if sampling_rate <= 0:
            raise InputError("sampling_rate", f"{sampling_rate} Hz is not positive", "pass the rate of the recording")
        self.sampling_rate = sampling_rate
        self.frame_samples = max(2, round(LEVEL_SECONDS * sampling_rate))
        self.block_samples = FRAMES_PER_BLOCK * self.frame_samples
        self.num_samples = 0
        self._pending = np.zeros(0, dtype=np.float32)
        self._ranges: list[np.ndarray] = []
        self._powers: list[np.ndarray] = []
        self._bands: list[np.ndarray] = []
        self._tops, self._bottoms = _FlatTops(self.frame_samples), _FlatTops(self.frame_samples)
        self._lowest, self._highest = math.inf, -math.inf

    def update(self, samples: np.ndarray) -> None:
        """
        Takes the next samples of the recording.

        Args:
            samples (`np.ndarray`): float waveform of shape `(samples,)`, any number of them.

        Raises:
            InputError: where a sample is NaN or infinite.
        """
        samples = np.asarray(samples, dtype=np.float32)
        if not np.isfinite(samples).all():
            raise InputError("waveform", "has NaN or infinite samples", "export the recording again")
        self.num_samples += len(samples)
        self._pending = np.concatenate([self._pending, samples])
        while len(self._pending) >= self.block_samples:
            self._measure(self._pending[: self.block_samples])
            self._pending = self._pending[self.block_samples :]

    def flags(self) -> list[QualityFlag]:
        """Flags of the samples so far; call once, after the last `update`."""
        self._measure(self._pending)
        self._pending = self._pending[:0]
        low_level = self._low_level()
        # The end of the spectrum of a faint recording is where rounding begins, whatever was recorded.
        bandwidth = self.sampling_rate / 2 if low_level else min(self._bandwidth(), self.sampling_rate / 2)
        narrow_bandwidth = self._narrow_bandwidth(bandwidth)
        found = [self._too_short(), self._silence(), self._clipping(), low_level, narrow_bandwidth]
        return [flag for flag in found if flag is not None]

    def _measure(self, block: np.ndarray) -> None:
        if not len(block):
            return
        self._lowest, self._highest = min(self._lowest, float(block.min())), max(self._highest, float(block.max()))
        self._tops.update(block)
        self._bottoms.update(-block)
        frames = block[: len(block) // self.frame_samples * self.frame_samples].reshape(-1, self.frame_samples)
        centred = frames - frames.mean(axis=1, keepdims=True)
        self._ranges.append(np.ptp(frames, axis=1))
        self._powers.append(np.square(centred).mean(axis=1))
        self._bands.append(_band_powers(centred, self.sampling_rate))

    def _too_short(self) -> QualityFlag | None:
        seconds = self.num_samples / self.sampling_rate
        if seconds >= SHORTEST_SECONDS:
            return None
        message = (
            f"The recording lasts {seconds:.2f} s, less than a breath; record several breaths, 15 s or more at one "
            "place."
        )
        return QualityFlag("too_short", message, seconds)

    def _silent_frames(self) -> np.ndarray:
        """Which frames hold no sound, `(frames,)`."""
        largest = self._highest - self._lowest
        limit = SILENCE_RANGE if largest <= SILENCE_RANGE else min(SILENCE_RANGE, SILENCE_RELATIVE_RANGE * largest)
        return np.concatenate(self._ranges or [np.zeros(0)]) <= limit

    def _silence(self) -> QualityFlag | None:
        seconds = self.num_samples / self.sampling_rate
        if self._highest - self._lowest <= SILENCE_RANGE:
            message = "The recording holds no sound; check the microphone and its gain, and record again."
            return QualityFlag("silence", message, 1.0, ((0.0, seconds),))
        spans = self._spans(self._silent_frames())
        spans = tuple(span for span in spans if span[1] - span[0] >= SILENCE_SECONDS)
        if not spans:
            return None
        silent = sum(end - start for start, end in spans)
        message = (
            f"{silent:.1f} s of the recording are digital silence, in which nothing can be heard; record without "
            "muting, or leave these stretches out."
        )
        return QualityFlag("silence", message, silent / seconds, spans)

    def _clipping(self) -> QualityFlag | None:
        clipped = self._tops.counts() + self._bottoms.counts()
        share = clipped.sum() / max(self.num_samples, 1)
        if share < CLIPPING_SHARE:
            return None
        message = (
            f"{100 * share:.2g} % of the samples are cut off at the largest value that could be recorded, which adds "
            "sounds that no lung made; lower the gain and record again."
        )
        return QualityFlag("clipping", message, float(share), self._spans(clipped > 0))

    def _low_level(self) -> QualityFlag | None:
        sounding = self._sounding(self._powers)
        if not len(sounding):
            return None
        level = 10 * math.log10(np.quantile(sounding, LOUD_FRAMES_QUANTILE) + SMALLEST_POWER)
        if level >= LOW_LEVEL_DECIBELS:
            return None
        message = (
            f"The loudest parts of the recording reach {level:.0f} dBFS only, so faint sounds are lost in rounding; "
            "raise the gain, or press the sensor closer, and record again."
        )
        return QualityFlag("low_level", message, level)

    def _narrow_bandwidth(self, bandwidth: float) -> QualityFlag | None:
        if bandwidth <= WHEEZE_FREQUENCY:
            message = (
                f"The recording ends at {bandwidth:.0f} Hz, so crackles and higher wheezes can be missed; record at "
                f"{2 * CRACKLE_FREQUENCY:.0f} Hz or more, without a filter for heart sounds."
            )
        elif self.sampling_rate / 2 < CRACKLE_FREQUENCY:
            message = (
                f"A sampling rate of {self.sampling_rate} Hz ends at {bandwidth:.0f} Hz, so crackles, which reach "
                f"{CRACKLE_FREQUENCY:.0f} Hz, can be missed; record at {2 * CRACKLE_FREQUENCY:.0f} Hz or more."
            )
        else:
            return None
        return QualityFlag("narrow_bandwidth", message, bandwidth)

    def _bandwidth(self) -> float:
        """Upper end in Hz of the highest band that is not empty; infinite without any sound."""
        bands = self._sounding(self._bands)
        if not len(bands):
            return math.inf
        levels = 10 * np.log10(np.quantile(bands, BAND_QUANTILE, axis=0) + SMALLEST_POWER)
        filled = np.flatnonzero(levels > max(EMPTY_BAND_DECIBELS, levels.max() + EMPTY_BAND_RELATIVE_DECIBELS))
        if not len(filled):
            return math.inf
        return math.inf if filled[-1] == len(levels) - 1 else BAND_WIDTH * float(filled[-1] + 1)

    def _sounding(self, measures: list[np.ndarray]) -> np.ndarray:
        """A measure of the frames that are not silent."""
        if not measures:
            return np.zeros(0)
        return np.concatenate(measures)[~self._silent_frames()]

    def _spans(self, chosen: np.ndarray) -> tuple[tuple[float, float], ...]:
        """Start and end in seconds of the stretches of frames that are chosen."""
        starts, ends = _runs(chosen)
        seconds_per_frame = self.frame_samples / self.sampling_rate
        duration = self.num_samples / self.sampling_rate
        ends_in_seconds = np.minimum(ends * seconds_per_frame, duration)
        return tuple(
            (float(start), float(end)) for start, end in zip(starts * seconds_per_frame, ends_in_seconds, strict=True)
        )


class _FlatTops:
    """
    Counts samples in flat tops at the largest value so far, frame by frame.

    A top is flat where at least three neighbours lie within a tolerance below the largest value, and the waveform
    falls away from them at a corner: faster than a parabola, which the top of any unclipped wave is, could. Filters
    and lossy formats such as MP3 bend flat tops, and what was clipped before them is not found.
    """

    def __init__(self, frame_samples: int):
        self.frame_samples = frame_samples
        self.largest = 0.0
        self._counts: list[np.ndarray] = []

    def update(self, block: np.ndarray) -> None:
        largest = float(block.max())
        if largest > self.largest:
            if largest * (1 - FLAT_TOP_TOLERANCE) > self.largest + STEP:
                self._counts = [np.zeros_like(counts) for counts in self._counts]
            self.largest = largest
        tolerance = max(FLAT_TOP_TOLERANCE * self.largest, STEP)
        starts, ends = _runs((block >= self.largest - tolerance) & (self.largest > 0))
        lengths = ends - starts
        # Beyond either end of the block the waveform is not known, and taken to go on as it is.
        padded = np.pad(block, 1, mode="edge")
        fall = self.largest - np.minimum(padded[starts], padded[ends + 1])
        of_parabola = tolerance * np.square((lengths + 1) / np.maximum(lengths - 1, 1)) + STEP
        flat = (lengths >= FLAT_TOP_SAMPLES) & (fall > of_parabola)
        starts, lengths = starts[flat], lengths[flat]
        before = np.cumsum(lengths) - lengths
        inside = np.arange(lengths.sum()) + np.repeat(starts - before, lengths)
        counts = np.bincount(inside // self.frame_samples, minlength=math.ceil(len(block) / self.frame_samples))
        self._counts.append(counts)

    def counts(self) -> np.ndarray:
        """Number of such samples in each frame, `(frames,)`, the last of them possibly not whole."""
        return np.concatenate(self._counts or [np.zeros(0)])


def _band_powers(frames: np.ndarray, sampling_rate: int) -> np.ndarray:
    """Mean power of `(frames, samples)` in bands of 125 Hz up to 2 kHz or Nyquist, where white noise has its variance
    in each band, `(frames, bands)`."""
    # The squared Hann window, whose side lobes are gone after 100 Hz and not after 500 Hz.
    window = (np.hanning(frames.shape[1]) ** 2).astype(np.float32)
    power = np.square(np.abs(np.fft.rfft(frames * window))) / max(np.square(window).sum(), SMALLEST_POWER)
    frequencies = np.fft.rfftfreq(frames.shape[1], 1 / sampling_rate)
    num_bands = int(min(CRACKLE_FREQUENCY, sampling_rate / 2) / BAND_WIDTH)
    bands = np.empty((len(frames), num_bands), dtype=np.float32)
    for index in range(num_bands):
        inside = (frequencies >= BAND_WIDTH * index) & (frequencies < BAND_WIDTH * (index + 1))
        bands[:, index] = power[:, inside].mean(axis=1)
    return bands


def _runs(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Starts and ends (exclusive) of the runs of `True` in `(n,)`."""
    changes = np.flatnonzero(np.diff(np.concatenate([[False], chosen, [False]]).astype(np.int8)))
    return changes[::2], changes[1::2]


__all__ = ["QualityFlag", "RecordingAssessment", "assess_recording"]
