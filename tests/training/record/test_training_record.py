import json

import huggingface_hub
import pytest

from modeling_lung_srad.checkpoint_loading import DEFAULT_CHECKPOINT
from training.record.training_record import read_training_record

SUMMARY = {
    "selection": "validation",
    "validation_patients": ["103", "105"],
    "cycles": {"training": {"icbhi": {"cycles": 9}}, "validation": {"icbhi": {"cycles": 4}}},
    "configuration": {"data": {"split": "leak_free"}},
}


def write(folder, summary):
    (folder / "training_summary.json").write_text(json.dumps(summary), encoding="utf-8")
    return read_training_record(folder)


def test_record_is_what_the_summary_says(tmp_path):
    record = write(tmp_path, SUMMARY)
    assert (record.split, record.selection, record.validation_patients) == ("leak_free", "validation", ("103", "105"))
    assert (record.validation_source, record.validation_cycles) == ("icbhi", 4)


def test_run_without_validation_patients(tmp_path):
    summary = SUMMARY | {"selection": "last", "validation_patients": [], "cycles": {"training": {}}}
    record = write(tmp_path, summary)
    assert (record.validation_patients, record.validation_source, record.validation_cycles) == ((), None, None)


@pytest.mark.parametrize(("before", "now"), [("best validation score", "validation"), ("last epoch", "last")])
def test_names_of_the_selection_in_summaries_of_before(tmp_path, before, now):
    assert write(tmp_path, SUMMARY | {"selection": before}).selection == now


def test_embedded_checkpoint_has_a_record():
    record = read_training_record(DEFAULT_CHECKPOINT)
    assert record.selection == "last"
    assert len(record.validation_patients) == 8


def test_folder_without_a_summary_has_no_record(tmp_path):
    assert read_training_record(tmp_path) is None


def test_summary_of_a_checkpoint_from_the_hub_is_the_downloaded_one(tmp_path, monkeypatch):
    path = tmp_path / "training_summary.json"
    path.write_text(json.dumps(SUMMARY | {"selection": "test"}), encoding="utf-8")
    known = {("someone/model", "training_summary.json"): str(path)}
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *key: known.get(key))
    assert read_training_record("someone/model").selection == "test"
    assert read_training_record("someone/else") is None


@pytest.mark.parametrize("content", ["[]", "{", '{"configuration": {}}', '{"cycles": 3}'])
def test_summary_that_is_none_is_named(tmp_path, content):
    (tmp_path / "training_summary.json").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=r"training_summary.json: is not a training summary .*take the file out"):
        read_training_record(tmp_path)
