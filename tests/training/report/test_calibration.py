import numpy as np
import pytest
from sklearn.metrics import log_loss

from modeling_lung_srad.configuration_lung_srad import HIGHEST_TEMPERATURE, LOWEST_TEMPERATURE
from tests.training.report.conftest import made_up_cycles
from training.report.calibration import (
    calibration_figures,
    expected_calibration_error,
    fit_temperature,
    negative_log_likelihood,
    reliability_bins,
    scale_probabilities,
)
from training.report.resampling import draw_patients


def softmax(logits):
    powers = np.exp(logits)
    return powers / powers.sum(axis=1, keepdims=True)


def calibration_error_slowly(probabilities, labels):
    """ECE from its definition, one bin and one cycle at a time."""
    total = 0.0
    for number in range(15):
        inside = [
            (max(row), int(np.argmax(row)) == label)
            for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True)
            if number / 15 < max(row) <= (number + 1) / 15
        ]
        if inside:
            confidence = sum(share for share, _ in inside) / len(inside)
            accuracy = sum(right for _, right in inside) / len(inside)
            total += len(inside) / len(labels) * abs(confidence - accuracy)
    return total


def test_ece_is_that_of_its_definition():
    cycles = made_up_cycles(300)
    expected = calibration_error_slowly(cycles.probabilities, cycles.label)
    assert expected_calibration_error(cycles.probabilities, cycles.label) == pytest.approx(expected)


def test_ece_by_hand():
    probabilities = np.array([[1.0, 0, 0, 0], [1.0, 0, 0, 0], [0.4, 0.3, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1]])
    labels = np.array([0, 1, 0, 0])
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.5 * 0.5 + 0.5 * 0.6)
    bins = reliability_bins(probabilities, labels)
    assert bins[14] == {"low": 14 / 15, "high": 1.0, "cycles": 2, "confidence": 1.0, "accuracy": 0.5}
    assert bins[0] == {"low": 0.0, "high": 1 / 15, "cycles": 0, "confidence": None, "accuracy": None}


def test_brier_score_by_hand_and_likelihood_as_in_scikit_learn():
    cycles = made_up_cycles(50)
    draws = draw_patients(cycles.patient)
    figures = calibration_figures(np.array([[0.7, 0.1, 0.1, 0.1]] * 2), np.array([0, 1]), draw_patients([1, 2]))
    assert figures["brier"] == pytest.approx((0.09 + 0.03 + 0.49 + 0.81 + 0.02) / 2)
    likelihood = calibration_figures(cycles.probabilities, cycles.label, draws)["negative_log_likelihood"]
    assert likelihood == pytest.approx(log_loss(cycles.label, cycles.probabilities, labels=range(4)))


def test_intervals_agree_with_drawing_patients_one_by_one():
    cycles = made_up_cycles(150)
    figures = calibration_figures(cycles.probabilities, cycles.label, draw_patients(cycles.patient))
    generator, names = np.random.default_rng(1), np.unique(cycles.patient)
    drawn_ece, drawn_brier = [], []
    for _ in range(300):
        chosen = np.concatenate(
            [np.flatnonzero(cycles.patient == name) for name in generator.choice(names, len(names))]
        )
        probabilities, labels = cycles.probabilities[chosen], cycles.label[chosen]
        drawn_ece.append(calibration_error_slowly(probabilities, labels))
        drawn_brier.append(((probabilities - np.eye(4)[labels]) ** 2).sum(axis=1).mean())
    assert figures["intervals_95"]["ece"] == pytest.approx(np.quantile(drawn_ece, (0.025, 0.975)), abs=0.02)
    assert figures["intervals_95"]["brier"] == pytest.approx(np.quantile(drawn_brier, (0.025, 0.975)), abs=0.02)


def test_temperature_undoes_a_known_overconfidence():
    generator = np.random.default_rng(0)
    logits = generator.standard_normal((20000, 4)) * 1.5
    labels = (softmax(logits).cumsum(axis=1) < generator.random((20000, 1))).sum(axis=1)
    fitted = fit_temperature(softmax(3 * logits), labels)
    assert fitted.value == pytest.approx(3, rel=0.03)
    assert not fitted.at_bound


def test_no_temperature_on_a_fine_grid_is_better():
    cycles = made_up_cycles(200)
    fitted = fit_temperature(cycles.probabilities, cycles.label).value
    losses = [
        log_loss(cycles.label, scale_probabilities(cycles.probabilities, temperature))
        for temperature in np.geomspace(LOWEST_TEMPERATURE, HIGHEST_TEMPERATURE, 600)
    ]
    best = log_loss(cycles.label, scale_probabilities(cycles.probabilities, fitted))
    assert best <= min(losses) + 1e-9


def test_scaling_rounded_probabilities_is_scaling_the_logits():
    logits = np.random.default_rng(0).standard_normal((200, 4)) * 8
    rounded = np.array([[float(f"{value:.9g}") for value in row] for row in softmax(logits)])
    for temperature in (0.3, 1.0, 2.7):
        assert scale_probabilities(rounded, temperature) == pytest.approx(softmax(logits / temperature), abs=1e-6)


def test_perfect_and_impossible_predictions_end_at_the_bounds_without_nan():
    certain = np.array([[1.0, 0.0, 0.0, 0.0], [0.97, 0.01, 0.01, 0.01]])
    always_right = np.array([[0.4, 0.2, 0.2, 0.2]] * 2)
    right, wrong = fit_temperature(always_right, np.array([0, 0])), fit_temperature(certain, np.array([1, 1]))
    assert right.at_bound
    assert right.value == pytest.approx(LOWEST_TEMPERATURE, rel=0.01)
    assert wrong.at_bound
    assert wrong.value == pytest.approx(HIGHEST_TEMPERATURE, rel=0.01)
    assert np.isfinite(negative_log_likelihood(certain, np.array([1, 1])))
    assert scale_probabilities(certain, 0.05)[0].tolist() == [1, 0, 0, 0]
