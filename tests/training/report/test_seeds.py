import dataclasses

import numpy as np
import pytest

from tests.training.conftest import count_slowly
from tests.training.report.conftest import about_test, made_up_cycles, with_validation
from training.report.figures import build_report
from training.report.seeds import markdown_seeds, mean_intervals, report_names, summarize_seeds

SEEDS = (1, 2, 3)
PREDICTIONS = [made_up_cycles(seed=seed) for seed in SEEDS]


def reports_of_three_seeds(**about):
    return [build_report(with_validation(made_up_cycles(seed=seed)), about_test(**about)) for seed in SEEDS]


def test_mean_and_sample_standard_deviation():
    reports = reports_of_three_seeds()
    summary = summarize_seeds(["one", "two", "three"], reports, PREDICTIONS)
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
    summary = summarize_seeds(["one", "two", "three"], reports, PREDICTIONS)
    assert summary["mean"]["ece_after"] is summary["std"]["ece_after"] is None
    assert summary["mean"]["ece"] is not None
    assert "undefined" in markdown_seeds(summary)


def test_notes_are_carried_over():
    reports = reports_of_three_seeds(data_notes=["Optimistic."])
    text = markdown_seeds(summarize_seeds(["one", "two", "three"], reports, PREDICTIONS))
    assert text.count("**Optimistic.**") == 1


def test_names_are_those_of_the_folders_and_differ(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert report_names(["runs/a", "other/a/", "user/b", "."]) == ["a", "a_2", "b", tmp_path.name]


def test_interval_of_the_mean_is_that_of_patients_drawn_one_by_one():
    first = made_up_cycles(seed=1)
    # The same cycles with other answers: seeds differ in nothing else.
    generator = np.random.default_rng(5)
    second = dataclasses.replace(first, prediction=generator.permutation(first.prediction))
    patients = sorted(set(first.patient.tolist()))
    means = []
    for _ in range(800):
        drawn = generator.choice(patients, size=len(patients))
        chosen = np.concatenate([np.flatnonzero(first.patient == patient) for patient in drawn])
        rates = [count_slowly(cycles.prediction[chosen], cycles.label[chosen]) for cycles in (first, second)]
        means.append(sum(one["score"] for one in rates) / 2)
    low, high = mean_intervals([first, second])["score"]
    assert [low, high] == pytest.approx(np.quantile(means, (0.025, 0.975)).tolist(), abs=0.02)
