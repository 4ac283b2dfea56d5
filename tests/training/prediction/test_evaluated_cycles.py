from dataclasses import replace

import pytest

from training.prediction.evaluated_cycles import are_training_patients_common, load_evaluated_cycles
from training.record.training_record import TrainingRecord


@pytest.fixture(scope="module")
def record(simulated_sources):
    """The summary of a training run on the simulated recordings."""
    _, validation = simulated_sources
    patients = tuple(sorted(set(validation.table["patient"])))
    return TrainingRecord("official", "validation", patients, "icbhi", len(validation.cycles))


def patients_of(source):
    return set(source.table["patient"])


def test_test_part_comes_with_the_validation_patients(record, simulated_folder):
    cycles = load_evaluated_cycles(simulated_folder, "official", "test", record)
    assert patients_of(cycles.validation) == set(record.validation_patients)
    assert len(cycles.validation.cycles) == record.validation_cycles
    assert not patients_of(cycles.evaluated) & patients_of(cycles.validation)
    assert cycles.evaluated is cycles.whole_part
    assert cycles.validation_missing is None


def test_training_part_is_evaluated_without_the_validation_patients(record, simulated_folder, simulated_sources):
    cycles = load_evaluated_cycles(simulated_folder, "official", "train", record)
    assert patients_of(cycles.evaluated) == patients_of(simulated_sources[0][0])
    assert patients_of(cycles.whole_part) == patients_of(cycles.evaluated) | set(record.validation_patients)


def test_validation_part_is_evaluated_and_calibrated_on_itself(record, simulated_folder):
    cycles = load_evaluated_cycles(simulated_folder, "official", "validation", record)
    assert patients_of(cycles.evaluated) == set(record.validation_patients)
    assert cycles.evaluated is cycles.whole_part is cycles.validation


def test_validation_patients_who_cannot_be_scored_are_refused(record, simulated_folder):
    table = load_evaluated_cycles(simulated_folder, "official", "train", None).whole_part.table
    labels = {patient: set() for patient in table["patient"]}
    for patient, label in zip(table["patient"], table["label"], strict=True):
        labels[patient].add(label)
    never_normal = next(patient for patient, heard in labels.items() if 0 not in heard)
    with pytest.raises(ValueError, match="the validation part contains no normal cycle, so it cannot be scored"):
        load_evaluated_cycles(
            simulated_folder, "official", "validation", replace(record, validation_patients=(never_normal,))
        )


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"validation_patients": ()}, "the training run kept no patients for validation"),
        ({"validation_patients": ("999",)}, "the data do not hold the validation patients of the training run"),
        ({"validation_source": "simulated"}, "the validation patients of the training run were simulated"),
        ({"split": "fold2"}, "the checkpoint was trained with the split 'fold2'"),
    ],
)
def test_reason_for_no_validation_patients_is_told(record, simulated_folder, changed, reason):
    changed_record = replace(record, **changed)
    cycles = load_evaluated_cycles(simulated_folder, "official", "test", changed_record)
    assert (cycles.validation, cycles.validation_missing) == (None, reason)
    with pytest.raises(ValueError, match=f"the validation part cannot be evaluated: {reason}; choose another part"):
        load_evaluated_cycles(simulated_folder, "official", "validation", changed_record)


def test_checkpoint_without_a_summary_has_no_validation_patients(simulated_folder):
    cycles = load_evaluated_cycles(simulated_folder, "official", "test", None)
    assert "lacks the training_summary.json that names" in cycles.validation_missing


@pytest.mark.parametrize(
    ("trained", "evaluated", "common"),
    [
        ("official", "leak_free", True),
        ("fold2", "fold2", True),
        ("fold2", "fold3", False),
        ("fold2", "official", False),
    ],
)
def test_splits_with_the_same_training_patients(record, trained, evaluated, common):
    assert are_training_patients_common(replace(record, split=trained), evaluated) == common
