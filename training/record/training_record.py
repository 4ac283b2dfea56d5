"""Split, selection and validation of a checkpoint, from its `training_summary.json`, for evaluations."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Any

import huggingface_hub

from modeling_lung_srad.errors import InputError

TRAINING_SUMMARY = "training_summary.json"
SELECTIONS_BEFORE = {"best validation score": "validation", "last epoch": "last"}


@dataclass(frozen=True)
class TrainingRecord:
    """How the run that made a checkpoint used its data.

    Args:
        split (`str`): `official`, `leak_free` or `fold0` to `fold4`.
        selection (`str`, *optional*): part that chose the epoch, `validation` or `test`, or `last`; `None` where the
            summary does not say.
        validation_patients (`tuple[str, ...]`): training patients that were kept for validation; possibly none.
        validation_source (`str`, *optional*): data set that they are from, `icbhi` or `simulated`.
        validation_cycles (`int`, *optional*): number of their cycles.
        training_patients (`dict[str, tuple[str, ...]]`, *optional*): patients of the training cycles, by data set;
            `None` where the summary does not say.
        started_from (`TrainingRecord`, *optional*): of the checkpoint that the run started from.
        teachers (`tuple[TrainingRecord, ...]`): of the teachers that the run learned from, where they are known.
        unknown_teachers (`tuple[str, ...]`): names of the other teachers with lung classes.
    """

    split: str
    selection: str | None
    validation_patients: tuple[str, ...]
    validation_source: str | None
    validation_cycles: int | None
    training_patients: dict[str, tuple[str, ...]] | None = None
    started_from: "TrainingRecord | None" = None
    teachers: "tuple[TrainingRecord, ...]" = ()
    unknown_teachers: tuple[str, ...] = ()

    @property
    def has_trained_on_split(self) -> bool:
        """True if the training part of `split` was, or may have been, trained on; not by a run on SPRSound alone."""
        return self.training_patients is None or bool(self.training_patients.keys() - {"sprsound"})


def read_training_record(checkpoint: str | os.PathLike) -> TrainingRecord | None:
    """The record of a checkpoint in a folder, or of one on the Hub that was loaded before; `None` without a summary.

    Raises:
        InputError: naming the file, where it is not a training summary.
    """
    file = find_summary(checkpoint)
    if file is None:
        return None
    try:
        return record_of(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(file, f"is not a training summary ({error})", "take the file out of the folder") from error


def find_summary(checkpoint: str | os.PathLike) -> Path | None:
    """The `training_summary.json` of a checkpoint, as for `read_training_record`, where there is one."""
    folder = Path(os.path.expanduser(checkpoint))
    if folder.is_dir():
        file = folder / TRAINING_SUMMARY
        return file if file.is_file() else None
    cached = huggingface_hub.try_to_load_from_cache(str(checkpoint), TRAINING_SUMMARY)
    return Path(cached) if isinstance(cached, str) else None


def record_of(summary: dict[str, Any]) -> TrainingRecord:
    """The record of a summary, or of what a later one keeps of it as `started_from`."""
    selection: Any = summary.get("selection")
    counted: dict[str, dict[str, int]] = (summary.get("cycles") or {}).get("validation", {})
    source = next(iter(counted), None)
    patients, earlier = summary.get("training_patients"), summary.get("started_from")
    teachers = summary.get("teachers") or ()
    record = TrainingRecord(
        split=summary["configuration"]["data"]["split"],
        selection=SELECTIONS_BEFORE.get(selection, selection),
        validation_patients=tuple(map(str, summary.get("validation_patients") or ())),
        validation_source=source,
        validation_cycles=None if source is None else counted[source]["cycles"],
        training_patients=None if patients is None else {name: tuple(of) for name, of in patients.items()},
        started_from=None if earlier is None else record_of(earlier),
        teachers=tuple(record_of(teacher) for teacher in teachers if "configuration" in teacher),
        unknown_teachers=tuple(teacher["checkpoint"] for teacher in teachers if teacher.get("unknown")),
    )
    _check_types(record, summary.get("validation_patients"))
    return record


def _check_types(record: TrainingRecord, patients: Any) -> None:
    wanted: tuple[tuple[str, Any, type | UnionType], ...] = (
        ("configuration.data.split", record.split, str),
        ("selection", record.selection, str | None),
        ("validation_patients", patients, list | None),
        ("cycles.validation", record.validation_cycles, int | None),
    )
    for name, value, kind in wanted:
        if not isinstance(value, kind):
            raise TypeError(f"{name}: {value!r}")
