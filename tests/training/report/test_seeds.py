import pytest

from tests.training.report.conftest import about_test, made_up_cycles, with_validation
from training.report.figures import build_report
from training.report.seeds import markdown_seeds, report_names, summarize_seeds


def reports_of_three_seeds(**about):
    return [build_report(with_validation(made_up_cycles(seed=seed)), about_test(**about)) for seed in (1, 2, 3)]


def test_mean_and_sample_standard_deviation():
    reports = reports_of_three_seeds()
    summary = summarize_seeds(["one", "two", "three"], reports)
    scores = [report["score"] for report in reports]
    mean = sum(scores) / 3
    std = (sum((score - mean) ** 2 for score in scores) / 2) ** 0.5
    assert summary["mean"]["score"] == pytest.approx(mean)
    assert summary["std"]["score"] == pytest.approx(std)
    text = markdown_seeds(summary)
    row = next(line for line in text.splitlines() if line.startswith("| mean ± std |"))
    assert f" {100 * mean:.2f} ± {100 * std:.2f} " in row
    assert "n - 1 = 2" in text
    for name, report in zip(("one", "two", "three"), reports, strict=True):
        assert f"| {name} | {100 * report['specificity']:.2f} |" in text
        assert summary["checkpoints"][name]["ece_after"] == report["calibration"]["after"]["ece"]


def test_figure_that_one_checkpoint_lacks_has_no_mean():
    reports = reports_of_three_seeds()
    reports[1] = build_report(made_up_cycles(seed=2), about_test())
    summary = summarize_seeds(["one", "two", "three"], reports)
    assert summary["mean"]["ece_after"] is summary["std"]["ece_after"] is None
    assert summary["mean"]["ece"] is not None
    assert "undefined" in markdown_seeds(summary)


def test_notes_are_carried_over():
    text = markdown_seeds(summarize_seeds(["one", "two", "three"], reports_of_three_seeds(data_notes=["Optimistic."])))
    assert text.count("**Optimistic.**") == 1


def test_names_are_those_of_the_folders_and_differ(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert report_names(["runs/a", "other/a/", "user/b", "."]) == ["a", "a_2", "b", tmp_path.name]
