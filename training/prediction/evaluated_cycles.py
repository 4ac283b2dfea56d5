"""The cycles that an evaluation needs: those of the evaluated part, and those of the validation patients."""

import os
from typing import NamedTuple

from dataset_scripts.icbhi import load_icbhi
from modeling_lung_srad.errors import InputError
from training.data.cycle_sources import CycleSource, load_evaluated_source
from training.record.training_record import TRAINING_SUMMARY, TrainingRecord

COMMON_TRAINING_PATIENTS = {"official", "leak_free"}


class EvaluatedCycles(NamedTuple):
    """Cycles to predict.

    Args:
        evaluated (`CycleSource`): the part that is asked for; of the training part, without the validation patients.
        whole_part (`CycleSource`): the same with them, to tell whether the data are complete.
        validation (`CycleSource` or `None`): the validation patients, for calibration.
        validation_missing (`str` or `None`): why there are none.
    """

    evaluated: CycleSource
    whole_part: CycleSource
    validation: CycleSource | None
    validation_missing: str | None


def load_evaluated_cycles(
    data: str | os.PathLike, split: str, part: str, record: TrainingRecord | None
) -> EvaluatedCycles:
    """Loads the cycles of one part and those of the validation patients of the training run.

    Args:
        data (`str` or `os.PathLike`): folder, zip or prepared folder, as for `load_icbhi`.
        split (`str`): as for `load_icbhi`.
        part (`str`): `test`, `validation` or `train`.
        record (`TrainingRecord`, *optional*): of the checkpoint.

    Raises:
        InputError: what `load_evaluated_source` raises, or `part="validation"` where the validation patients are not
            known or not in the data.
    """
    if part == "validation":
        source, missing = _load_validation(data, split, record)
        if source is None:
            raise InputError(data, f"the validation part cannot be evaluated: {missing}", "choose another part")
        for kind, present in (("normal", 0 in source.table["label"]), ("abnormal", any(source.table["label"]))):
            if not present:
                raise InputError(data, f"the validation part contains no {kind} cycle, so it cannot be scored")
        return EvaluatedCycles(source, source, source, None)
    whole = load_evaluated_source(data, split, part)
    source, missing = _load_validation(data, split, record)
    evaluated = whole
    if part == "train" and source is not None and record is not None:
        patients = whole.table["patient"]
        kept = [index for index, patient in enumerate(patients) if patient not in record.validation_patients]
        evaluated = CycleSource(whole.name, whole.cycles.select(kept))
    return EvaluatedCycles(evaluated, whole, source, missing)


def are_training_patients_common(record: TrainingRecord, split: str) -> bool:
    """True if the training part of a split is that of the training run."""
    return record.split == split or {record.split, split} == COMMON_TRAINING_PATIENTS


def _load_validation(
    data: str | os.PathLike, split: str, record: TrainingRecord | None
) -> tuple[CycleSource | None, str | None]:
    """The validation patients' cycles, or why there are none."""
    if record is None:
        return None, f"the checkpoint lacks the {TRAINING_SUMMARY} that names its validation patients"
    if not record.validation_patients:
        return None, "the training run kept no patients for validation"
    if record.validation_source == "simulated":
        return None, "the validation patients of the training run were simulated"
    if not are_training_patients_common(record, split):
        return None, f"the checkpoint was trained with the split {record.split!r}"
    training = load_icbhi(os.path.expanduser(data), split=split).get("train")
    source = None if training is None else CycleSource("icbhi", training)
    patients = source.table["patient"] if source is not None else []
    found = [index for index, patient in enumerate(patients) if patient in record.validation_patients]
    if training is None or not found:
        return None, "the data do not hold the validation patients of the training run"
    return CycleSource("icbhi", training.select(found)), None
