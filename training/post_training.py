"""Temperature and familiarity, fitted after training and kept with the checkpoint.

`python -m training.post_training CHECKPOINT ICBHI_FOLDER [SPRSOUND_FOLDER]` fits them for a checkpoint that was
trained before.
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

from dataset_scripts.sprsound import load_sprsound
from modeling_lung_srad.checkpoint_loading import load_checkpoint
from modeling_lung_srad.errors import InputError, reports_input_errors
from modeling_lung_srad.familiarity import Familiarity, fit_familiarity, log_mel_statistics
from training.data.cycle_sources import CycleSource, RunSources
from training.data.log_mel_dataset import LogMelDataset, check_sampling_rate, compute_log_mel
from training.prediction.evaluate_checkpoint import predict
from training.prediction.evaluated_cycles import load_evaluated_cycles
from training.record.training_record import TRAINING_SUMMARY, read_training_record
from training.report.calibration import fit_temperature
from training.report.files import write_text
from training.sound_calibration import apply_to_head, fit_sounds, predict_sounds
from training.trainer import LungSradTrainer

BATCH_SIZE = 64
MODEL_TYPE = "lung_srad"


def fit_after_training(trainer: LungSradTrainer, sources: RunSources) -> Familiarity | None:
    """
    Puts the temperature of the validation patients into the configuration of the trained model, and fits the
    familiarity of its training cycles. With a head for two sounds, all of `sound_calibration.py` is fitted, to the
    validation patients of all data sets.

    All processes of a run call it together. Without validation patients, or where the fit runs into a bound, there is
    no temperature; models of other kinds than Lung-SRAD have neither.

    Args:
        trainer (`LungSradTrainer`): after training, with the weights that are kept.
        sources (`RunSources`): the cycles of the run.

    Returns:
        `Familiarity` or `None`: on the main process, where the training cycles are from two patients or more.
    """
    config = trainer.training_model.classifier.config
    if config.model_type != MODEL_TYPE:
        return None
    if config.head == "sounds" and sources.calibration:
        _fit_sounds(trainer.training_model.classifier, trainer.processing_class, sources.calibration)
    elif sources.validation is not None:
        logits, labels = _predict(trainer, _validation_cycles(trainer, sources.validation))
        config.temperature = usable_temperature(softmax(logits, axis=-1), labels)
    if not trainer.is_world_process_zero():
        return None
    training = trainer.train_dataset
    if not isinstance(training, LogMelDataset):
        return familiarity_of(_all_cycles(sources.training, trainer.processing_class), sources.training)
    return familiarity_of(training, sources.training)


def _predict(trainer: LungSradTrainer, cycles: LogMelDataset) -> tuple[np.ndarray, np.ndarray]:
    """Logits in float64, and classes."""
    predicted: Any = trainer.predict(cycles)
    logits = predicted.predictions[0] if isinstance(predicted.predictions, tuple) else predicted.predictions
    return logits.astype(np.float64), np.asarray(predicted.label_ids)


def _all_cycles(sources: Sequence[CycleSource], feature_extractor: Any) -> LogMelDataset:
    log_mel = compute_log_mel(sources, feature_extractor, torch.float16, "log-mel, calibration")
    return LogMelDataset(log_mel, [label for source in sources for label in source.table["label"]], feature_extractor)


def _fit_sounds(classifier: Any, feature_extractor: Any, calibration: Sequence[CycleSource]) -> None:
    parts = []
    for source in calibration:
        spans = list(zip(source.table["start"], source.table["end"], strict=True))
        predicted = predict_sounds(classifier, _all_cycles([source], feature_extractor))
        parts.append(predicted._replace(recordings=source.table["recording"], spans=spans))
    apply_to_head(classifier, fit_sounds(parts))


def usable_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float | None:
    """The fitted temperature of `(cycles, 4)` and `(cycles,)`; `None` where any lower or higher one would fit better.

    The latter is so where all cycles are right, or where the model knows nothing.
    """
    temperature = fit_temperature(probabilities, labels)
    return None if temperature.at_bound else temperature.value


def familiarity_of(cycles: LogMelDataset, sources: Sequence[CycleSource]) -> Familiarity | None:
    """The familiarity of cycles, in the order of their sources; `None` for those of a single patient."""
    patients = [f"{source.name} {patient}" for source in sources for patient in source.table["patient"]]
    if len(set(patients)) < 2:
        return None
    statistics = [
        log_mel_statistics(cycles.log_mel[first : first + BATCH_SIZE])
        for first in tqdm(range(0, len(cycles), BATCH_SIZE), desc="familiarity", unit="batch")
    ]
    return fit_familiarity(np.concatenate(statistics), patients)


def fit_checkpoint(checkpoint: str, data: str, sprsound: str | None = None) -> tuple[float | None, Familiarity | None]:
    """
    Fits temperature and familiarity for a checkpoint in a folder, and writes them into it; with a head for two sounds,
    all of `sound_calibration.py`.

    Args:
        checkpoint (`str`): folder with a `training_summary.json`, which names the validation patients.
        data (`str`): as for `load_icbhi`.
        sprsound (`str`, *optional*): as for `load_sprsound`; used if the checkpoint was trained on it.

    Returns:
        `tuple[float | None, Familiarity | None]`: what was written.

    Raises:
        InputError: a folder that is not a checkpoint or lacks the summary, or data that cannot be read.
    """
    if not Path(checkpoint).is_dir():
        raise InputError(checkpoint, "no such folder", "download the checkpoint first")
    model, feature_extractor = load_checkpoint(checkpoint)
    check_sampling_rate(feature_extractor, f"{checkpoint}: sampling_rate")
    record = read_training_record(checkpoint)
    if record is None:
        raise InputError(checkpoint, "lacks training_summary.json, which says what it was trained on", "train again")
    cycles = load_evaluated_cycles(data, record.split, "train", record)
    sources, calibration = [cycles.evaluated], [] if cycles.validation is None else [cycles.validation]
    if sprsound is not None:
        settings = json.loads(Path(checkpoint, TRAINING_SUMMARY).read_text(encoding="utf-8"))["configuration"]["data"]
        parts = load_sprsound(sprsound, settings["sprsound_validation"], settings["validation_seed"])
        sources.append(CycleSource("sprsound", parts["train"]))
        calibration += [CycleSource("sprsound", parts["validation"])] if "validation" in parts else []
    temperature = None
    if model.config.head == "sounds" and calibration:
        _fit_sounds(model, feature_extractor, calibration)
        temperature = model.config.temperature
        model.save_pretrained(checkpoint)
    elif cycles.validation is not None:
        probabilities = predict(model, feature_extractor, cycles.validation, description="classify, validation")
        temperature = usable_temperature(probabilities, np.array(cycles.validation.table["label"]))
    familiarity = familiarity_of(_all_cycles(sources, feature_extractor), sources)
    _write_temperature(Path(checkpoint, "config.json"), temperature)
    if familiarity is not None:
        familiarity.save(checkpoint)
    return temperature, familiarity


def _validation_cycles(trainer: LungSradTrainer, validation: CycleSource) -> LogMelDataset:
    arguments: Any = trainer.args
    monitored: Any = trainer.eval_dataset
    if arguments.selection != "test":
        return monitored
    return _all_cycles([validation], monitored.feature_extractor)


def _write_temperature(path: Path, temperature: float | None) -> None:
    config = json.loads(path.read_text(encoding="utf-8")) | {"temperature": temperature}
    write_text(path, json.dumps(config, indent=2, sort_keys=True) + "\n")


@reports_input_errors
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.post_training", description=__doc__)
    parser.add_argument("checkpoint", help="folder of a checkpoint that a training run left")
    parser.add_argument("icbhi", help="folder or zip of ICBHI 2017, with the split that it was trained with")
    parser.add_argument("sprsound", nargs="?", help="folder of SPRSound, if it was trained on that as well")
    options = parser.parse_args(argv)
    temperature, familiarity = fit_checkpoint(options.checkpoint, options.icbhi, options.sprsound)
    fitted = "none" if familiarity is None else f"threshold {familiarity.threshold:.4g} of {familiarity.cycles} cycles"
    print(f"temperature: {'none' if temperature is None else f'{temperature:.4f}'}; familiarity: {fitted}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
