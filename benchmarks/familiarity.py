"""How well scores tell foreign sounds from those of validation patients, with the embedded checkpoint.

python -m benchmarks.familiarity ICBHI_FOLDER [--sprsound FOLDER] [--checkpoint DIR_OR_HUB_ID] [--count 100]

All is fitted on the training patients of the checkpoint, and familiar are the cycles of its validation patients; the
official test part is not touched. Speech needs the program espeak-ng and is left out without it.
"""

import argparse
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from tqdm.auto import tqdm

from benchmarks.foreign_sounds import GENERATED, generate, speak
from dataset_scripts.icbhi import load_icbhi
from dataset_scripts.sprsound import load_sprsound
from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.audio import SAMPLING_RATE, read_audio, resample
from modeling_lung_srad.checkpoint_loading import DEFAULT_CHECKPOINT, load_checkpoint
from modeling_lung_srad.familiarity import Familiarity, fit_familiarity, log_mel_statistics
from training.training_record import read_training_record

BATCH_SIZE = 16
FAMILIAR_KEPT = 0.95
WINDOW_SECONDS, HOP_SECONDS = 8, 4
IN_USE = "log-mel statistics"
NEAR = ("reversed", "played twice as fast", "played half as fast", "SPRSound cycles")


class Described(NamedTuple):
    """What the scores are made of, for cycles: statistics and means of log-mel spectrograms, features and logits."""

    statistics: np.ndarray
    means: np.ndarray
    pooled: np.ndarray
    logits: np.ndarray


class Cycles(NamedTuple):
    """Cycles of some patients, and the recordings that they are from."""

    waveforms: list[np.ndarray]
    patients: list[str]
    recordings: list[str]


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
        features = feature_extractor(batch, sampling_rate=SAMPLING_RATE, return_tensors="pt")["input_values"]
        outputs = model(features)
        means = features.mean(dim=1).double().numpy()
        pooled, logits = (values.double().numpy() for values in (outputs.pooler_output, outputs.logits))
        batches.append(Described(log_mel_statistics(features), means, pooled, logits))
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


def load_cycles(folder: str, validation_patients: Sequence[str]) -> tuple[Cycles, Cycles, dict[str, Path]]:
    """Training and validation cycles, and the files of the validation recordings."""
    parts, files = (Cycles([], [], []), Cycles([], [], [])), {}
    for row in load_icbhi(folder)["train"]:
        is_validation = row["patient"] in validation_patients
        waveforms, patients, recordings = parts[is_validation]
        waveforms.append(row["audio"]["array"])
        patients.append(row["patient"])
        recordings.append(row["recording"])
        if is_validation:
            files[row["recording"]] = Path(row["audio"]["path"].rpartition("#")[0] or row["audio"]["path"])
    return *parts, files


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
        raise ValueError(f"{checkpoint}: has no validation patients to be familiar with; name another checkpoint")
    model, feature_extractor = load_checkpoint(checkpoint)
    training, validation, files = load_cycles(icbhi, record.validation_patients)
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
    print("| score | AUROC, mean | lowest | accepted at 95 % of familiar, mean | highest |\n|" + " --- |" * 5)
    for name, score in scores.items():
        areas, shares = np.transpose([separation(score(familiar), score(cycles)) for cycles in far])
        print(f"| {name} | {areas.mean():.3f} | {areas.min():.3f} | {shares.mean():.3f} | {shares.max():.3f} |")


def print_sounds(score: Score, threshold: float, sounds: dict[str, Described]) -> None:
    """A row for each kind of sound, the familiar ones first: the score in use."""
    print("\n| sound | cycles | AUROC | accepted at 95 % of familiar | flagged |\n|" + " --- |" * 5)
    familiar = score(next(iter(sounds.values())))
    for name, cycles in sounds.items():
        distances = score(cycles)
        area, accepted = separation(familiar, distances)
        flagged = (distances > threshold).mean()
        print(f"| {name} | {len(distances)} | {area:.3f} | {accepted:.3f} | {flagged:.3f} |")


def print_windows(
    familiarity: Familiarity, feature_extractor: LungSradFeatureExtractor, files: dict[str, Path]
) -> None:
    """How often windows of whole validation recordings are flagged, and what share of the recordings would be."""
    shares, flags = [], []
    for path in tqdm(files.values(), desc="recordings", unit="recording"):
        windows = feature_extractor(_windows(path), sampling_rate=SAMPLING_RATE, return_tensors="pt")["input_values"]
        flags.append(familiarity.is_unfamiliar(windows))
        shares.append(flags[-1].mean())
    flagged = np.concatenate(flags)
    counts = ", ".join(f"{np.mean(np.array(shares) >= share):.3f} {share:.0%}" for share in (0.01, 0.25, 0.5))
    print(
        f"\n{flagged.mean():.3f} of {len(flagged)} windows of {WINDOW_SECONDS} s are flagged; of {len(files)} "
        f"validation recordings, these shares have as many such windows or more: {counts}"
    )


def separation(familiar: np.ndarray, foreign: np.ndarray) -> tuple[float, float]:
    """AUROC, and the share of foreign sounds below the score that 95 % of the familiar ones stay below."""
    labels = np.concatenate([np.zeros(len(familiar)), np.ones(len(foreign))])
    area = roc_auc_score(labels, np.concatenate([familiar, foreign]))
    return float(area), float((foreign <= np.quantile(familiar, FAMILIAR_KEPT)).mean())


def _windows(path: Path) -> list[np.ndarray]:
    waveform = read_audio(path)
    length, hop = WINDOW_SECONDS * SAMPLING_RATE, HOP_SECONDS * SAMPLING_RATE
    return [waveform[first : first + length] for first in range(0, max(len(waveform) - length, 0) + 1, hop)]


def _mixed(speech: np.ndarray, lung: np.ndarray) -> np.ndarray:
    length = min(len(speech), len(lung))
    return (speech[:length] / np.abs(speech).max() + lung[:length] / np.abs(lung).max()) / 2


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.familiarity",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("icbhi", help="folder or zip of ICBHI 2017")
    parser.add_argument("--sprsound", help="folder of SPRSound, as sounds that are near")
    parser.add_argument("--checkpoint", default=str(DEFAULT_CHECKPOINT), help="the embedded one by default")
    parser.add_argument("--count", type=int, default=100, help="sounds of each kind (default: 100)")
    options = parser.parse_args(argv)
    try:
        measure(options.checkpoint, options.icbhi, options.sprsound, options.count)
    except (ValueError, OSError) as error:
        print(f"familiarity: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
