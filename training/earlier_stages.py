"""The runs behind the checkpoint that a run starts from: what they trained on, and what follows for its figures."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from training.configuration import ConfigurationError
from training.cycle_sources import RunSources
from training.evaluated_cycles import are_training_patients_common
from training.training_record import TrainingRecord, find_summary, read_training_record

KEPT_KEYS = ("selection", "validation_patients", "training_patients", "cycles", "started_from")
NAMED_PATIENTS = 3


def read_earlier_stages(checkpoint: str | os.PathLike | None) -> tuple[TrainingRecord | None, dict[str, Any] | None]:
    """What the run that made a checkpoint says about itself and the runs before it.

    Args:
        checkpoint (`str` or `os.PathLike`, *optional*): as `model.checkpoint`: a folder, also `checkpoint-N` in that
            of a run, a file in one, or an id on the Hub.

    Returns:
        `tuple[TrainingRecord | None, dict | None]`: its record, and the part of its summary that a later summary
        keeps as `started_from`. Both are `None` where there is no summary.

    Raises:
        ValueError: as `read_training_record`.
    """
    if checkpoint is None:
        return None, None
    folder = Path(os.path.expanduser(checkpoint))
    if folder.is_file():
        folder = folder.parent
    if folder.name.startswith(PREFIX_CHECKPOINT_DIR) and find_summary(folder) is None:
        folder = folder.parent
    owner = folder if folder.is_dir() else checkpoint
    file, record = find_summary(owner), read_training_record(owner)
    if file is None or record is None:
        return None, None
    summary = json.loads(file.read_text(encoding="utf-8"))
    kept = {key: summary.get(key) for key in KEPT_KEYS}
    data = {"data": summary["configuration"]["data"]}
    return record, {"checkpoint": Path(checkpoint).name, **kept, "configuration": data}


def check_earlier_stages(record: TrainingRecord | None, sources: RunSources) -> None:
    """Checks that no earlier run trained on patients that this one sets apart.

    A patient whom the split itself has on both sides, as the official one has two, is not counted.

    Raises:
        ConfigurationError: naming patients; only where the summary of the earlier run has its training patients.
    """
    own = {patient for source in sources.training for patient in source.table["patient"]}
    for stage in _stages(record):
        seen = sorted((sources.held_out & _patients(stage, sources.held_out_kind)) - own)
        if seen:
            raise ConfigurationError(
                f"model.checkpoint: was trained on patients {', '.join(seen[:NAMED_PATIENTS])} ({len(seen)} in all) "
                f"whom this run sets apart for validation or test; use its data.split={stage.split} and its "
                "data.validation and data.validation_seed, or start from another checkpoint"
            )


def earlier_stage_notes(record: TrainingRecord | None, split: str, validation_patients: set[str]) -> list[str]:
    """Sentences about earlier runs that must stand beside the figures of a run, or of its checkpoint.

    Args:
        record (`TrainingRecord`, *optional*): of the checkpoint that the run started from.
        split (`str`): of the figures.
        validation_patients (`set[str]`): those of the run.
    """
    notes = []
    for stage in _stages(record):
        if stage.selection == "test":
            notes.append("Started from a checkpoint that was selected on the test set: optimistic.")
        if stage.has_trained_on_split and not are_training_patients_common(stage, split):
            notes.append(
                f"Started from a checkpoint trained with the split {stage.split}, whose training patients may be in "
                "the test and validation parts here: not unseen."
            )
        elif stage.training_patients is None and not validation_patients <= set(stage.validation_patients):
            notes.append(
                "Started from a checkpoint with other validation patients, which may have been trained on those of "
                "this run: not unseen."
            )
    return list(dict.fromkeys(notes))


def _stages(record: TrainingRecord | None) -> Iterator[TrainingRecord]:
    while record is not None:
        yield record
        record = record.started_from


def _patients(stage: TrainingRecord, kind: str) -> set[str]:
    return set((stage.training_patients or {}).get(kind, ()))
