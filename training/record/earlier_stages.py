"""The runs behind a run, by the checkpoint that it starts from and by its teachers: what they trained on, and what
follows for its figures."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from modeling_lung_srad.errors import InputError
from training.data.cycle_sources import RunSources
from training.prediction.evaluated_cycles import are_training_patients_common
from training.record.training_record import TrainingRecord, find_summary, read_training_record

KEPT_KEYS = ("selection", "validation_patients", "training_patients", "cycles", "started_from", "teachers")
STARTED, LEARNED = "Started from a checkpoint", "Learned from a teacher"
NAMED_PATIENTS = 3


def read_earlier_stages(checkpoint: str | os.PathLike | None) -> tuple[TrainingRecord | None, dict[str, Any] | None]:
    """Records of the run that made a checkpoint and of the runs before it.

    Args:
        checkpoint (`str` or `os.PathLike`, *optional*): as `model.checkpoint`, or a teacher: a folder, also
            `checkpoint-N` in that of a run, a file in one, or an id on the Hub.

    Returns:
        `tuple[TrainingRecord | None, dict | None]`: its record, and the part of its summary that a later summary
        keeps as `started_from`. Both are `None` without a summary.

    Raises:
        InputError: as `read_training_record`.
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


def check_earlier_stages(record: TrainingRecord | None, sources: RunSources, name: str = "model.checkpoint") -> None:
    """Checks that no earlier run trained on patients that this one sets apart.

    A patient whom the split itself has on both sides, as the official one has two, is not counted.

    Args:
        record (`TrainingRecord`, *optional*): of the checkpoint.
        sources (`RunSources`): the cycles of the run.
        name (`str`, *optional*, defaults to `"model.checkpoint"`): what messages call the checkpoint.

    Raises:
        InputError: naming patients; only where the summary of the earlier run has its training patients.
    """
    own = {patient for source in sources.training for patient in source.table["patient"]}
    stages = [] if record is None else [record, *(stage for _, stage in _earlier_stages(record))]
    for stage in stages:
        seen = sorted((sources.held_out & _patients(stage, sources.held_out_kind)) - own)
        if seen:
            raise InputError(
                name,
                f"was trained on patients {', '.join(seen[:NAMED_PATIENTS])} ({len(seen)} in all) whom this "
                "run sets apart for validation or test",
                f"use its data.split={stage.split} and its data.validation and data.validation_seed, or choose "
                "another checkpoint",
            )


def earlier_stage_notes(record: TrainingRecord, split: str) -> list[str]:
    """Sentences about the runs behind a run that must stand beside its figures, or beside those of its checkpoint.

    Args:
        record (`TrainingRecord`): of the run.
        split (`str`): of the figures.
    """
    notes = []
    for origin, stage in _earlier_stages(record):
        if stage.selection == "test":
            notes.append(f"{origin} that was selected on the test set: optimistic.")
        if stage.has_trained_on_split and not are_training_patients_common(stage, split):
            notes.append(
                f"{origin} trained with the split {stage.split}, whose training patients may be in "
                "the test and validation parts here: not unseen."
            )
        elif stage.training_patients is None and not set(record.validation_patients) <= set(stage.validation_patients):
            notes.append(
                f"{origin} with other validation patients, which may have been trained on those of "
                "this run: not unseen."
            )
    for stage in (record, *(stage for _, stage in _earlier_stages(record))):
        for teacher in stage.unknown_teachers:
            notes.append(f"{LEARNED} with unknown training patients ({teacher}): perhaps not unseen.")
    return list(dict.fromkeys(notes))


def _earlier_stages(record: TrainingRecord, origin: str = STARTED) -> Iterator[tuple[str, TrainingRecord]]:
    """All runs behind a run, each with how the run came to it."""
    if record.started_from is not None:
        yield origin, record.started_from
        yield from _earlier_stages(record.started_from, origin)
    for teacher in record.teachers:
        yield LEARNED, teacher
        yield from _earlier_stages(teacher, LEARNED)


def _patients(stage: TrainingRecord, kind: str) -> set[str]:
    return set((stage.training_patients or {}).get(kind, ()))
