"""What is fitted when training is over, and kept with the checkpoint: temperature and familiarity.

`python -m training.post_training CHECKPOINT ICBHI_FOLDER` fits both for a checkpoint that was trained before.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit, softmax
from tqdm.auto import tqdm

from modeling_lung_srad.checkpoint_loading import CheckpointError, load_checkpoint
from modeling_lung_srad.familiarity import Familiarity, fit_familiarity, log_mel_statistics
from training.cycle_sources import CycleSource, RunSources
from training.evaluate_checkpoint import predict
from training.evaluated_cycles import load_evaluated_cycles
from training.feature_cache import cached_log_mel
from training.log_mel_dataset import LogMelDataset, check_sampling_rate, compute_log_mel
from training.metrics.icbhi_score.icbhi_measure import confusion_counts, rates_from_counts
from training.report.calibration import fit_temperature
from training.report.files import write_text
from training.trainer import LungSradTrainer
from training.training_record import read_training_record

BATCH_SIZE = 64
MODEL_TYPE = "lung_srad"
THRESHOLDS = np.arange(0.04, 0.62, 0.02).round(2).tolist()


def fit_after_training(
    trainer: LungSradTrainer, sources: RunSources, cache_dir: str | None = None
) -> Familiarity | None:
    """
    Puts the temperature of the validation patients into the configuration of the trained model, and fits the
    familiarity of its training cycles. With a head for two sounds, their biases and thresholds are fitted as well, to
    the validation patients of all data sets.

    All processes of a run call it together. Without validation patients, or where the fit runs into a bound, there is
    no temperature; models of other kinds than Lung-SRAD have neither.

    Args:
        trainer (`LungSradTrainer`): after training, with the weights that are kept.
        sources (`RunSources`): the cycles of the run.
        cache_dir (`str`, *optional*): as for `cached_log_mel`, where the validation part is not in the trainer.

    Returns:
        `Familiarity` or `None`: on the main process, where the training cycles are from two patients or more.
    """
    config = trainer.training_model.classifier.config
    if config.model_type != MODEL_TYPE:
        return None
    config.temperature = config.crackle_threshold = config.wheeze_threshold = None
    if config.head == "sounds" and sources.calibration:
        cycles = [_all_cycles([source], trainer.processing_class, cache_dir) for source in sources.calibration]
        fitted = fit_sounds([_predict(trainer, part) for part in cycles])
        head: Any = trainer.training_model.classifier.head
        with torch.no_grad():
            head.bias += head.bias.new_tensor(fitted.biases)
        config.temperature = fitted.temperature
        config.crackle_threshold, config.wheeze_threshold = fitted.thresholds
    elif sources.validation is not None:
        logits, labels = _predict(trainer, _validation_cycles(trainer, sources.validation, cache_dir))
        config.temperature = usable_temperature(softmax(logits, axis=-1), labels)
    if not trainer.is_world_process_zero():
        return None
    training = trainer.train_dataset
    if not isinstance(training, LogMelDataset):
        return familiarity_of(_all_cycles(sources.training, trainer.processing_class, cache_dir), sources.training)
    plain = LogMelDataset(training.log_mel, training.labels, training.feature_extractor)
    return familiarity_of(plain, sources.training)


class SoundCalibration(NamedTuple):
    """What is added to the log odds of crackle and wheeze, what they are divided by then, and the probabilities from
    which the sounds are named."""

    biases: tuple[float, float]
    temperature: float
    thresholds: tuple[float, float]


def fit_sounds(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> SoundCalibration:
    """
    Fits biases and temperature by likelihood, then thresholds by Score, each data set with the same weight.

    The thresholds maximise the mean over data sets of the ICBHI Score with four classes and with any abnormal class.

    Args:
        parts (sequence of `tuple[np.ndarray, np.ndarray]`):
            of each data set, composed logits `(cycles, 4)` and classes `(cycles,)`.
    """
    odds = [logits[:, 1:3] - logits[:, :1] for logits, _ in parts]
    heard = [np.stack((labels & 1, labels >> 1), axis=1) for _, labels in parts]

    def loss(values: np.ndarray) -> float:
        temperature, biases = math.exp(values[0]), values[1:]
        signed = ((x + biases) / temperature * (1 - 2 * y) for x, y in zip(odds, heard, strict=True))
        return sum(np.logaddexp(0, x).sum(axis=1).mean() for x in signed)

    log_temperature, *biases = minimize(loss, np.zeros(3), method="Nelder-Mead", options={"maxiter": 2000}).x
    temperature = math.exp(log_temperature)
    probabilities = [expit((x + biases) / temperature) for x in odds]
    choices = [(crackle, wheeze) for crackle in THRESHOLDS for wheeze in THRESHOLDS]

    def score(thresholds: tuple[float, float]) -> float:
        scores = []
        for sounds, (_, labels) in zip(probabilities, parts, strict=True):
            counts = confusion_counts((sounds >= thresholds) @ np.array([1, 2]), labels)
            rates = rates_from_counts(counts)
            scores += [float(rates["score"]), float(rates["score_any_abnormal"])]
        return float(np.mean(scores))

    return SoundCalibration((float(biases[0]), float(biases[1])), temperature, max(choices, key=score))


def _predict(trainer: LungSradTrainer, cycles: LogMelDataset) -> tuple[np.ndarray, np.ndarray]:
    """Logits in float64, and classes."""
    predicted: Any = trainer.predict(cycles)
    logits = predicted.predictions[0] if isinstance(predicted.predictions, tuple) else predicted.predictions
    return logits.astype(np.float64), np.asarray(predicted.label_ids)


def _all_cycles(sources: Sequence[CycleSource], feature_extractor: Any, cache_dir: str | None) -> LogMelDataset:
    log_mel = cached_log_mel(sources, feature_extractor, cache_dir, "log-mel, calibration")
    return LogMelDataset(log_mel, [label for source in sources for label in source.table["label"]], feature_extractor)


def usable_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float | None:
    """The fitted temperature of `(cycles, 4)` and `(cycles,)`; `None` where any lower or higher one would fit better.

    The latter is so where all cycles are right, or where the model knows nothing.
    """
    temperature = fit_temperature(probabilities, labels)
    return None if temperature.at_bound else temperature.value


def familiarity_of(cycles: LogMelDataset, sources: Sequence[CycleSource]) -> Familiarity | None:
    """The familiarity of the cycles of sources, which `cycles` holds in order and without augmentation; `None` for
    those of a single patient."""
    patients = [f"{source.name} {patient}" for source in sources for patient in source.table["patient"]]
    if len(set(patients)) < 2:
        return None
    positions = range(0, len(cycles), BATCH_SIZE)
    statistics = [
        log_mel_statistics(_input_values(cycles, range(first, min(first + BATCH_SIZE, len(cycles)))))
        for first in tqdm(positions, desc="familiarity", unit="batch")
    ]
    return fit_familiarity(np.concatenate(statistics), patients)


def fit_checkpoint(checkpoint: str, data: str) -> tuple[float | None, Familiarity | None]:
    """
    Fits temperature and familiarity for a checkpoint in a folder, and writes them into it.

    Args:
        checkpoint (`str`): folder with a `training_summary.json`, which names the validation patients.
        data (`str`): as for `load_icbhi`.

    Returns:
        `tuple[float | None, Familiarity | None]`: what was written.

    Raises:
        ValueError: a checkpoint that is none or has no such summary, or data that cannot be read.
    """
    if not Path(checkpoint).is_dir():
        raise CheckpointError(f"{checkpoint}: no such folder; download the checkpoint first")
    model, feature_extractor = load_checkpoint(checkpoint)
    check_sampling_rate(feature_extractor, f"{checkpoint}: sampling_rate")
    record = read_training_record(checkpoint)
    if record is None:
        raise CheckpointError(f"{checkpoint}: has no training_summary.json to say what it was trained on; train again")
    cycles = load_evaluated_cycles(data, record.split, "train", record)
    temperature = None
    if cycles.validation is not None:
        probabilities = predict(model, feature_extractor, cycles.validation, description="classify, validation")
        temperature = usable_temperature(probabilities, np.array(cycles.validation.table["label"]))
    log_mel = compute_log_mel([cycles.evaluated], feature_extractor, torch.float16, "log-mel, training")
    training = LogMelDataset(log_mel, cycles.evaluated.table["label"], feature_extractor)
    familiarity = familiarity_of(training, [cycles.evaluated])
    _write_temperature(Path(checkpoint, "config.json"), temperature)
    if familiarity is not None:
        familiarity.save(checkpoint)
    return temperature, familiarity


def _validation_cycles(trainer: LungSradTrainer, validation: CycleSource, cache_dir: str | None) -> LogMelDataset:
    arguments: Any = trainer.args
    monitored: Any = trainer.eval_dataset
    if arguments.selection != "test":
        return monitored
    return _all_cycles([validation], monitored.feature_extractor, cache_dir)


def _input_values(cycles: LogMelDataset, positions: range) -> torch.Tensor:
    return torch.stack([item["input_values"] for item in cycles.__getitems__(positions)])


def _write_temperature(path: Path, temperature: float | None) -> None:
    config = json.loads(path.read_text(encoding="utf-8")) | {"temperature": temperature}
    write_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.post_training", description=__doc__)
    parser.add_argument("checkpoint", help="folder of a checkpoint that a training run left")
    parser.add_argument("icbhi", help="folder or zip of ICBHI 2017, with the split that it was trained with")
    options = parser.parse_args(argv)
    try:
        temperature, familiarity = fit_checkpoint(options.checkpoint, options.icbhi)
    except (ValueError, OSError) as error:
        print(f"post_training: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    fitted = "none" if familiarity is None else f"threshold {familiarity.threshold:.4g} of {familiarity.cycles} cycles"
    print(f"temperature: {'none' if temperature is None else f'{temperature:.4f}'}; familiarity: {fitted}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
