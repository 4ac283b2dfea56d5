"""Calibration of probabilities: temperature scaling, ECE, Brier score and reliability bins.

Source: Guo et al. 2017, "On calibration of modern neural networks" (arXiv 1706.04599).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from sklearn.metrics import brier_score_loss

from modeling_lung_srad.configuration_lung_srad import HIGHEST_TEMPERATURE, LOWEST_TEMPERATURE
from training.metrics.icbhi_score.icbhi_measure import NUM_CLASSES
from training.report.resampling import PatientDraws

NUM_BINS = 15
SMALLEST_PROBABILITY = np.finfo(np.float64).tiny


@dataclass(frozen=True)
class Temperature:
    """A fitted temperature.

    Args:
        value (`float`): divides the logits; above 1 it makes the model less sure.
        at_bound (`bool`): whether the fit ended at the lowest or highest temperature that is tried.
    """

    value: float
    at_bound: bool


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> Temperature:
    """The temperature between 0.05 and 20 with the smallest negative log-likelihood.

    Args:
        probabilities (`np.ndarray` of shape `(cycles, 4)`): of validation cycles.
        labels (`np.ndarray` of shape `(cycles,)`): their classes.
    """

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(scale_probabilities(probabilities, math.exp(log_temperature)), labels)

    bounds = (math.log(LOWEST_TEMPERATURE), math.log(HIGHEST_TEMPERATURE))
    value = math.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-8}).x)
    at_bound = value < 1.001 * LOWEST_TEMPERATURE or value > HIGHEST_TEMPERATURE / 1.001
    return Temperature(value, at_bound)


def scale_probabilities(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """`softmax(log(p) / temperature)` of `(cycles, 4)`: temperature scaling without the logits."""
    with np.errstate(divide="ignore"):
        scaled = np.log(probabilities) / temperature
    scaled = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    return scaled / scaled.sum(axis=1, keepdims=True)


def negative_log_likelihood(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Mean of `-log p(true class)`; a probability of zero counts as the smallest number of its type."""
    return float(-np.log(np.maximum(probabilities[np.arange(len(labels)), labels], SMALLEST_PROBABILITY)).mean())


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Top-label ECE with 15 bins of equal width, right-closed.

    The mean over cycles, by bin, of the distance between mean confidence (the largest probability) and accuracy.
    """
    return float(_calibration_error(_gaps_by_bin(probabilities, labels).sum(axis=0), len(labels)))


def calibration_figures(probabilities: np.ndarray, labels: np.ndarray, draws: PatientDraws) -> dict[str, Any]:
    """ECE, Brier score (sum over classes of the squared error, mean over cycles) and negative log-likelihood.

    Returns:
        `dict`: `ece`, `brier`, `negative_log_likelihood`, `intervals_95` of the first two over patients, and `bins` of
        the reliability diagram: `low` and `high` confidence, `cycles`, mean `confidence` and `accuracy` (`None` for
        an empty bin).
    """
    squared_error = ((probabilities - np.eye(NUM_CLASSES)[labels]) ** 2).sum(axis=1)
    drawn_cycles = draws.totals(np.ones(len(labels)))
    drawn_ece = _calibration_error(draws.totals(_gaps_by_bin(probabilities, labels)), drawn_cycles)
    return {
        "ece": expected_calibration_error(probabilities, labels),
        "brier": float(brier_score_loss(labels, probabilities, labels=range(NUM_CLASSES), scale_by_half=False)),
        "negative_log_likelihood": negative_log_likelihood(probabilities, labels),
        "intervals_95": {
            "ece": draws.interval(drawn_ece),
            "brier": draws.interval(draws.means(squared_error)),
        },
        "bins": reliability_bins(probabilities, labels),
    }


def reliability_bins(probabilities: np.ndarray, labels: np.ndarray) -> list[dict[str, Any]]:
    """The 15 bins of the reliability diagram, see `calibration_figures`."""
    confidence, correct = top_label(probabilities, labels)
    bin_of_cycle = _bin_indices(confidence)
    bins = []
    for index in range(NUM_BINS):
        inside = bin_of_cycle == index
        means = {"confidence": confidence[inside], "accuracy": correct[inside]}
        bins.append(
            {
                "low": index / NUM_BINS,
                "high": (index + 1) / NUM_BINS,
                "cycles": int(inside.sum()),
                **{name: float(values.mean()) if values.size else None for name, values in means.items()},
            }
        )
    return bins


def top_label(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Largest probability of each cycle and whether its class is the true one, both `(cycles,)`."""
    return probabilities.max(axis=1), probabilities.argmax(axis=1) == labels


def _bin_indices(confidence: np.ndarray) -> np.ndarray:
    return np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)


def _gaps_by_bin(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Confidence minus correctness of each cycle in the column of its bin, `(cycles, 15)`, zero elsewhere."""
    confidence, correct = top_label(probabilities, labels)
    gaps = np.zeros((len(labels), NUM_BINS))
    gaps[np.arange(len(labels)), _bin_indices(confidence)] = confidence - correct
    return gaps


def _calibration_error(total_gaps: np.ndarray, cycles: np.ndarray | int) -> np.ndarray:
    return np.abs(total_gaps).sum(axis=-1) / cycles
