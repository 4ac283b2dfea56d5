"""Measures how well scores tell foreign sounds from those of validation patients, with the embedded checkpoint.

python -m benchmarks.familiarity ICBHI_FOLDER [--sprsound FOLDER] [--checkpoint DIR_OR_HUB_ID] [--count 100]

All is fitted on the training patients of the checkpoint, and familiar are the cycles of its validation patients; the
official test part is not touched. Speech needs the program espeak-ng and is left out without it.
"""

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from tqdm.auto import tqdm

from benchmarks.command import build_parser
from benchmarks.foreign_sounds import GENERATED, generate, speak
from dataset_scripts.icbhi import load_icbhi
from dataset_scripts.sprsound import load_sprsound
from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.audio import SAMPLING_RATE, read_audio, resample
from modeling_lung_srad.checkpoint_loading import DEFAULT_CHECKPOINT, load_checkpoint
from modeling_lung_srad.errors import InputError, reports_input_errors
from modeling_lung_srad.familiarity import Familiarity, fit_familiarity, log_mel_statistics
from training.record.training_record import TrainingRecord, read_training_record
from training.report.text import fraction, markdown_table

BATCH_SIZE = 16
FAMILIAR_KEPT = 0.95
WINDOW_SECONDS, HOP_SECONDS = 8, 4
IN_USE = "log-mel statistics"
NEAR = ("reversed", "played twice as fast", "played half as fast", "SPRSound cycles")


class Described(NamedTuple):
    """Inputs of the scores, for cycles: statistics and means of log-mel spectrograms, features and logits."""

    statistics: np.ndarray
    means: np.ndarray
    pooled: np.ndarray
    logits: np.ndarray


class Cycles(NamedTuple):
    """Cycles and their patients."""

    waveforms: list[np.ndarray]
    patients: list[str]


Score = Callable[[Described], np.ndarray]


@torch.inference_mode()
def describe(
    model: LungSradForAudioClassification,
    feature_extractor: LungSradFeatureExtractor,
    waveforms: Sequence[np.ndarray],
    description: str,
) -> Described:
    """Runs the network over waveforms at 16 kHz."""
    batches = []
    for first in tqdm(range(0, len(waveforms), BATCH_SIZE), desc=description, unit="batch"):
        batch = list(waveforms[first : first + BATCH_SIZE])
        log_mel = feature_extractor.log_mel(batch)
        outputs = model(feature_extractor.resize(feature_extractor.normalize(log_mel)))
        means = (log_mel.mean(dim=1) - log_mel.mean(dim=(1, 2))[:, None]).double().numpy()
        pooled, logits = (values.double().numpy() for values in (outputs.pooler_output, outputs.logits))
        batches.append(Described(log_mel_statistics(log_mel), means, pooled, logits))
    return Described(*(np.concatenate(values) for values in zip(*batches, strict=True)))


def candidate_scores(training: Described, patients: Sequence[str]) -> dict[str, Score]:
    """Scores that are higher for foreign sounds, fitted on the training cycles."""

    def shrunk(name: str) -> Score:
        fitted = fit_familiarity(getattr(training, name), patients)
        return lambda cycles: np.linalg.norm((getattr(cycles, name) - fitted.mean) @ fitted.whitening, axis=1)

    def diagonal(name: str) -> Score:
        values = getattr(training, name)
        mean, deviation = values.mean(axis=0), values.std(axis=0) + 1e-9
        return lambda cycles: np.linalg.norm((getattr(cycles, name) - mean) / deviation, axis=1)

    def largest_probability(cycles: Described) -> np.ndarray:
        return -torch.from_numpy(cycles.logits).softmax(dim=1).amax(dim=1).numpy()

    return {
        IN_USE: shrunk("statistics"),
        "log-mel statistics, diagonal": diagonal("statistics"),
        "log-mel means": shrunk("means"),
        "log-mel means, diagonal": diagonal("means"),
        "pooled features": shrunk("pooled"),
        "pooled features, diagonal": diagonal("pooled"),
        "largest probability": largest_probability,
        "energy": lambda cycles: -torch.from_numpy(cycles.logits).logsumexp(dim=1).numpy(),
    }


def load_cycles(folder: str, record: TrainingRecord) -> tuple[Cycles, Cycles, list[Path]]:
    """Training and validation cycles of a checkpoint, and the files of the validation recordings."""
    training, validation, files = Cycles([], []), Cycles([], []), set()
    for row in load_icbhi(folder, split=record.split)["train"]:
        is_validation = row["patient"] in record.validation_patients
        waveforms, patients = validation if is_validation else training
        waveforms.append(row["audio"]["array"])
        patients.append(row["patient"])
        if is_validation:
            files.add(Path(row["audio"]["path"]))
    return training, validation, sorted(files)


def foreign_sounds(validation: Cycles, sprsound: str | None, count: int) -> Iterator[tuple[str, list[np.ndarray]]]:
    """Kinds of sounds: first those that are near to the validation cycles, then far ones."""
    yield NEAR[0], [waveform[::-1].copy() for waveform in validation.waveforms]
    halved = [resample(waveform, 2 * SAMPLING_RATE, SAMPLING_RATE) for waveform in validation.waveforms]
    yield NEAR[1], [waveform for waveform in halved if len(waveform) > SAMPLING_RATE // 20]
    yield NEAR[2], [resample(waveform, SAMPLING_RATE // 2, SAMPLING_RATE) for waveform in validation.waveforms]
    if sprsound is not None:
        cycles = load_sprsound(sprsound)["train"]
        chosen = random.Random(0).sample(range(len(cycles)), min(3 * count, len(cycles)))
        yield NEAR[3], [cycles[index]["audio"]["array"] for index in sorted(chosen)]
    for name in GENERATED:
        yield name, generate(name, count)
    if spoken := speak(count):
        yield "speech", spoken
        pairs = zip(spoken, validation.waveforms, strict=False)
        yield "speech over lung sounds", [_mixed(speech, lung) for speech, lung in pairs]


def measure(checkpoint: str, icbhi: str, sprsound: str | None, count: int) -> None:
    """Prints the tables."""
    record = read_training_record(checkpoint)
    if record is None or not record.validation_patients:
        raise InputError(checkpoint, "lacks validation patients to be familiar with", "name another checkpoint")
    model, feature_extractor = load_checkpoint(checkpoint)
    training, validation, files = load_cycles(icbhi, record)
    print(f"{len(training.waveforms)} training cycles, {len(validation.waveforms)} validation cycles\n")
    described = describe(model, feature_extractor, training.waveforms, "training")
    familiarity = fit_familiarity(described.statistics, training.patients)
    scores = candidate_scores(described, training.patients)
    familiar = describe(model, feature_extractor, validation.waveforms, "validation")
    sounds = {
        name: describe(model, feature_extractor, waveforms, name)
        for name, waveforms in foreign_sounds(validation, sprsound, count)
    }
    print_candidates(scores, familiar, [cycles for name, cycles in sounds.items() if name not in NEAR])
    print_sounds(scores[IN_USE], familiarity.threshold, {"validation cycles": familiar, **sounds})
    print_windows(familiarity, feature_extractor, files)


def print_candidates(scores: dict[str, Score], familiar: Described, far: Sequence[Described]) -> None:
    """A row for each score: how well it tells far sounds from the validation cycles, over kinds of sounds."""
    rows = []
    for name, score in scores.items():
        areas, shares = np.transpose([separation(score(familiar), score(cycles)) for cycles in far])
        rows.append((name, *map(fraction, (areas.mean(), areas.min(), shares.mean(), shares.max()))))
    header = ("score", "AUROC, mean", "lowest", "accepted at 95 % of familiar, mean", "highest")
    print("\n".join(markdown_table(header, rows)))


def print_sounds(score: Score, threshold: float, sounds: dict[str, Described]) -> None:
    """A row for each kind of sound, the familiar ones first: the score in use."""
    familiar, rows = score(next(iter(sounds.values()))), []
    for name, cycles in sounds.items():
        distances = score(cycles)
        figures = (*separation(familiar, distances), (distances > threshold).mean())
        rows.append((name, len(distances), *map(fraction, figures)))
    header = ("sound", "cycles", "AUROC", "accepted at 95 % of familiar", "flagged")
    print("\n".join(["", *markdown_table(header, rows)]))


def print_windows(
    familiarity: Familiarity, feature_extractor: LungSradFeatureExtractor, files: Sequence[Path]
) -> None:
    """Counts unfamiliar windows in whole validation recordings, and flagged recordings."""
    flagged, largest, of_recordings = [], 0.0, 0
    for path in tqdm(files, desc="recordings", unit="recording"):
        windows, spans = _windows(path)
        distances = familiarity.distance(feature_extractor.log_mel(windows))
        flagged.append(distances > familiarity.threshold)
        largest = max(largest, flagged[-1].mean())
        of_recordings += familiarity.flag(distances, spans) is not None
    with_any = sum(one.any() for one in flagged)
    print(
        f"\n{np.concatenate(flagged).mean():.3f} of the windows of {WINDOW_SECONDS} s of {len(files)} validation "
        f"recordings are flagged: in {with_any} recordings, and up to {largest:.2f} of one. "
        f"{of_recordings} recordings are flagged"
    )


def separation(familiar: np.ndarray, foreign: np.ndarray) -> tuple[float, float]:
    """AUROC, and the share of foreign sounds below the score that 95 % of the familiar ones stay below."""
    labels = np.concatenate([np.zeros(len(familiar)), np.ones(len(foreign))])
    area = roc_auc_score(labels, np.concatenate([familiar, foreign]))
    return float(area), float((foreign <= np.quantile(familiar, FAMILIAR_KEPT)).mean())


def _windows(path: Path) -> tuple[list[np.ndarray], list[tuple[float, float]]]:
    """Windows over a recording, and their start and end in seconds."""
    waveform = read_audio(path)
    length, hop = WINDOW_SECONDS * SAMPLING_RATE, HOP_SECONDS * SAMPLING_RATE
    starts = range(0, max(len(waveform) - length, 0) + 1, hop)
    spans = [(start / SAMPLING_RATE, (start + length) / SAMPLING_RATE) for start in starts]
    return [waveform[start : start + length] for start in starts], spans


def _mixed(speech: np.ndarray, lung: np.ndarray) -> np.ndarray:
    length = min(len(speech), len(lung))
    return (speech[:length] / np.abs(speech).max() + lung[:length] / np.abs(lung).max()) / 2


@reports_input_errors
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = build_parser("familiarity", __doc__)
    parser.add_argument("icbhi", help="folder or zip of ICBHI 2017")
    parser.add_argument("--sprsound", help="folder of SPRSound, as sounds that are near")
    parser.add_argument("--checkpoint", default=str(DEFAULT_CHECKPOINT), help="the embedded one by default")
    parser.add_argument("--count", type=int, default=100, help="sounds of each kind (default: 100)")
    options = parser.parse_args(argv)
    measure(options.checkpoint, options.icbhi, options.sprsound, options.count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
