"""Runs a checkpoint over labelled cycles: its predictions, and the report that follows from them."""

import os
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm
from transformers import PreTrainedModel

from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.configuration_lung_srad import class_columns
from modeling_lung_srad.errors import InputError
from training.data.cycle_sources import CycleSource, describe_limits
from training.data.log_mel_dataset import LogMelDataset, check_sampling_rate, compute_log_mel
from training.prediction.classifier_loading import load_classifier
from training.prediction.evaluated_cycles import are_training_patients_common, load_evaluated_cycles
from training.record.earlier_stages import earlier_stage_notes
from training.record.run_summary import TEST_SELECTION_NOTE
from training.record.training_record import TRAINING_SUMMARY, TrainingRecord, read_training_record
from training.report.figures import build_report
from training.report.predictions import CyclePredictions, concatenate


def evaluate_checkpoint(
    checkpoint: str | os.PathLike,
    data: str | os.PathLike,
    split: str = "official",
    part: str = "test",
    batch_size: int = 16,
) -> tuple[dict[str, Any], CyclePredictions]:
    """Runs a checkpoint over the cycles of one part, and over those of the validation patients of its training run.

    The validation patients are read from the `training_summary.json` of the checkpoint; the temperature is fitted on
    them. Where they are not known or not in the data, the report says so and is not calibrated.

    Args:
        checkpoint (`str` or `os.PathLike`): as for `load_classifier`.
        data (`str` or `os.PathLike`): folder or zip of ICBHI 2017, or a folder that `lung-srad prepare` wrote.
        split (`str`, *optional*, defaults to `"official"`): `official`, `leak_free` or `fold0` to `fold4`.
        part (`str`, *optional*, defaults to `"test"`): `test`, `validation` or `train`; the latter without the
            validation patients.
        batch_size (`int`, *optional*, defaults to 16): cycles per forward pass.

    Returns:
        `tuple[dict, CyclePredictions]`: the report of `build_report`, and the predictions that it follows from.

    Raises:
        InputError: a checkpoint that `load_classifier` refuses or that is for another sampling rate, data that
            `load_evaluated_cycles` refuses, or a training summary that is none.
    """
    if batch_size < 1:
        raise InputError("batch_size", f"{batch_size} should be at least 1")
    model, feature_extractor = load_classifier(checkpoint)
    check_sampling_rate(feature_extractor, f"{checkpoint}: sampling_rate")
    record = read_training_record(checkpoint)
    cycles = load_evaluated_cycles(data, split, part, record)
    sources = {part: cycles.evaluated}
    if cycles.validation is not None:
        sources["validation"] = cycles.validation
    predictions = concatenate(
        [
            CyclePredictions.from_table(
                source.table, predict(model, feature_extractor, source, batch_size, f"classify, {name}"), name
            )
            for name, source in sources.items()
        ]
    )
    about = {
        "checkpoint": str(checkpoint),
        "data": str(data),
        "split": split,
        "part": part,
        "selection": record.selection if record else None,
        "validation_missing": cycles.validation_missing,
        "validation_cycles": record.validation_cycles if record else None,
        "training_patients_known": record is not None,
        "data_notes": _selection_note(record)
        + describe_limits(cycles.whole_part, split, part)
        + _leakage(record, split, part),
    }
    return build_report(predictions, about), predictions


def predict(
    model: PreTrainedModel,
    feature_extractor: LungSradFeatureExtractor,
    source: CycleSource,
    batch_size: int = 16,
    description: str = "classify",
    log_mel: torch.Tensor | None = None,
) -> np.ndarray:
    """Probabilities `(cycles, 4)` in the order of `CLASS_NAMES`, on the model's device, with a progress bar.

    `log_mel` are the spectrograms of [`compute_log_mel`], which are computed when not given.
    """
    labels = source.table["label"]
    log_mel = compute_log_mel([source], feature_extractor) if log_mel is None else log_mel
    cycles = LogMelDataset(log_mel, labels, feature_extractor)
    # `id2label` is what loading checks; `label2id` of an edited config.json may not fit it.
    columns = class_columns(model.config.id2label or {}, "model")
    model.eval()
    if isinstance(model, LungSradForAudioClassification):
        model.fix_scan_backend(len(cycles) * feature_extractor.num_frames)
    batches = []
    with torch.inference_mode():
        for batch in tqdm(DataLoader(cycles, batch_size=batch_size), desc=description, unit="batch"):
            logits = model(batch["input_values"].to(model.device, model.dtype)).logits
            # In double precision the smallest probabilities do not vanish, as temperature scaling needs them.
            batches.append(logits.double().softmax(dim=-1)[:, columns].cpu())
    return torch.cat(batches).numpy()


def _selection_note(record: TrainingRecord | None) -> list[str]:
    return [TEST_SELECTION_NOTE] if record is not None and record.selection == "test" else []


def _leakage(record: TrainingRecord | None, split: str, part: str) -> list[str]:
    if part == "train":
        return ["Training part: these are not figures of unseen patients."]
    if record is None:
        return [f"Lacks {TRAINING_SUMMARY}: which patients were trained on is unknown, and they may be in this part."]
    notes = earlier_stage_notes(record, split)
    if part == "validation" or not record.has_trained_on_split or are_training_patients_common(record, split):
        return notes
    return [*notes, f"Trained with the split {record.split}, whose training patients may be in this part: not unseen."]
