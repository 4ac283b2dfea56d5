import shutil

import pytest

from dataset_scripts.cycles import read_annotations, write_annotations
from dataset_scripts.icbhi import load_icbhi
from training.arguments import DataArguments
from training.data import cycle_sources
from training.data.cycle_sources import CycleSource, describe_limits, load_evaluated_source, load_training_sources


class CountedSource(CycleSource):
    """A source of recordings of patients of which only the numbers matter."""

    def __init__(self, recordings, cycles):
        object.__setattr__(self, "numbers", {"recordings": recordings, "cycles": cycles})

    is_simulated = False

    def count(self):
        return self.numbers


def test_validation_patients_are_no_training_patients(simulated_sources):
    training, validation = simulated_sources
    assert [source.name for source in training] == ["icbhi"]
    assert not set(training[0].table["patient"]) & set(validation.table["patient"])
    counts = training[0].count()
    assert counts["cycles"] == counts["normal"] + counts["crackle"] + counts["wheeze"] + counts["both"]


def test_simulated_sounds_validate_themselves_when_there_is_no_icbhi():
    training, validation, test, *_ = load_training_sources(DataArguments(simulated=10, validation=0.4))
    assert test is None
    assert (training[0].name, validation.name) == ("simulated", "simulated")
    assert validation.is_simulated


def test_sprsound_is_training_data_only(simulated_folder, tmp_path):
    write_sprsound(tmp_path, simulated_folder)
    arguments = DataArguments(icbhi=str(simulated_folder), sprsound=str(tmp_path), validation=0.4)
    training, validation, *_ = load_training_sources(arguments)
    assert [source.name for source in training] == ["icbhi", "sprsound"]
    assert training[1].count()["wheeze"] == 1
    assert validation.name == "icbhi"


def test_test_part_is_loaded_where_it_selects_or_is_recorded(simulated_folder):
    arguments = DataArguments(icbhi=str(simulated_folder), validation=0.0)
    training, validation, test, *_ = load_training_sources(arguments, selection="test")
    assert validation is None
    assert set(test.table["recording"]).isdisjoint(training[0].table["recording"])
    sources = load_training_sources(DataArguments(icbhi=str(simulated_folder), validation=0.4), record_test=True)
    assert sources.part("test").table == test.table
    assert sources.part("validation") is sources.validation


def test_source_of_which_nothing_is_drawn_is_no_training_data_and_still_validates(simulated_folder, caplog):
    arguments = DataArguments(icbhi=str(simulated_folder), simulated=10, validation=0.4)
    both, alone = load_training_sources(arguments), load_training_sources(arguments, left_out=("icbhi", "sprsound"))
    assert [source.name for source in alone.training] == ["simulated"]
    assert alone.validation.table == both.validation.table
    assert "icbhi: is not trained on, since sampling.icbhi is 0" in caplog.text
    with pytest.raises(ValueError, match="the weight of icbhi and simulated is 0, so nothing is drawn"):
        load_training_sources(arguments, left_out=("icbhi", "simulated"))


def test_patients_apart_are_those_of_validation_and_test_also_where_these_are_not_needed(simulated_folder):
    sources = load_training_sources(DataArguments(icbhi=str(simulated_folder), validation=0.4))
    everyone = {patient for part in load_icbhi(simulated_folder).values() for patient in part["patient"]}
    assert sources.held_out == everyone - set(sources.training[0].table["patient"])
    assert sources.held_out_kind == "simulated"


def test_patient_on_both_sides_of_validation_is_named(simulated_folder, monkeypatch):
    def split_by_cycle(data_dir, split, validation, seed):
        parts = load_icbhi(data_dir, split=split)
        parts["validation"] = parts["train"].select(range(0, len(parts["train"]), 2))
        return parts

    monkeypatch.setattr(cycle_sources, "load_icbhi", split_by_cycle)
    with pytest.raises(ValueError, match=r"patient \d+: is in the training and in the validation part \(6 in all\)"):
        load_training_sources(DataArguments(icbhi=str(simulated_folder), validation=0.4))


def test_cycles_have_names_for_messages(simulated_sources):
    source = simulated_sources[0][0]
    row = source.cycles.with_format(None)[3]
    assert source.cycle_names[3] == f"{row['recording']} {row['start']:.2f} to {row['end']:.2f} s"


def write_sprsound(folder, simulated_folder):
    audio = next(iter(sorted(simulated_folder.glob("*.wav"))))
    (folder / "train_wav").mkdir()
    (folder / "train_json").mkdir()
    shutil.copy(audio, folder / "train_wav" / "40000001_5.0_0_p1_1.wav")
    text = '{"record_annotation": "CAS", "event_annotation": [{"start": "100", "end": "900", "type": "Wheeze"}]}'
    (folder / "train_json" / "40000001_5.0_0_p1_1.json").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give data.icbhi"),
        ({"sprsound": "somewhere"}, "give data.icbhi"),
        ({"icbhi": "nowhere"}, "nowhere"),
        ({"simulated": 12, "validation": 0.0}, "data.validation: 0.0"),
        ({"simulated": 12, "validation": 1.5}, "data.validation: 1.5"),
        ({"simulated": 12, "validation_seed": -1}, "data.validation_seed: -1"),
    ],
)
def test_training_data_that_cannot_be_used_is_named(arguments, message):
    with pytest.raises((ValueError, OSError), match=message):
        load_training_sources(DataArguments(**arguments))


def test_part_that_is_not_there_is_named(simulated_folder):
    with pytest.raises(ValueError, match="'dev' is not known; choose one of test, validation, train"):
        load_evaluated_source(simulated_folder, "official", "dev")
    with pytest.raises(ValueError, match="data_dir: is empty"):
        load_evaluated_source("", "official", "test")
    with pytest.raises(ValueError, match="no cycles in the validation part"):
        load_evaluated_source(simulated_folder, "official", "validation")


def test_part_without_abnormal_cycles_is_refused(simulated_folder, tmp_path):
    folder = shutil.copytree(simulated_folder, tmp_path / "normal")
    for path in folder.glob("[0-9]*.txt"):
        cycles = read_annotations(path)
        write_annotations(path, [type(cycle)(cycle.start, cycle.end, 0) for cycle in cycles])
    with pytest.raises(ValueError, match="test part: contains no abnormal cycle"):
        load_evaluated_source(folder, "official", "test")


def test_limits_name_simulated_incomplete_and_validation_data(simulated_sources):
    assert "Simulated" in describe_limits(simulated_sources[1], "official", "test")[0]
    assert describe_limits(CountedSource(381, 2756), "official", "test") == []
    assert describe_limits(CountedSource(369, 2636), "leak_free", "test") == []
    (sentence,) = describe_limits(CountedSource(50, 485), "official", "test")
    assert "50 of 381 recordings and 485 of 2,756 cycles" in sentence
    assert "not comparable with published ICBHI scores" in sentence
    assert "not comparable" in describe_limits(CountedSource(50, 485), "official", "validation")[0]
