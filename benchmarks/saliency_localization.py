"""Counts how often the peak of a saliency map falls on the one event of a simulated recording.

python -m benchmarks.saliency_localization [--checkpoint FOLDER_OR_HUB_ID] [--recordings 100] [--seconds 8]

Every recording is 8 s (or fewer, which reach the model repeated to 8 s) of normal breathing with heart sounds, sensor
noise and one event (`simulate_event`): half of them have a burst of crackles, the others a wheeze. The map explains
the log odds of crackle or both, or of wheeze or both. Its peak, the centre of the cell with the largest value, hits
the event if it is

- at most 100 ms before the event's start or after its end, and
- at most 10 mel bins from its frequency: for crackles the one at which their power spectrum is largest; for a wheeze
  the fundamental or an audible harmonic at any moment of the wheeze within 100 ms of the peak.

Mel bins are those of 128 between 20 Hz and 8 kHz, whatever the model has. Two rows need no network, or none that has
learned: the largest excess of the log-mel spectrogram over its background, and a model of random weights. `rise` is
the median by which the event raises the log odds, the same recording without it as reference: where that is about
zero, the model does not hear the event and no explanation can find it.
"""

import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.command import build_parser, write_json
from dataset_scripts.simulated_events import SimulatedEvent, simulate_event
from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.checkpoint_loading import DEFAULT_CHECKPOINT, load_checkpoint
from modeling_lung_srad.configuration_lung_srad import CLASS_NAMES
from modeling_lung_srad.errors import reports_input_errors
from modeling_lung_srad.feature_extraction_lung_srad import LOWEST_FREQUENCY, hertz_to_mel
from modeling_lung_srad.saliency import ANY_CRACKLE, ANY_WHEEZE, METHODS, frame_times, mel_frequencies, saliency_map
from training.report.text import markdown_table

SAMPLING_RATE = 16000
SECONDS = 8.0
SEED = 6
TIME_TOLERANCE = 0.1
BIN_TOLERANCE = 10.0
REFERENCE_BINS = 128
INAUDIBLE = 1e-9
EVENT_NAMES = ("crackle", "wheeze")


@dataclass(frozen=True)
class Recording:
    """
    A simulated recording.

    Args:
        waveform (`np.ndarray`): shape `(samples,)`, at 16 kHz.
        without_event (`np.ndarray`): the same breathing, heart and noise alone.
        event ([`SimulatedEvent`]): the planted sound.
    """

    waveform: np.ndarray
    without_event: np.ndarray
    event: SimulatedEvent

    @property
    def target(self) -> tuple[str, ...]:
        """The classes that have such an event."""
        return ANY_CRACKLE if CLASS_NAMES[self.event.label] == "crackle" else ANY_WHEEZE


@dataclass(frozen=True)
class Localization:
    """
    Hits of one method with one model.

    Args:
        model (`str`): its name.
        method (`str`): of `METHODS`, or `"excess"`.
        hits (`dict[str, int]`): by class of the event.
        recordings (`dict[str, int]`): number by class.
        rise (`dict[str, float]`): median rise of the log odds by the event, by class; empty without a model.
        seconds (`float`): median time of a map.
    """

    model: str
    method: str
    hits: dict[str, int]
    recordings: dict[str, int]
    rise: dict[str, float]
    seconds: float


def simulate_recordings(
    number: int, level: float = 1.0, seconds: float = SECONDS, seed: int = SEED
) -> list[Recording]:
    """Crackles and wheezes in turn, each seeded by `seed` and its index."""
    labels = [CLASS_NAMES.index(name) for name in EVENT_NAMES]
    recordings = []
    for index in range(number):
        label = labels[index % len(labels)]
        waveform, event = simulate_event(label, seconds, SAMPLING_RATE, np.random.default_rng([seed, index]), level)
        without_event, _ = simulate_event(
            label, seconds, SAMPLING_RATE, np.random.default_rng([seed, index]), INAUDIBLE
        )
        recordings.append(Recording(waveform, without_event, event))
    return recordings


def is_hit(event: SimulatedEvent, peak_time: float, peak_frequency: float) -> bool:
    """
    True for a peak within 100 ms and 10 mel bins of an event, see the top of this file.

    Args:
        event ([`SimulatedEvent`]): the event.
        peak_time (`float`): seconds from the beginning of the recording.
        peak_frequency (`float`): in Hz.
    """
    if not event.start - TIME_TOLERANCE <= peak_time <= event.end + TIME_TOLERANCE:
        return False
    is_crackle = CLASS_NAMES[event.label] == "crackle"
    # All crackles of a burst have one frequency, so the whole burst is one place.
    near = np.full(len(event.times), True) if is_crackle else np.abs(event.times - peak_time) <= TIME_TOLERANCE
    frequencies = event.frequencies[near]
    frequencies = frequencies[np.isfinite(frequencies)]
    distances = np.abs(mel_bins(frequencies) - mel_bins(np.array(peak_frequency)))
    return bool(distances.size and distances.min() <= BIN_TOLERANCE)


def mel_bins(frequencies: np.ndarray) -> np.ndarray:
    """Position of frequencies in Hz among 128 mel bins, as a fraction, 0 being the centre of the lowest bin."""
    low, high = hertz_to_mel([LOWEST_FREQUENCY, SAMPLING_RATE / 2])
    return (hertz_to_mel(frequencies) - low) / (high - low) * (REFERENCE_BINS + 1) - 1


def localize(
    name: str,
    model: LungSradForAudioClassification,
    feature_extractor: LungSradFeatureExtractor,
    recordings: Sequence[Recording],
) -> Iterator[Localization]:
    """A row for each of `METHODS`."""
    rise = median_rise(model, feature_extractor, recordings)
    for method in METHODS:
        peaks, seconds = [], []
        for recording in tqdm(recordings, desc=f"{name}, {method}", unit="recording", leave=False):
            start = time.perf_counter()
            saliency = saliency_map(
                model, feature_extractor, recording.waveform, SAMPLING_RATE, recording.target, method
            )
            seconds.append(time.perf_counter() - start)
            peaks.append((saliency.peak_time, saliency.peak_frequency))
        yield _count(name, method, recordings, peaks, rise, statistics.median(seconds))


def localize_excess(recordings: Sequence[Recording]) -> Localization:
    """The loudest sound alone: the cell that is furthest above the median of its mel bin."""
    feature_extractor = LungSradFeatureExtractor(cycle_seconds=SECONDS, num_frames=512)
    times, frequencies = frame_times(feature_extractor), mel_frequencies(feature_extractor)
    peaks, seconds = [], []
    for recording in recordings:
        start = time.perf_counter()
        log_mel = feature_extractor(recording.waveform, sampling_rate=SAMPLING_RATE)["input_values"][0]
        # Later frames repeat the recording.
        log_mel = log_mel[times < len(recording.waveform) / SAMPLING_RATE]
        excess = log_mel - np.median(log_mel, axis=0)
        frame, mel_bin = np.unravel_index(int(np.argmax(excess)), excess.shape)
        seconds.append(time.perf_counter() - start)
        peaks.append((float(times[frame]), float(frequencies[mel_bin])))
    return _count("none", "excess over the background", recordings, peaks, {}, statistics.median(seconds))


@torch.inference_mode()
def median_rise(
    model: LungSradForAudioClassification,
    feature_extractor: LungSradFeatureExtractor,
    recordings: Sequence[Recording],
) -> dict[str, float]:
    """Median rise of the log odds by the event, by class."""
    rises: dict[str, list[float]] = {}
    for recording in recordings:
        features = feature_extractor(
            [recording.waveform, recording.without_event], sampling_rate=SAMPLING_RATE, return_tensors="pt"
        )
        probabilities = torch.softmax(model(features["input_values"]).logits.double(), dim=-1)
        labels = (model.config.id2label or {}).values()
        in_target = torch.tensor([label in recording.target for label in labels])
        log_odds = torch.logit(probabilities[:, in_target].sum(dim=-1))
        rises.setdefault(CLASS_NAMES[recording.event.label], []).append((log_odds[0] - log_odds[1]).item())
    return {name: statistics.median(values) for name, values in rises.items()}


def describe(row: Localization) -> str:
    """A line of a Markdown table, see [`header`]."""
    hits = [f"{row.hits[name]} of {row.recordings[name]}" for name in EVENT_NAMES]
    total = f"**{sum(row.hits.values())} of {sum(row.recordings.values())}**"
    rises = [f"{row.rise[name]:+.2f}" if row.rise else "" for name in EVENT_NAMES]
    return markdown_table([], [(row.model, row.method, *hits, total, *rises, f"{row.seconds:.2f}")])[-1]


def header() -> str:
    """The first two lines of that table."""
    names = ["model", "method", *EVENT_NAMES, "all", *(f"rise, {name}" for name in EVENT_NAMES), "seconds a map"]
    return "\n".join(markdown_table(names, []))


@reports_input_errors
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = build_parser("saliency_localization", __doc__)
    parser.add_argument("--checkpoint", action="append", help="(default: the embedded one; may be given repeatedly)")
    parser.add_argument("--recordings", type=int, default=100, help="(default: 100)")
    parser.add_argument("--level", type=float, default=1.0, help="factor on the event's amplitude (default: 1)")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="length of a recording, 1 to 8 (default: 8)")
    parser.add_argument(
        "--seed", type=int, default=SEED, help="of the recordings; not 77, that of training (default: 6)"
    )
    parser.add_argument("--output", help="JSON file for the figures")
    options = parser.parse_args(argv)
    if options.recordings < 2 or not options.level > 0 or not 1 <= options.seconds <= SECONDS or options.seed < 0:
        parser.error("give at least 2 recordings, a positive level, 1 to 8 seconds and no negative seed")
    recordings = simulate_recordings(options.recordings, options.level, options.seconds, options.seed)
    lengths = f"{options.recordings} recordings of {options.seconds:g} s, seed {options.seed}, level {options.level:g}"
    print(f"{lengths}, {torch.get_num_threads()} threads\n\n{header()}", flush=True)
    rows = []
    for row in _rows(options.checkpoint or [str(DEFAULT_CHECKPOINT)], recordings):
        print(describe(row), flush=True)
        rows.append(row)
    if options.output:
        write_json(options.output, vars(options) | {"rows": [vars(row) for row in rows]})
    return 0


def _rows(checkpoints: Sequence[str], recordings: Sequence[Recording]) -> Iterator[Localization]:
    """Rows without a model, of the checkpoints, and of the last one with random weights."""
    yield localize_excess(recordings)
    for checkpoint in checkpoints:
        model, feature_extractor = load_checkpoint(checkpoint)
        yield from localize(Path(checkpoint).name, model, feature_extractor, recordings)
    torch.manual_seed(0)
    untrained = LungSradForAudioClassification(model.config).eval()
    yield from localize("random weights", untrained, feature_extractor, recordings)


def _count(
    model: str,
    method: str,
    recordings: Sequence[Recording],
    peaks: Sequence[tuple[float, float]],
    rise: dict[str, float],
    seconds: float,
) -> Localization:
    hits: dict[str, int] = {}
    totals: dict[str, int] = {}
    for recording, peak in zip(recordings, peaks, strict=True):
        name = CLASS_NAMES[recording.event.label]
        hits[name] = hits.get(name, 0) + is_hit(recording.event, *peak)
        totals[name] = totals.get(name, 0) + 1
    return Localization(model, method, hits, totals, rise, seconds)


if __name__ == "__main__":
    sys.exit(main())
