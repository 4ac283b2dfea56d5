"""Abstention: how the error rate falls when the model may leave the cycles that it is least sure of to a person.

Source: Geifman and El-Yaniv 2017, "Selective classification for deep neural networks" (arXiv 1705.08500).
"""

from functools import partial
from typing import Any

import numpy as np

from training.metrics.icbhi_score.icbhi_measure import RATES, confusion_counts, rates_from_counts
from training.report.resampling import PatientDraws

COVERAGE_PERCENTS = (100, 90, 80, 70, 60, 50)


def risk_coverage(
    confidence: np.ndarray, predictions: np.ndarray, labels: np.ndarray, draws: PatientDraws
) -> dict[str, Any]:
    """Error rate and the ICBHI measure among the cycles with the largest confidence.

    Cycles of equal confidence are kept or left out together, so a row may keep more cycles than it asks for.

    Args:
        confidence (`np.ndarray` of shape `(cycles,)`): largest probability of each cycle.
        predictions (`np.ndarray` of shape `(cycles,)`): predicted classes.
        labels (`np.ndarray` of shape `(cycles,)`): true classes.
        draws (`PatientDraws`): for the interval of the area.

    Returns:
        `dict`: `area` under the risk-coverage curve (see `area_under_risk_coverage`) and its `area_interval_95`; and
        `table`, by coverage: `coverage_percent` asked for, lowest `confidence` kept, `cycles` kept, `error_rate` and
        the five rates, `None` where no normal or no abnormal cycle is kept.
    """
    order = np.argsort(-confidence, kind="stable")
    wrong = predictions != labels
    table = []
    for percent in COVERAGE_PERCENTS:
        threshold = confidence[order[-(-percent * len(order) // 100) - 1]]
        kept = confidence >= threshold
        rates = rates_from_counts(confusion_counts(predictions[kept], labels[kept]))
        table.append(
            {
                "coverage_percent": percent,
                "confidence": float(threshold),
                "cycles": int(kept.sum()),
                "error_rate": float(wrong[kept].mean()),
                **{name: float(rates[name]) if np.isfinite(rates[name]) else None for name in RATES},
            }
        )
    equal = np.ones((1, len(labels)))
    area = draws.weighted(partial(area_under_risk_coverage, confidence, wrong))
    return {
        "area": float(area_under_risk_coverage(confidence, wrong, equal)[0]),
        "area_interval_95": draws.interval(area),
        "table": table,
    }


def risk_coverage_curve(confidence: np.ndarray, wrong: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of the cycles kept and error rate among them, at every confidence that occurs, from the largest on."""
    kept, errors = _kept_and_errors(confidence, wrong, np.ones((1, len(wrong))))
    return kept[0] / len(wrong), errors[0] / kept[0]


def area_under_risk_coverage(confidence: np.ndarray, wrong: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean over cycles of the error rate among the cycles that are at least as confident; smaller is better.

    Args:
        confidence (`np.ndarray` of shape `(cycles,)`): largest probability of each cycle.
        wrong (`np.ndarray` of shape `(cycles,)`): whether its class is a wrong one.
        weights (`np.ndarray` of shape `(weightings, cycles)`): how often each cycle counts.

    Returns:
        `np.ndarray` of shape `(weightings,)`.
    """
    kept, errors = _kept_and_errors(confidence, wrong, weights)
    with np.errstate(invalid="ignore"):
        risk = np.nan_to_num(errors / kept)
    return (np.diff(kept, prepend=0, axis=1) * risk).sum(axis=1) / kept[:, -1]


def _kept_and_errors(confidence: np.ndarray, wrong: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cumulative cycles and errors by falling confidence, `(weightings, distinct confidences)`."""
    order = np.argsort(-confidence, kind="stable")
    descending = confidence[order]
    last_of_value = np.flatnonzero(np.r_[descending[1:] != descending[:-1], True])
    kept = weights[:, order].cumsum(axis=1)
    errors = (weights[:, order] * wrong[order]).cumsum(axis=1)
    return kept[:, last_of_value], errors[:, last_of_value]
