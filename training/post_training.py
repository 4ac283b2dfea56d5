"""What is fitted when training is over, and kept with the checkpoint: temperature and familiarity.

`python -m training.post_training CHECKPOINT ICBHI_FOLDER` fits both for a checkpoint that was trained before.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.special import softmax
from tqdm.auto import tqdm

from modeling_lung_srad.checkpoint_loading import CheckpointError, load_checkpoint
from modeling_lung_srad.familiarity import Familiarity, fit_familiarity, log_mel_statistics
from training.cycle_sources import CycleSource, RunSources
from training.evaluate_checkpoint import predict
from training.evaluated_cycles import load_evaluated_cycles
from training.feature_cache import cached_log_mel
from training.log_mel_dataset import LogMelDataset, check_sampling_rate, compute_log_mel
from training.report.calibration import fit_temperature
from training.report.files import write_text
from training.trainer import LungSradTrainer
from training.training_record import read_training_record

BATCH_SIZE = 64
MODEL_TYPE = "lung_srad"


def fit_after_training(
    trainer: LungSradTrainer, sources: RunSources, cache_dir: str | None = None
) -> Familiarity | None:
    """
    Puts the temperature of the validation patients into the configuration of the trained model, and fits the
    familiarity of its training cycles.

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
    config.temperature = None
    if sources.validation is not None:
        predicted: Any = trainer.predict(_validation_cycles(trainer, sources.validation, cache_dir))
        logits = predicted.predictions[0] if isinstance(predicted.predictions, tuple) else predicted.predictions
        config.temperature = usable_temperature(softmax(logits.astype(np.float64), axis=-1), predicted.label_ids)
    if not trainer.is_world_process_zero():
        return None
    cycles: Any = trainer.train_dataset
    return familiarity_of(LogMelDataset(cycles.log_mel, cycles.labels, cycles.feature_extractor), sources.training)


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
    feature_extractor = monitored.feature_extractor
    log_mel = cached_log_mel([validation], feature_extractor, cache_dir, "log-mel, validation")
    return LogMelDataset(log_mel, validation.table["label"], feature_extractor)


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
