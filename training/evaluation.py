"""From predicted and true classes to figures: the ICBHI measure and precision and recall, with their intervals."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import precision_recall_fscore_support

from training.metrics.icbhi_score.icbhi_measure import (
    CLASS_NAMES,
    NUM_CLASSES,
    RATES,
    check_labels,
    confusion_counts,
    icbhi_score,
    rates_from_counts,
)
from training.report.resampling import DRAWS, PatientDraws, draw_patients

RATE_TITLES = {
    "specificity": "Specificity",
    "sensitivity": "Sensitivity (4-class: exactly the right abnormal class)",
    "score": "Score (4-class)",
    "sensitivity_any_abnormal": "Sensitivity (2-class: any abnormal class)",
    "score_any_abnormal": "Score (2-class)",
}
CLASS_MEASURES = ("precision", "recall", "f1")


def compute_metrics(prediction: Any) -> dict[str, float]:
    """`compute_metrics` of a `transformers.Trainer`: the five rates of `icbhi_score` from logits and labels.

    Args:
        prediction (`transformers.EvalPrediction`): logits `(cycles, 4)`, possibly first of a tuple, and labels.
    """
    logits = prediction.predictions[0] if isinstance(prediction.predictions, tuple) else prediction.predictions
    measured = icbhi_score(np.argmax(logits, axis=-1), prediction.label_ids)
    return {name: measured[name] for name in RATES}


def patient_bootstrap(
    predictions: Sequence[int] | np.ndarray,
    references: Sequence[int] | np.ndarray,
    patients: Sequence[Any] | np.ndarray,
    resamples: int = DRAWS,
    seed: int = 0,
) -> dict[str, list[float] | None]:
    """95 % percentile intervals of the five rates, from drawing whole patients with replacement.

    Args:
        predictions (sequence of `int`): predicted labels.
        references (sequence of `int`): true labels.
        patients (sequence): patient of each cycle.
        resamples (`int`, *optional*, defaults to 2000): number of draws.
        seed (`int`, *optional*, defaults to 0): seed of the draws.

    Returns:
        `dict`: `[low, high]` per rate, or `None` where fewer than two patients, or no draw, define it. Draws in which
        a rate is undefined (no abnormal cycle, for instance) are left out of its interval.
    """
    draws = draw_patients(patients, resamples, seed)
    rates = rates_from_counts(resampled_counts(predictions, references, draws))
    return {name: draws.interval(values) for name, values in rates.items()}


def resampled_counts(
    predictions: Sequence[int] | np.ndarray, references: Sequence[int] | np.ndarray, draws: PatientDraws
) -> np.ndarray:
    """Confusion counts in every draw of patients, `(draws, 4, 4)`: true class by row, predicted class by column."""
    predicted, true = check_labels(predictions, "predictions"), check_labels(references, "references")
    cells = np.zeros((len(true), NUM_CLASSES, NUM_CLASSES))
    cells[np.arange(len(true)), true, predicted] = 1
    return draws.totals(cells)


def class_figures(
    predictions: Sequence[int] | np.ndarray, references: Sequence[int] | np.ndarray, draws: PatientDraws
) -> dict[str, dict[str, Any]]:
    """Precision, recall and F1 of each class, with 95 % intervals over patients.

    Returns:
        `dict`: by class name, numbers of `cycles`, of `predicted` and of `correct` ones; `precision` (`None` where the
        class is never predicted), `recall` (`None` without cycles), `f1` (`None` where both), and
        `intervals_95` of the three.
    """
    counts = confusion_counts(predictions, references)
    measured = precision_recall_fscore_support(
        references, predictions, labels=list(range(NUM_CLASSES)), zero_division=np.nan
    )
    drawn = resampled_counts(predictions, references, draws)
    drawn_correct = np.diagonal(drawn, axis1=-2, axis2=-1)
    drawn_cycles, drawn_predicted = drawn.sum(axis=-1), drawn.sum(axis=-2)
    with np.errstate(invalid="ignore"):
        drawn_measures = {
            "precision": drawn_correct / drawn_predicted,
            "recall": drawn_correct / drawn_cycles,
            "f1": 2 * drawn_correct / (drawn_cycles + drawn_predicted),
        }
    classes: dict[str, dict[str, Any]] = {}
    for label, name in enumerate(CLASS_NAMES):
        figures = {measure: float(values[label]) for measure, values in zip(CLASS_MEASURES, measured, strict=False)}
        classes[name] = {
            "cycles": int(counts[label].sum()),
            "predicted": int(counts[:, label].sum()),
            "correct": int(counts[label, label]),
            **{measure: value if np.isfinite(value) else None for measure, value in figures.items()},
            "intervals_95": {
                measure: draws.interval(values[:, label]) if np.isfinite(figures[measure]) else None
                for measure, values in drawn_measures.items()
            },
        }
    return classes


def evaluation_report(
    predictions: Sequence[int] | np.ndarray,
    references: Sequence[int] | np.ndarray,
    recordings: Sequence[str] | np.ndarray,
    patients: Sequence[Any] | np.ndarray,
    **about: Any,
) -> dict[str, Any]:
    """All figures of one evaluated part that need no probabilities, ready for JSON.

    Args:
        predictions (sequence of `int`): predicted labels.
        references (sequence of `int`): true labels.
        recordings (sequence of `str`): recording of each cycle.
        patients (sequence): patient of each cycle.
        about: what was evaluated (`checkpoint`, `part`, `data_notes`, ...); stands first in the report.

    Raises:
        ValueError: as `icbhi_score`.
    """
    measured = icbhi_score(predictions, references)
    return {
        **about,
        "cycles": len(references),
        "recordings": len(set(recordings)),
        "patients": len(set(patients)),
        **measured,
        "intervals_95": patient_bootstrap(predictions, references, patients),
        "classes": class_figures(predictions, references, draw_patients(patients)),
    }


__all__ = [
    "class_figures",
    "compute_metrics",
    "confusion_counts",
    "evaluation_report",
    "icbhi_score",
    "patient_bootstrap",
    "rates_from_counts",
    "resampled_counts",
]
