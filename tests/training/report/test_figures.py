import json
import re

import numpy as np
import pytest

from tests.training.conftest import count_slowly
from tests.training.report.conftest import about_test, made_up_cycles, with_validation
from training.report.calibration import fit_temperature
from training.report.figures import build_report
from training.report.markdown import markdown_report
from training.report.plots import plot_report
from training.report.predictions import CyclePredictions

LEAKED = "156_2b3_Al_mc_AKGC417L"


def with_leaked_recording(count=100):
    """Made-up cycles of which the first 20 are of a recording that the leak-free test leaves out."""
    cycles = made_up_cycles(count)
    fields = dict(vars(cycles))
    is_first = np.arange(count) < 20
    fields["recording"] = np.where(is_first, LEAKED, cycles.recording)
    fields["patient"] = np.where(is_first, "156", cycles.patient)
    return CyclePredictions(**fields)


def test_every_part_of_the_report_is_about_the_evaluated_cycles():
    cycles = made_up_cycles(150)
    report = build_report(with_validation(cycles), about_test())
    expected = count_slowly(cycles.prediction.tolist(), cycles.label.tolist())
    assert {name: report[name] for name in expected} == pytest.approx(expected)
    assert (report["cycles"], report["patients"]) == (150, 8)
    assert sum(item["cycles"] for item in report["calibration"]["before"]["bins"]) == 150
    assert report["risk_coverage"]["table"][0]["cycles"] == 150
    assert sum(figures["cycles"] for figures in report["subgroups"]["device"].values()) == 150


def test_temperature_comes_from_the_validation_cycles():
    validation = made_up_cycles(count=60, seed=5, part="validation")
    report = build_report(with_validation(made_up_cycles()), about_test())
    assert report["temperature"] == pytest.approx(fit_temperature(validation.probabilities, validation.label).value)
    assert report["calibration_fit"] == {"cycles": 60, "patients": 8, "at_bound": False}
    text = markdown_report(report)
    assert text.count("The same patients chose the epoch.") == 1
    assert "fitted on 60 cycles of 8 validation patients" in text


def test_without_validation_patients_it_is_not_calibrated_and_says_why():
    report = build_report(made_up_cycles(), about_test(validation_missing="the training run kept none"))
    assert report["temperature"] is report["calibration"]["after"] is None
    assert "Not calibrated: the training run kept none." in markdown_report(report)


def test_calibration_on_the_evaluated_cycles_themselves_is_called_optimistic():
    report = build_report(made_up_cycles(part="validation"), about_test(part="validation"))
    assert report["calibration_fit"]["cycles"] == report["cycles"]
    assert "the figures after scaling are optimistic" in markdown_report(report)
    assert "leak_free_test" not in report


def of_official_test(cycles):
    return cycles.select(np.isin(cycles.patient, ["156", "101", "102", "104"]))


def test_leak_free_figures_leave_the_leaked_recordings_out():
    cycles = of_official_test(with_leaked_recording())
    report = build_report(cycles, about_test())
    leak_free = report["leak_free_test"]
    left = cycles.recording != LEAKED
    counted = (leak_free["recordings_left_out"], leak_free["cycles_left_out"], leak_free["cycles"])
    assert counted == (1, 20, int(left.sum()))
    expected = count_slowly(cycles.prediction[left].tolist(), cycles.label[left].tolist())
    assert {name: leak_free[name] for name in expected} == pytest.approx(expected)
    assert leak_free["score"] != report["score"]
    assert leak_free["intervals_95"]["score"][0] < leak_free["score"] < leak_free["intervals_95"]["score"][1]
    assert "without 1 recordings (20 cycles)" in markdown_report(report)


@pytest.mark.parametrize("about", [{"split": "leak_free"}, {"split": "fold0"}])
def test_other_splits_have_no_leak_free_subset(about):
    assert "leak_free_test" not in build_report(with_leaked_recording(), about_test(**about))


@pytest.mark.parametrize("split", ["official", None])
def test_official_test_part_is_recognised_by_its_recordings_whatever_the_split_is_called(split):
    cycles = with_leaked_recording()
    assert "score" in build_report(of_official_test(cycles), about_test(split=split))["leak_free_test"]
    # Patient 103 is in the published training part, as in a folder with a split file of its own.
    assert "leak_free_test" not in build_report(cycles, about_test(split=split))


def test_copy_without_leaked_recordings_says_that_the_figures_are_the_same():
    report = build_report(of_official_test(made_up_cycles()), about_test())
    assert report["leak_free_test"] == {"recordings_left_out": 0, "cycles_left_out": 0}
    assert "Leak-free test: no recording of patients who are also in training is here" in markdown_report(report)


def test_nothing_is_called_leak_free_where_the_training_patients_are_unknown():
    about = about_test() | {"training_patients_known": False}
    for cycles in (made_up_cycles(), with_leaked_recording()):
        text = markdown_report(build_report(of_official_test(cycles), about))
        assert "Leak-free test: unknown. Reduced test: " in text
        assert text.lower().count("leak-free") == 1
        assert "also in training" not in text


def test_leak_free_subset_without_abnormal_cycles_is_undefined():
    cycles = with_leaked_recording()
    kept = cycles.select((cycles.label == 0) | (cycles.recording == LEAKED))
    report = build_report(of_official_test(kept), about_test())
    assert report["leak_free_test"]["undefined"] == "no normal or no abnormal cycle is left"
    assert "Leak-free test: undefined" in markdown_report(report)


@pytest.mark.filterwarnings("error")
def test_missing_class_is_undefined_and_never_nan_in_every_output():
    cycles = made_up_cycles(40, classes=(0, 1), patients=1)
    report = build_report(cycles, about_test())
    text = json.dumps(report, allow_nan=False)
    assert report["classes"]["wheeze"]["recall"] is None
    assert report["classes"]["wheeze"]["intervals_95"]["recall"] is None
    assert report["discrimination"]["wheeze"]["auroc"] is None
    markdown = markdown_report(report)
    assert "| wheeze | 0 | undefined | undefined | 0.000 |" in markdown
    assert not re.search(r"\bnan\b", markdown + text, flags=re.IGNORECASE)
    labels = [line.get_label() for line in plot_report(report, cycles).axes[1].lines]
    assert "wheeze: AUROC undefined" in labels


def test_class_that_is_never_predicted_has_no_precision_but_an_f1_of_zero():
    cycles = made_up_cycles(60)
    fields = dict(vars(cycles))
    fields["probabilities"] = np.tile([0.7, 0.1, 0.1, 0.1], (60, 1))
    fields["prediction"] = np.zeros(60, dtype=int)
    figures = build_report(CyclePredictions(**fields), about_test())["classes"]["both"]
    assert (figures["precision"], figures["recall"], figures["f1"]) == (None, 0, 0)


def test_notes_stand_in_the_text_and_below_the_plots():
    notes = ["Selected on the test set: optimistic.", "Simulated $sounds$ in a_b."]
    cycles = made_up_cycles()
    report = build_report(cycles, about_test(data_notes=notes))
    text = markdown_report(report)
    figure = plot_report(report, cycles)
    for note in notes:
        assert f"**{note}**" in text
        assert note in figure.get_supxlabel()
    assert text.count("Research software, not a medical device.") == 1


def test_plots_have_the_figures_of_the_report(tmp_path):
    cycles = with_validation(made_up_cycles(200))
    report = build_report(cycles, about_test())
    figure = plot_report(report, cycles)
    assert len(figure.axes) == 6
    assert all(axes.get_title() and axes.get_ylabel() for axes in figure.axes)
    confusion, roc, _, reliability, abstention, devices = figure.axes
    cells = [text.get_text().split("\n")[0] for text in confusion.texts]
    assert cells == [str(count) for row in report["confusion_matrix"] for count in row]
    assert f"abnormal: AUROC {report['discrimination']['abnormal']['auroc']:.3f}" in [
        line.get_label() for line in roc.lines
    ]
    shown = [line.get_label() for line in reliability.lines]
    assert f"after temperature scaling: ECE {report['calibration']['after']['ece']:.3f}" in shown
    assert abstention.lines[0].get_ydata()[-1] == pytest.approx(
        100 * report["risk_coverage"]["table"][0]["error_rate"]
    )
    assert [label.get_text().split("\n")[0] for label in devices.get_xticklabels()] == ["Meditron", "Litt3200"]
    figure.savefig(tmp_path / "evaluation.png")
