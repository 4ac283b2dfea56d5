"""From predictions to figures: the ICBHI measure, its confidence intervals, and the report of one evaluated part."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from training.metrics.icbhi_score.icbhi_measure import (
    CLASS_NAMES,
    NUM_CLASSES,
    RATES,
    check_labels,
    confusion_counts,
    icbhi_score,
    rates_from_counts,
)

RATE_TITLES = {
    "specificity": "Specificity",
    "sensitivity": "Sensitivity (4-class: exactly the right abnormal class)",
    "score": "Score (4-class)",
    "sensitivity_any_abnormal": "Sensitivity (2-class: any abnormal class)",
    "score_any_abnormal": "Score (2-class)",
}


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
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, list[float] | None]:
    """95 % percentile intervals of the five rates, from drawing whole patients with replacement.

    The cycles of a patient resemble each other, so resampling single cycles would give intervals that are too narrow.

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
    predicted, true = check_labels(predictions, "predictions"), check_labels(references, "references")
    _, patient_index = np.unique(np.asarray(patients), return_inverse=True)
    num_patients = int(patient_index.max()) + 1
    counts = np.zeros((num_patients, NUM_CLASSES, NUM_CLASSES))
    np.add.at(counts, (patient_index, true, predicted), 1)
    generator = np.random.default_rng(seed)
    times_drawn = generator.multinomial(num_patients, np.full(num_patients, 1 / num_patients), size=resamples)
    rates = rates_from_counts(np.tensordot(times_drawn, counts, axes=1))
    intervals: dict[str, list[float] | None] = {}
    for name, values in rates.items():
        defined = values[np.isfinite(values)]
        usable = num_patients > 1 and defined.size > 0
        intervals[name] = [float(bound) for bound in np.quantile(defined, (0.025, 0.975))] if usable else None
    return intervals


def evaluation_report(
    predictions: Sequence[int] | np.ndarray,
    references: Sequence[int] | np.ndarray,
    recordings: Sequence[str],
    patients: Sequence[Any],
    **about: Any,
) -> dict[str, Any]:
    """All figures of one evaluated part, ready for JSON.

    Args:
        predictions (sequence of `int`): predicted labels.
        references (sequence of `int`): true labels.
        recordings (sequence of `str`): recording of each cycle.
        patients (sequence): patient of each cycle.
        about: what was evaluated (`checkpoint`, `part`, `data_note`, ...); stands first in the report.

    Raises:
        ValueError: as `icbhi_score`.
    """
    measured = icbhi_score(predictions, references)
    counts = np.asarray(measured["confusion_matrix"])
    return {
        **about,
        "cycles": len(references),
        "recordings": len(set(recordings)),
        "patients": len(set(patients)),
        **measured,
        "intervals_95": patient_bootstrap(predictions, references, patients),
        "classes": {
            name: {
                "cycles": int(counts[label].sum()),
                "predicted": int(counts[:, label].sum()),
                "correct": int(counts[label, label]),
            }
            for label, name in enumerate(CLASS_NAMES)
        },
    }


def markdown_report(report: dict[str, Any]) -> str:
    """The report of `evaluation_report` as Markdown, rates in percent."""
    lines = [f"# Evaluation of {report['checkpoint']}", ""]
    lines += [f"- {key.replace('_', ' ')}: {report[key]}" for key in ("data", "split", "part") if key in report]
    lines += [f"- {report['cycles']} cycles, {report['recordings']} recordings, {report['patients']} patients"]
    lines += [f"\n**{note}**" for note in report.get("data_notes", [])]
    lines += ["", "| measure | % | 95 % interval (patients resampled) |", "| --- | --- | --- |"]
    for name, title in RATE_TITLES.items():
        interval = report["intervals_95"][name]
        bounds = "undefined" if interval is None else f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"
        lines.append(f"| {title} | {100 * report[name]:.2f} | {bounds} |")
    lines += ["", "True class by row, predicted class by column:", ""]
    lines += [f"| | {' | '.join(CLASS_NAMES)} | cycles |", f"| --- {'| --- ' * (NUM_CLASSES + 1)}|"]
    for name, row in zip(CLASS_NAMES, report["confusion_matrix"], strict=True):
        lines.append(f"| {name} | {' | '.join(map(str, row))} | {sum(row)} |")
    return "\n".join(lines) + "\n"


__all__ = [
    "compute_metrics",
    "confusion_counts",
    "evaluation_report",
    "icbhi_score",
    "markdown_report",
    "patient_bootstrap",
    "rates_from_counts",
]
