import json

import pytest

from modeling_lung_srad.errors import InputError
from training.data.cycle_sources import CycleSource, RunSources
from training.record.earlier_stages import check_earlier_stages, earlier_stage_notes, read_earlier_stages
from training.record.training_record import TrainingRecord

SUMMARY = {
    "selection": "validation",
    "validation_patients": ["103"],
    "training_patients": {"icbhi": ["101", "102"], "sprsound": ["7"]},
    "cycles": {"training": {"icbhi": {"cycles": 9}}, "validation": {"icbhi": {"cycles": 4}}},
    "history": [1, 2, 3],
    "configuration": {"data": {"split": "official", "validation": 0.2, "validation_seed": 0}},
}


class TrainingPatients(CycleSource):
    """Training cycles of which only the patients matter."""

    def __init__(self, *patients):
        object.__setattr__(self, "table", {"patient": list(patients)})


def record_of_stage(split="official", selection="validation", validation=("103",), **more):
    return TrainingRecord(split, selection, validation, "icbhi", 4, **more)


def sources(*held_out, training=()):
    return RunSources([TrainingPatients(*training)], None, None, [], frozenset(held_out), "icbhi")


@pytest.fixture
def run_folder(tmp_path):
    folder = tmp_path / "run"
    (folder / "checkpoint-4").mkdir(parents=True)
    (folder / "model.safetensors").touch()
    (folder / "training_summary.json").write_text(json.dumps(SUMMARY), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", ["", "checkpoint-4", "model.safetensors"])
def test_summary_of_the_run_is_found_from_whatever_a_run_starts_from(run_folder, name):
    record, kept = read_earlier_stages(run_folder / name)
    assert record.training_patients == {"icbhi": ("101", "102"), "sprsound": ("7",)}
    assert kept["checkpoint"] == (name or "run")
    assert kept["configuration"] == SUMMARY["configuration"]
    assert "history" not in kept


def test_what_a_summary_keeps_is_read_back_with_the_stage(run_folder, tmp_path):
    _, kept = read_earlier_stages(run_folder)
    (tmp_path / "second").mkdir()
    second = SUMMARY | {"started_from": kept, "training_patients": {"icbhi": ["102"]}}
    (tmp_path / "second" / "training_summary.json").write_text(json.dumps(second), encoding="utf-8")
    record, _ = read_earlier_stages(tmp_path / "second")
    assert record.started_from == read_earlier_stages(run_folder)[0]


def test_checkpoint_without_a_summary_says_nothing(tmp_path):
    assert read_earlier_stages(None) == read_earlier_stages(tmp_path) == (None, None)


def test_patients_of_any_earlier_stage_that_are_set_apart_are_refused():
    first = record_of_stage(training_patients={"icbhi": ("101", "104")})
    second = record_of_stage(training_patients={"icbhi": ("101",)}, started_from=first)
    with pytest.raises(InputError, match=r"trained on patients 104 \(1 in all\) .* its data.split=official"):
        check_earlier_stages(second, sources("104", "105"))
    check_earlier_stages(second, sources("105"))


def test_patients_whom_the_split_has_on_both_sides_are_not_counted():
    stage = record_of_stage(training_patients={"icbhi": ("156",)})
    check_earlier_stages(stage, sources("156", training=("156",)))


@pytest.mark.parametrize("patients", [None, {"sprsound": ("104",)}, {"simulated": ("104",)}])
def test_patients_that_are_not_known_or_of_other_data_are_not_refused(patients):
    check_earlier_stages(record_of_stage(training_patients=patients), sources("104"))


def test_patients_of_a_teacher_are_refused_in_its_name():
    first = record_of_stage(training_patients={"icbhi": ("104",)})
    taught = record_of_stage(training_patients={"icbhi": ("101",)}, teachers=(first,))
    for record in (first, taught, record_of_stage(training_patients={}, started_from=taught)):
        with pytest.raises(InputError, match=r"teacher.checkpoints: a: was trained on patients 104 \(1 in"):
            check_earlier_stages(record, sources("104"), "teacher.checkpoints: a")


def test_notes_speak_of_every_stage():
    first = record_of_stage(split="fold1", selection="test", validation=())
    started_from = record_of_stage(started_from=first)
    notes = earlier_stage_notes(record_of_stage(started_from=started_from), "official")
    assert len(notes) == 2
    assert notes[0] == "Started from a checkpoint that was selected on the test set: optimistic."
    assert "trained with the split fold1" in notes[1]


def test_notes_speak_of_teachers_and_of_what_they_started_from():
    first = record_of_stage(selection="test", training_patients={"icbhi": ("101",)})
    teacher = record_of_stage(split="fold1", started_from=first, unknown_teachers=("ast",))
    notes = earlier_stage_notes(record_of_stage(teachers=(teacher,), unknown_teachers=("mine",)), "official")
    assert [note.split(",")[0] for note in notes] == [
        "Learned from a teacher trained with the split fold1",
        "Learned from a teacher that was selected on the test set: optimistic.",
        "Learned from a teacher with unknown training patients (mine): perhaps not unseen.",
        "Learned from a teacher with unknown training patients (ast): perhaps not unseen.",
    ]


def test_other_validation_patients_are_noted_where_the_training_patients_are_not_known():
    def notes(started_from, split, *validation):
        return earlier_stage_notes(record_of_stage(validation=validation, started_from=started_from), split)

    (note,) = notes(record_of_stage(), "leak_free", "103", "104")
    assert "may have been trained on those of this run" in note
    assert notes(record_of_stage(), "leak_free", "103") == []
    assert notes(record_of_stage(training_patients={"icbhi": ("101",)}), "official", "104") == []
    assert notes(record_of_stage(training_patients={"sprsound": ("7",)}), "fold2", "104") == []
