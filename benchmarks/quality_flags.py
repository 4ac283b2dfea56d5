"""Counts quality flags on recordings as they are, and on the same recordings made bad on purpose.

python -m benchmarks.quality_flags ICBHI_FOLDER [--sprsound FOLDER] [--recordings 100] [--seed 0]

Only recordings of the training parts are read. Experts labelled all of them, so a flag for a faint, narrow or short
sound is a false alarm there. Clipping and silence are real in some; for these, false alarms are counted on recordings
that stay 1 dB under full scale, or that never repeat a sample for half a second.
"""

import io
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
from scipy.signal import butter, sosfilt
from tqdm.auto import tqdm

from benchmarks.command import build_parser
from dataset_scripts.icbhi_files import read_recordings, scan_folder
from modeling_lung_srad.audio import resample
from modeling_lung_srad.errors import InputError, reports_input_errors
from modeling_lung_srad.quality import SILENCE_SECONDS, assess_recording
from training.report.text import markdown_table

FLAGS = ("too_short", "silence", "clipping", "low_level", "narrow_bandwidth")
BELOW_FULL_SCALE = 10 ** (-1 / 20)
SPRSOUND_FOLDER = "train_wav"


class Recording(NamedTuple):
    """A recording: where it is from, its waveform `(samples,)` and its rate in Hz."""

    source: str
    waveform: np.ndarray
    rate: int


class Fault(NamedTuple):
    """A way to spoil a recording, and the flag that should be raised for it."""

    name: str
    flag: str
    spoil: Callable[[np.ndarray, int, np.random.Generator], tuple[np.ndarray, int]]


def cut_loudest(share: float, gain: float = 1.0) -> Callable:
    """Limits the waveform such that this share of its samples is cut off, then changes its level."""

    def spoil(waveform: np.ndarray, rate: int, generator: np.random.Generator) -> tuple[np.ndarray, int]:
        limit = np.quantile(np.abs(waveform), 1 - share)
        return as_16_bit(gain * waveform.clip(-limit, limit)), rate

    return spoil


def compress(waveform: np.ndarray, rate: int, generator: np.random.Generator) -> tuple[np.ndarray, int]:
    """Cuts one sample in a hundred off and stores the rest as MP3."""
    file = io.BytesIO()
    clipped, _ = cut_loudest(0.01)(waveform, rate, generator)
    soundfile.write(file, clipped, rate, format="MP3")
    file.seek(0)
    return soundfile.read(file, dtype="float32")[0], rate


def mute(seconds: float) -> Callable:
    """Puts zeros somewhere into the recording."""

    def spoil(waveform: np.ndarray, rate: int, generator: np.random.Generator) -> tuple[np.ndarray, int]:
        first = generator.integers(0, max(len(waveform) - round(seconds * rate), 1))
        muted = waveform.copy()
        muted[first : first + round(seconds * rate)] = 0
        return muted, rate

    return spoil


def unplug(waveform: np.ndarray, rate: int, generator: np.random.Generator) -> tuple[np.ndarray, int]:
    """Leaves the last bit of 16 alone."""
    return generator.integers(-1, 1, size=len(waveform)) / 2**15, rate


def attenuate(decibels: float) -> Callable:
    """Lowers the level of a recording of 16 bit."""
    return lambda waveform, rate, generator: (as_16_bit(waveform * 10 ** (-decibels / 20)), rate)


def cut_above(frequency: float, order: int | None = None) -> Callable:
    """Takes everything above a frequency away, or lets a Butterworth filter do it. A peak of at most 0.5 before it
    leaves room for the overshoot of clipped tops."""

    def spoil(waveform: np.ndarray, rate: int, generator: np.random.Generator) -> tuple[np.ndarray, int]:
        waveform = waveform * min(1, 0.5 / np.abs(waveform).max())
        if order is not None:
            return as_16_bit(sosfilt(butter(order, frequency, fs=rate, output="sos"), waveform)), rate
        spectrum = np.fft.rfft(waveform)
        spectrum[np.fft.rfftfreq(len(waveform), 1 / rate) > frequency] = 0
        return as_16_bit(np.fft.irfft(spectrum, len(waveform))), rate

    return spoil


def record_at(rate_of_recorder: int) -> Callable:
    """Lowers the sampling rate."""
    return lambda waveform, rate, generator: (resample(waveform, rate, rate_of_recorder), rate_of_recorder)


def shorten(seconds: float) -> Callable:
    """Keeps the beginning."""
    return lambda waveform, rate, generator: (waveform[: round(seconds * rate)], rate)


def as_16_bit(waveform: np.ndarray) -> np.ndarray:
    """The waveform as a file of 16 bit holds it."""
    return np.round(waveform.clip(-1, 1 - 2**-15) * 2**15) / 2**15


FAULTS = (
    Fault("0.1 % of the samples cut off", "clipping", cut_loudest(0.001)),
    Fault("1 % cut off", "clipping", cut_loudest(0.01)),
    Fault("10 % cut off", "clipping", cut_loudest(0.1)),
    Fault("1 % cut off, then 12 dB softer", "clipping", cut_loudest(0.01, 0.25)),
    Fault("1 % cut off, then MP3", "clipping", compress),
    Fault("0.6 s of zeros", "silence", mute(0.6)),
    Fault("2 s of zeros", "silence", mute(2.0)),
    Fault("last bit only", "silence", unplug),
    Fault("20 dB softer", "low_level", attenuate(20)),
    Fault("40 dB softer", "low_level", attenuate(40)),
    Fault("60 dB softer", "low_level", attenuate(60)),
    Fault("nothing above 400 Hz", "narrow_bandwidth", cut_above(400)),
    Fault("nothing above 800 Hz", "narrow_bandwidth", cut_above(800)),
    Fault("Butterworth, order 8, at 400 Hz", "narrow_bandwidth", cut_above(400, 8)),
    Fault("Butterworth, order 4, at 400 Hz", "narrow_bandwidth", cut_above(400, 4)),
    Fault("recorded at 3 kHz", "narrow_bandwidth", record_at(3000)),
    Fault("0.9 s", "too_short", shorten(0.9)),
)


def read_training_recordings(icbhi: str, sprsound: str | None, count: int, seed: int) -> list[Recording]:
    """Recordings of the training parts, at most `count` of each data set, drawn at random."""
    found = [
        (f"ICBHI, {entry.device}", Path(entry.path))
        for entry in read_recordings(scan_folder(Path(icbhi)), "official")["train"]
    ]
    draw = random.Random(seed)
    chosen = draw.sample(found, min(count, len(found)))
    if sprsound is not None:
        files = sorted(Path(sprsound, SPRSOUND_FOLDER).glob("*.wav"))
        if not files:
            raise InputError(sprsound, f"lacks {SPRSOUND_FOLDER}/*.wav", "name the folder of SPRSound")
        chosen += [("SPRSound", path) for path in draw.sample(files, min(count, len(files)))]
    recordings = []
    for source, path in sorted(chosen):
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
        recordings.append(Recording(f"{source}, {rate / 1000:g} kHz", samples.mean(axis=1), rate))
    return recordings


def raised(waveform: np.ndarray, rate: int) -> set[str]:
    """Names of the flags of a waveform."""
    return {flag.flag for flag in assess_recording(waveform, rate)}


def measure(icbhi: str, sprsound: str | None, count: int, seed: int) -> None:
    """Prints the tables."""
    recordings = read_training_recordings(icbhi, sprsound, count, seed)
    flags = [raised(recording.waveform, recording.rate) for recording in tqdm(recordings, desc="as they are")]
    print_rates(recordings, flags)
    print_false_alarms(recordings, flags)
    print_detections(recordings, flags, seed)


def print_rates(recordings: Sequence[Recording], flags: Sequence[set[str]]) -> None:
    """A row for each source: in how many recordings, as they are, each flag is raised."""
    rows = []
    for source in sorted({recording.source for recording in recordings}):
        of_source = [found for recording, found in zip(recordings, flags, strict=True) if recording.source == source]
        rows.append((source, len(of_source), *(sum(flag in found for found in of_source) for flag in FLAGS)))
    print("\n".join(markdown_table(("source", "recordings", *FLAGS), rows)))


def print_false_alarms(recordings: Sequence[Recording], flags: Sequence[set[str]]) -> None:
    """A row for each flag: how often it is raised without a reason."""
    rows = []
    for flag in FLAGS:
        sound = [
            found
            for recording, found in zip(recordings, flags, strict=True)
            if not may_have(flag, recording.waveform, recording.rate)
        ]
        rows.append((flag, len(sound), sum(flag in found for found in sound)))
    print("\n".join(["", *markdown_table(("flag", "recordings without its fault", "false alarms"), rows)]))


def print_detections(recordings: Sequence[Recording], flags: Sequence[set[str]], seed: int) -> None:
    """A row for each fault: in how many recordings that had no such flag it is found."""
    rows = []
    for index, fault in enumerate(tqdm(FAULTS, desc="faults", unit="fault")):
        generator = np.random.default_rng([seed, index])
        found = list(_spoilt(fault, recordings, flags, generator))
        rows.append((fault.name, fault.flag, len(found), f"{np.mean(found):.3f}"))
    print("\n".join(["", *markdown_table(("fault", "flag", "recordings", "found"), rows)]))


def may_have(flag: str, waveform: np.ndarray, rate: int) -> bool:
    """True where a simpler criterion cannot exclude a fault that some published recordings have."""
    if flag == "clipping":
        return bool(np.abs(waveform).max() >= BELOW_FULL_SCALE)
    if flag == "silence":
        changes = np.flatnonzero(np.diff(waveform, prepend=np.nan, append=np.nan))
        return bool(np.diff(changes).max() >= SILENCE_SECONDS * rate)
    return False


def _spoilt(
    fault: Fault, recordings: Sequence[Recording], flags: Sequence[set[str]], generator: np.random.Generator
) -> Iterator[bool]:
    for (_, waveform, rate), before in zip(recordings, flags, strict=True):
        if fault.flag not in before and not may_have(fault.flag, waveform, rate):
            yield fault.flag in raised(*fault.spoil(waveform, rate, generator))


@reports_input_errors
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = build_parser("quality_flags", __doc__)
    parser.add_argument("icbhi", help="folder of ICBHI 2017")
    parser.add_argument("--sprsound", help="folder of SPRSound")
    parser.add_argument("--recordings", type=int, default=100, help="of each data set, at most (default: 100)")
    parser.add_argument("--seed", type=int, default=0, help="draw of the recordings and of the faults (default: 0)")
    options = parser.parse_args(argv)
    measure(options.icbhi, options.sprsound, options.recordings, options.seed)
    return 0


if __name__ == "__main__":
    sys.exit(main())
