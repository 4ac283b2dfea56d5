"""Prepared folders: plain `load_dataset` reads them, and so do the loaders of this package."""

import shutil

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import soundfile

from dataset_scripts import prepare
from dataset_scripts.cycle_dataset import load_cycles
from dataset_scripts.icbhi import load_icbhi
from dataset_scripts.prepare import count_prepared, prepare_icbhi, prepare_simulated, prepare_sprsound
from modeling_lung_srad.errors import InputError
from tests.dataset_scripts.test_sprsound import TYPES, write_recording


@pytest.fixture(scope="module")
def prepared(simulated_folder, cache_dir, tmp_path_factory):
    destination = tmp_path_factory.mktemp("prepared") / "icbhi"
    return prepare_icbhi(simulated_folder, destination, validation=0.3, seed=2, cache_dir=cache_dir)


def test_plain_load_dataset_reads_the_folder(prepared, cache_dir):
    loaded = datasets.load_dataset(str(prepared), cache_dir=str(cache_dir))
    assert set(loaded) == {"train", "validation", "test"}
    assert loaded["test"].features["label"].names == ["normal", "crackle", "wheeze", "both"]
    row = loaded["test"][0]
    (prepared.parent / "cycle.flac").write_bytes(row["audio"]["bytes"])
    samples, rate = soundfile.read(prepared.parent / "cycle.flac")
    assert rate == 16000
    assert len(samples) == int(row["end"] * 16000) - int(row["start"] * 16000)
    assert str(prepared.parent) not in row["audio"]["path"]


def test_cycles_are_those_of_the_recordings(prepared, simulated_folder, cache_dir):
    expected = load_icbhi(simulated_folder, validation=0.3, seed=2, cache_dir=cache_dir)
    for loaded in (load_cycles(prepared, cache_dir), load_icbhi(prepared, "official", 0.3, 2, cache_dir=cache_dir)):
        for part, rows in expected.items():
            for column in ("label", "recording", "patient", "device", "location", "start", "end"):
                assert loaded[part][column][:] == rows[column][:]
        for index in (0, 9, 31):
            audio = loaded["test"][index]["audio"]
            np.testing.assert_allclose(audio["array"], expected["test"][index]["audio"]["array"], atol=2**-24)


def test_validation_part_of_a_prepared_folder_can_be_chosen_anew(prepared, simulated_folder, cache_dir):
    assert {part: len(rows) for part, rows in load_icbhi(prepared, cache_dir=cache_dir).items()} == {
        "train": 48,
        "test": 32,
    }
    chosen = load_icbhi(prepared, validation=0.5, seed=3, cache_dir=cache_dir)["validation"]
    expected = load_icbhi(simulated_folder, validation=0.5, seed=3, cache_dir=cache_dir)["validation"]
    assert set(chosen["recording"]) == set(expected["recording"])
    with pytest.raises(InputError, match="was prepared with the split 'official'; pass that, or prepare"):
        load_icbhi(prepared, "fold0", cache_dir=cache_dir)


@pytest.mark.parametrize("content", ["{", "[]", '"official"'])
def test_settings_that_cannot_be_read_are_named(prepared, tmp_path, content):
    folder = shutil.copytree(prepared, tmp_path / "copied")
    (folder / "prepared.json").write_text(content)
    with pytest.raises(InputError, match=r"prepared\.json: is not a JSON object of settings"):
        load_icbhi(folder)


def test_the_current_folder_is_no_destination_and_nothing_is_loaded_for_it(simulated_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(prepare, "load_icbhi", None)
    with pytest.raises(InputError, match=r"^\.: is the folder that you are in; name a new folder$"):
        prepare_icbhi(simulated_folder, ".")


def test_a_folder_may_have_a_name_that_is_a_pattern(prepared, tmp_path, cache_dir):
    folder = shutil.copytree(prepared, tmp_path / "data [v1]*")
    assert len(load_cycles(folder, cache_dir)["test"]) == 32


def test_parquet_that_is_damaged_or_foreign_is_named(prepared, tmp_path, cache_dir):
    folder = shutil.copytree(prepared, tmp_path / "copied")
    (file,) = folder.glob("data/test-*.parquet")
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(InputError, match=rf"{file.name}: is not a whole Parquet file .*; make the folder again"):
        load_icbhi(folder, cache_dir=cache_dir)
    pyarrow.parquet.write_table(pyarrow.table({"audio": ["a"], "text": ["b"]}), file)
    with pytest.raises(InputError, match=rf"{file.name}: lacks the column audio of type .*; take it out"):
        load_cycles(folder, cache_dir)


def test_card_states_source_settings_counts_and_rights(prepared):
    card = (prepared / "README.md").read_text()
    assert card.startswith("---\n")
    for text in ("ICBHI 2017", "split official, validation 0.3, seed 2", "| test | 32 |", "24 bit FLAC", "## Rights"):
        assert text in card


def test_counts_are_those_of_the_cycles(prepared, cache_dir):
    cycles = load_cycles(prepared, cache_dir=cache_dir)
    counts = count_prepared(prepared)
    assert set(counts) == set(cycles)
    for part, by_class in counts.items():
        labels = cycles[part]["label"][:]
        assert list(by_class.values()) == [labels.count(label) for label in range(4)]


def test_large_parts_are_written_as_several_files(simulated_folder, cache_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(prepare, "CYCLES_PER_FILE", 20)
    prepare_icbhi(simulated_folder, tmp_path / "out", cache_dir=cache_dir)
    assert sorted(path.name for path in (tmp_path / "out" / "data").iterdir()) == [
        "test-00000-of-00002.parquet",
        "test-00001-of-00002.parquet",
        "train-00000-of-00003.parquet",
        "train-00001-of-00003.parquet",
        "train-00002-of-00003.parquet",
    ]
    expected = load_icbhi(simulated_folder, cache_dir=cache_dir)["train"]["start"][:]
    assert load_cycles(tmp_path / "out", cache_dir)["train"]["start"][:] == expected


def test_folder_that_holds_something_is_left_alone(simulated_folder, cache_dir, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds something already; name a new folder"):
        prepare_icbhi(simulated_folder, tmp_path, cache_dir=cache_dir)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_failure_leaves_no_folder_behind_under_the_final_name(simulated_folder, cache_dir, tmp_path, monkeypatch):
    def fail(row):
        raise RuntimeError("disk full")

    monkeypatch.setattr(prepare, "embed_cycle", fail)
    with pytest.raises(RuntimeError, match="disk full"):
        prepare_icbhi(simulated_folder, tmp_path / "out", cache_dir=cache_dir)
    assert not (tmp_path / "out").exists()


def test_sprsound_keeps_its_events_and_parts(tmp_path, cache_dir):
    write_recording(tmp_path / "source", "train", 41000000, 1, TYPES)
    write_recording(tmp_path / "source", "test", 42000000, 2, TYPES[:2], "inter_test_json")
    prepare_sprsound(tmp_path / "source", tmp_path / "out")
    loaded = load_cycles(tmp_path / "out", cache_dir)
    assert loaded["train"]["event"][:] == list(TYPES)
    assert len(loaded["test_inter"]) == 2
    assert loaded["test_inter"][1]["audio"]["array"].shape == (12800,)


def test_simulated_card_says_that_the_sounds_are_computed(tmp_path, cache_dir):
    size = {"patients": 2, "recordings_per_patient": 1, "cycles_per_recording": 2}
    prepare_simulated(tmp_path / "out", **size, cache_dir=cache_dir)
    assert "These sounds were **computed**" in (tmp_path / "out" / "README.md").read_text()
    loaded = load_cycles(tmp_path / "out", cache_dir)
    assert {part: len(rows) for part, rows in loaded.items()} == {"train": 2, "test": 2}


def test_part_without_cycles_is_not_written(simulated_folder, cache_dir, tmp_path):
    (tmp_path / "source").mkdir()
    for path in [*simulated_folder.glob("101_*"), simulated_folder / "simulated_train_test.txt"]:
        (tmp_path / "source" / path.name).write_bytes(path.read_bytes())
    prepare_icbhi(tmp_path / "source", tmp_path / "out", cache_dir=cache_dir)
    assert set(datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(cache_dir))) == {"train"}
    assert {part: len(rows) for part, rows in load_icbhi(tmp_path / "out", cache_dir=cache_dir).items()} == {
        "train": 8,
        "test": 0,
    }
