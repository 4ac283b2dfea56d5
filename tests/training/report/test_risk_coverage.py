import numpy as np
import pytest

from tests.training.conftest import count_slowly
from tests.training.report.conftest import made_up_cycles
from training.report.resampling import draw_patients
from training.report.risk_coverage import area_under_risk_coverage, risk_coverage, risk_coverage_curve


def area_slowly(confidence, wrong):
    """Mean over cycles of the error rate among those that are at least as confident."""
    risks = []
    for own in confidence:
        kept = [mistake for other, mistake in zip(confidence, wrong, strict=True) if other >= own]
        risks.append(sum(kept) / len(kept))
    return sum(risks) / len(risks)


def test_table_is_that_of_the_surest_cycles():
    cycles = made_up_cycles(95)
    confidence = cycles.probabilities.max(axis=1)
    measured = risk_coverage(confidence, cycles.prediction, cycles.label, draw_patients(cycles.patient))
    surest = sorted(range(95), key=lambda index: -confidence[index])
    for row, (percent, count) in zip(
        measured["table"], ((100, 95), (90, 86), (80, 76), (70, 67), (60, 57), (50, 48)), strict=True
    ):
        kept = surest[:count]
        assert (row["coverage_percent"], row["cycles"]) == (percent, count)
        assert row["confidence"] == confidence[kept[-1]]
        assert row["error_rate"] == pytest.approx(np.mean(cycles.prediction[kept] != cycles.label[kept]))
        expected = count_slowly(cycles.prediction[kept].tolist(), cycles.label[kept].tolist())
        assert {name: row[name] for name in expected} == pytest.approx(expected)
    assert measured["area"] == pytest.approx(area_slowly(confidence, cycles.prediction != cycles.label))
    low, high = measured["area_interval_95"]
    assert low < measured["area"] < high


def test_cycles_of_equal_confidence_stay_together():
    confidence = np.array([0.9, 0.8, 0.8, 0.8, 0.5])
    predictions, labels = np.array([0, 1, 0, 0, 0]), np.array([0, 1, 1, 0, 1])
    table = risk_coverage(confidence, predictions, labels, draw_patients([1, 1, 2, 2, 3]))["table"]
    assert [row["cycles"] for row in table] == [5, 5, 4, 4, 4, 4]
    assert table[-1]["error_rate"] == pytest.approx(1 / 4)
    coverage, risk = risk_coverage_curve(confidence, predictions != labels)
    assert coverage == pytest.approx([0.2, 0.8, 1.0])
    assert risk == pytest.approx([0, 1 / 4, 2 / 5])
    assert area_slowly(confidence, predictions != labels) == pytest.approx((0 + 3 * 0.25 + 0.4) / 5)


def test_area_under_weights_is_that_of_repeated_cycles():
    generator = np.random.default_rng(0)
    confidence, wrong = generator.integers(5, size=30) / 5, generator.random(30) < 0.4
    weights = generator.integers(3, size=(10, 30))
    areas = area_under_risk_coverage(confidence, wrong, weights.astype(float))
    for row, area in zip(weights, areas, strict=True):
        assert area == pytest.approx(area_slowly(np.repeat(confidence, row), np.repeat(wrong, row)))


def test_score_is_undefined_where_only_normal_cycles_are_kept():
    confidence, labels = np.array([0.9, 0.9, 0.5, 0.5]), np.array([0, 0, 1, 1])
    table = risk_coverage(confidence, np.zeros(4, dtype=int), labels, draw_patients([1, 2, 3, 4]))["table"]
    assert table[-1]["specificity"] == 1
    assert table[-1]["sensitivity"] is table[-1]["score"] is None
