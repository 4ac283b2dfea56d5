import csv
import errno
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from modeling_lung_srad.errors import InputError
from tests.training.report.conftest import about_test, made_up_cycles, with_validation
from training.report.figures import ABOUT, build_report
from training.report.files import REPORT_FILES, check_output_folder, read_report, write_report, write_text
from training.report.predictions import concatenate


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A written report; read only."""
    folder = tmp_path_factory.mktemp("written") / "report"
    cycles = with_validation(made_up_cycles())
    write_report(folder, build_report(cycles, about_test(data_notes=["Incomplete."])), cycles)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    """A copy of the written report."""
    return shutil.copytree(written, tmp_path / "report")


@pytest.fixture
def without_plot(monkeypatch):
    """Leaves the picture out, which takes a second."""
    monkeypatch.setattr("training.report.files.save_figure", lambda *_: None)


def test_report_is_these_files_and_nothing_temporary(folder):
    assert sorted(path.name for path in folder.iterdir()) == sorted(REPORT_FILES)
    assert (folder / "evaluation.png").read_bytes().startswith(b"\x89PNG")


def test_what_is_read_makes_the_same_report(folder):
    report = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    for source in (folder, folder / "predictions.csv"):
        cycles, about = read_report(source)
        assert about == {key: report[key] for key in ABOUT}
        assert json.loads(json.dumps(build_report(cycles, about))) == report


def test_predictions_alone_give_the_figures_and_say_what_is_not_known(folder):
    report = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
    (folder / "evaluation.json").unlink()
    cycles, about = read_report(folder)
    again = json.loads(json.dumps(build_report(cycles, about)))
    assert "is not known" in again["data_notes"][0]
    assert (again["selection"], again["split"], again["part"]) == (None, None, "test")
    figures = report.keys() - set(ABOUT) - {"leak_free_test"}
    assert {key: again[key] for key in figures} == {key: report[key] for key in figures}


@pytest.mark.usefixtures("without_plot")
def test_patients_are_a_table_with_undefined_rates_named(tmp_path):
    cycles = made_up_cycles()
    cycles = cycles.select((cycles.patient != "101") | (cycles.label == 0))
    report = build_report(cycles, about_test())
    write_report(tmp_path, report, cycles)
    with open(tmp_path / "patients.csv", newline="", encoding="utf-8") as file:
        rows = {row["patient"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(cycles.patient)
    assert rows["101"]["score"] == "undefined"
    assert rows["101"]["specificity"] != "undefined"
    for name, figures in report["subgroups"]["patient"].items():
        for rate in ("specificity", "sensitivity"):
            value = figures[rate]
            assert rows[name][rate] == ("undefined" if value is None else f"{value:.6f}")


def test_interrupted_writing_leaves_the_files_of_before(folder, monkeypatch):
    before = (folder / "evaluation.json").read_text(encoding="utf-8")
    cycles = made_up_cycles(seed=9)
    monkeypatch.setattr("training.report.files.json.dumps", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        write_report(folder, build_report(cycles, about_test()), cycles)
    assert (folder / "evaluation.json").read_text(encoding="utf-8") == before
    assert sorted(path.name for path in folder.iterdir()) == sorted(REPORT_FILES)


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"part": "test"}', "\xff"])
def test_evaluation_that_is_none_is_named(folder, content):
    (folder / "evaluation.json").write_text(content, encoding="latin-1")
    with pytest.raises(InputError, match=r"evaluation.json: is not a report .*evaluate again, or remove the file"):
        read_report(folder)


def test_evaluation_of_another_part_is_named(folder):
    report = json.loads((folder / "evaluation.json").read_text(encoding="utf-8")) | {"part": "train"}
    (folder / "evaluation.json").write_text(json.dumps(report), encoding="utf-8")
    with pytest.raises(InputError, match=r"contains no cycle of the train part, which evaluation.json"):
        read_report(folder)


@pytest.mark.usefixtures("without_plot")
def test_predictions_of_two_parts_are_named(tmp_path):
    cycles = concatenate([made_up_cycles(part="test"), made_up_cycles(part="train")])
    write_report(tmp_path, build_report(cycles, about_test()), cycles)
    (tmp_path / "evaluation.json").unlink()
    with pytest.raises(InputError, match="part: holds test and train; keep one of them"):
        read_report(tmp_path)


@pytest.mark.usefixtures("without_plot")
def test_simulated_sounds_are_recognised_in_predictions_alone(tmp_path):
    cycles = replace(made_up_cycles(), device=np.full(120, "Simulated"))
    write_report(tmp_path, build_report(cycles, about_test()), cycles)
    (tmp_path / "evaluation.json").unlink()
    _, about = read_report(tmp_path)
    assert any("Simulated sounds" in note for note in about["data_notes"])


def test_output_below_a_file_is_refused_before_any_work(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    for output in (tmp_path / "thesis.txt", tmp_path / "thesis.txt" / "report"):
        with pytest.raises(InputError, match=r"thesis.txt is a file; name a folder"):
            check_output_folder(output)
    check_output_folder(tmp_path / "new" / "folder")
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs the device that is always full")
def test_full_disk_is_named_with_the_file():
    with pytest.raises(InputError, match=r"^/dev/full: cannot be written \(No space left on device\); free space on"):
        write_text(Path("/dev/full"), "text")


@pytest.mark.parametrize("writer", ["write_predictions", "_write_patients", "save_figure"])
def test_full_disk_is_named_with_the_folder(tmp_path, monkeypatch, writer):
    def fail(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    for name in ("save_figure", writer):
        monkeypatch.setattr(f"training.report.files.{name}", fail if name == writer else lambda *_: None)
    cycles = made_up_cycles()
    with pytest.raises(InputError, match=r"report: cannot be written \(No space left on device\); free space on"):
        write_report(tmp_path / "report", build_report(cycles, about_test()), cycles)
