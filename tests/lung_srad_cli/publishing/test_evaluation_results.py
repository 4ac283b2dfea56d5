"""Figures in a model index say what they are of, and what limits them."""

import json
import shutil

import pytest

from dataset_scripts.simulated import write_simulated
from lung_srad_cli.publishing.evaluation_results import (
    METRIC_NAMES,
    evaluation_results,
    figures_section,
    is_certainly_about,
    read_evaluation,
)
from modeling_lung_srad.errors import InputError
from training.prediction.evaluate_checkpoint import evaluate_checkpoint
from training.report.files import write_report as write_whole_report

LIMIT = "Incomplete ICBHI 2017: 20 of 381 recordings; not comparable with published ICBHI scores."


def test_every_figure_of_a_part_of_the_database_says_so(report):
    results = evaluation_results(report)
    assert len(results) == 5
    for result in results:
        assert result.dataset_name == f"ICBHI 2017, official split, test part. {LIMIT}"
        assert result.dataset_split == "test"
        assert result.dataset_args == {
            "cycles": 100,
            "recordings": 20,
            "patients": 5,
            "cycles_by_device": {"Meditron": 60, "Litt3200": 40},
            "epoch_chosen_on": "validation",
            "limits": [LIMIT],
        }
    text = figures_section(report)
    assert text.startswith(f"**{LIMIT}** ")
    assert "cycles by device: Meditron 60, Litt3200 40" in text


def test_both_sensitivities_have_names_that_tell_them_apart(report):
    names = {result.metric_type: result.metric_name for result in evaluation_results(report)}
    assert names["sensitivity"] == "Sensitivity, 4-class: exactly the right abnormal class (%)"
    assert names["sensitivity_any_abnormal"] == "Sensitivity, 2-class: any abnormal class (%)"
    assert all(name in figures_section(report) for name in names.values())


def test_an_epoch_chosen_on_the_test_part_is_flagged(report):
    note = "Selected on the test set (the protocol of the paper and of most of the field): optimistic."
    report |= {"selection": "test", "data_notes": [note]}
    for result in evaluation_results(report):
        assert note in result.dataset_name
        assert result.dataset_args["epoch_chosen_on"] == "test"
    assert figures_section(report).startswith(f"**{note}**")
    assert "The epoch was chosen on the test part." in figures_section(report)


def test_simulated_sounds_are_never_called_icbhi(report):
    report["subgroups"]["device"] = {"Simulated": {"cycles": 100}}
    report["data_notes"] = ["Simulated sounds: these figures say nothing about accuracy on recordings of patients."]
    for result in evaluation_results(report):
        assert result.dataset_type == "simulated"
        assert result.dataset_name.startswith("Simulated lung sounds, test part. Simulated sounds: these figures say")
    assert "ICBHI" not in figures_section(report)


def test_an_undefined_rate_is_left_out_of_the_index_and_called_so_in_the_text(report):
    report |= {"sensitivity": None, "score": None}
    report["intervals_95"] |= {"sensitivity": None, "score": None}
    assert [result.metric_type for result in evaluation_results(report)] == [
        "specificity",
        "sensitivity_any_abnormal",
        "score_any_abnormal",
    ]
    assert "| undefined | undefined |" in figures_section(report)


def test_a_report_of_lung_srad_evaluate_is_read(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    data = write_simulated(tmp_path / "data", patients=6, recordings_per_patient=1, cycles_per_recording=4)
    report, cycles = evaluate_checkpoint(checkpoint, data)
    write_whole_report(tmp_path / "report", report, cycles)
    read = read_evaluation(tmp_path / "report", checkpoint)
    assert is_certainly_about(read, checkpoint)
    assert {result.dataset_type for result in evaluation_results(read)} == {"simulated"}
    assert "**Simulated sounds: these figures say nothing" in figures_section(read)


def test_a_report_about_other_weights_is_refused(report, write_report, checkpoint, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(checkpoint, other)
    report["checkpoint"] = str(other)
    assert is_certainly_about(read_evaluation(write_report(report), checkpoint), checkpoint)
    with open(other / "model.safetensors", "ab") as file:
        file.write(b"\0")
    with pytest.raises(InputError, match=f"is about {other}, whose weights are others than those of {checkpoint}"):
        read_evaluation(write_report(report), checkpoint)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("part", 3),
        ("split", []),
        ("selection", {}),
        ("checkpoint", 3),
        ("split", "\x1b[31m\n"),
        ("data_notes", [None]),
        ("data_notes", "a text"),
        ("cycles", True),
        ("patients", -1),
        ("specificity", "0.9"),
        ("specificity", float("nan")),
        ("sensitivity", [0.25]),
        ("score", 57.5),
        ("confusion_matrix", [[1, 2, 3, 4]]),
        ("confusion_matrix", [[1, 2, 3, "4"]] * 4),
        ("intervals_95", {}),
        ("intervals_95", {rate: [0.1] for rate in METRIC_NAMES}),
        ("subgroups", {"device": {"Meditron": 60}}),
        ("subgroups", ["device"]),
    ],
)
def test_a_field_of_another_kind_is_named(report, write_report, checkpoint, field, value):
    report[field] = value
    with pytest.raises(InputError, match=f"evaluation.json: {field}: is not .*; evaluate again"):
        read_evaluation(write_report(report), checkpoint)


def test_a_report_may_lack_what_the_card_can_do_without(report, write_report, checkpoint):
    for field in ("checkpoint", "split", "selection", "subgroups"):
        del report[field]
    read = read_evaluation(write_report(report), checkpoint)
    assert not is_certainly_about(read, checkpoint)
    assert "ICBHI 2017, test part: 100 cycles" in figures_section(read)


def test_a_checkpoint_in_the_home_of_an_unknown_user_is_not_at_hand(report, write_report, checkpoint):
    report["checkpoint"] = "~nobody-of-this-name/run"
    assert not is_certainly_about(read_evaluation(write_report(report), checkpoint), checkpoint)


def test_what_is_no_report_is_named(report, write_report, checkpoint, tmp_path):
    with pytest.raises(InputError, match=r"nowhere: lacks evaluation.json; write one by `lung-srad evaluate"):
        read_evaluation(tmp_path / "nowhere", checkpoint)
    for content, problem in (("{", "cannot be read"), ("[]", "is not a mapping"), ("{}", "part: is missing")):
        (tmp_path / "evaluation.json").write_text(content, encoding="utf-8")
        with pytest.raises(InputError, match=problem):
            read_evaluation(tmp_path / "evaluation.json", checkpoint)
    del report["score"]
    with pytest.raises(InputError, match=r"evaluation.json: score: is missing; evaluate again"):
        read_evaluation(write_report(report), checkpoint)
    assert json.loads((tmp_path / "report" / "evaluation.json").read_text())["part"] == "test"
