"""The measures of the SPRSound challenge (BioCAS 2022), in plain numpy.

The folder of this file is loaded both as a part of the package and by `evaluate.load`, which copies the metric and the
siblings that it imports to a cache: so it imports numpy only.

Source: Zhang et al. 2022, "SPRSound: Open-Source SJTU Paediatric Respiratory Sound Database" (IEEE TBioCAS 16(5)), and
the rules of the challenge at BioCAS 2022.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

POOR_QUALITY = "Poor Quality"
# Tasks 1-1 and 1-2 classify events, Tasks 2-1 and 2-2 whole recordings. Labels are places in these tuples.
TASK_CLASSES = {
    "1-1": ("Normal", "Adventitious"),
    "1-2": ("Normal", "Fine Crackle", "Coarse Crackle", "Wheeze", "Rhonchi", "Stridor", "Wheeze+Crackle"),
    "2-1": ("Normal", "Adventitious", POOR_QUALITY),
    "2-2": ("Normal", "CAS", "DAS", "CAS & DAS", POOR_QUALITY),
}
RATES = ("specificity", "sensitivity", "average_score", "harmonic_score", "score")


def task_classes(task: str) -> tuple[str, ...]:
    """Class names of a task in the order of its labels.

    Args:
        task (`str`): `1-1`, `1-2`, `2-1` or `2-2`.

    Raises:
        ValueError: another task.
    """
    if task not in TASK_CLASSES:
        raise ValueError(f"task: {task!r} is unknown; use one of {', '.join(TASK_CLASSES)}")
    return TASK_CLASSES[task]


def check_labels(labels: Sequence[int] | np.ndarray, task: str, name: str) -> np.ndarray:
    """Returns `labels` as an integer array `(items,)`.

    Args:
        labels (sequence of `int`): one label per event or recording.
        task (`str`): `1-1`, `1-2`, `2-1` or `2-2`.
        name (`str`): how messages call the labels.

    Raises:
        ValueError: an unknown task, labels that are not one-dimensional or empty, or a value that is not a label of
            the task.
    """
    classes, values = task_classes(task), np.asarray(labels)
    if values.ndim != 1:
        raise ValueError(
            f"{name} must be one label per event or recording, got shape {values.shape}; take the argmax of logits "
            "first"
        )
    if values.size == 0:
        raise ValueError(f"{name} is empty; the measure needs at least one normal and one adventitious item")
    known = np.isin(values, np.arange(len(classes)))
    if not known.all():
        raise ValueError(
            f"{name}[{int(np.argmin(known))}] is {values[np.argmin(known)]!r}; labels of task {task} are the integers "
            f"0 to {len(classes) - 1} ({', '.join(classes)})"
        )
    return values.astype(np.int64)


def confusion_counts(
    predictions: Sequence[int] | np.ndarray, references: Sequence[int] | np.ndarray, task: str
) -> np.ndarray:
    """Counts events or recordings by true class (row) and predicted class (column), `(classes, classes)` integers.

    Raises:
        ValueError: different lengths, or labels or a task that `check_labels` refuses.
    """
    predicted = check_labels(predictions, task, "predictions")
    true = check_labels(references, task, "references")
    if len(predicted) != len(true):
        raise ValueError(f"{len(predicted)} predictions for {len(true)} references; pass one of each per item")
    size = len(task_classes(task))
    return np.bincount(true * size + predicted, minlength=size**2).reshape(size, size)


def rates_from_counts(counts: np.ndarray, task: str) -> dict[str, np.ndarray]:
    """The five rates of a task from confusion counts, for one matrix or a stack of them.

    A rate whose denominator is zero is NaN, and so is every score made from it: this is the function for subgroups
    and resamples, where a class may be absent. `sprsound_score` raises instead. The harmonic score of two rates that
    are both zero is zero.

    Args:
        counts (`np.ndarray` of shape `(..., classes, classes)`): items by true class (row) and predicted class
            (column).
        task (`str`): `1-1`, `1-2`, `2-1` or `2-2`.

    Returns:
        `dict`: `specificity`, `sensitivity`, `average_score`, `harmonic_score` and `score`, each of shape `(...)`,
        fractions from 0 to 1.

    Raises:
        ValueError: an unknown task, or counts of another shape.
    """
    classes, counts = task_classes(task), np.asarray(counts, dtype=np.float64)
    if counts.shape[-2:] != (len(classes), len(classes)):
        raise ValueError(f"counts has shape {counts.shape}; task {task} needs (..., {len(classes)}, {len(classes)})")
    adventitious = slice(1, len(classes) - (POOR_QUALITY in classes))
    normal_total = counts[..., 0, :].sum(axis=-1)
    adventitious_total = counts[..., adventitious, :].sum(axis=(-2, -1))
    exactly_right = np.trace(counts[..., adventitious, adventitious], axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore"):
        specificity = counts[..., 0, 0] / normal_total
        sensitivity = exactly_right / adventitious_total
        both = specificity + sensitivity
        harmonic_score = np.where(both == 0, 0.0, 2 * specificity * sensitivity / both)
    average_score = both / 2
    return {
        "specificity": specificity,
        "sensitivity": sensitivity,
        "average_score": average_score,
        "harmonic_score": harmonic_score,
        "score": (average_score + harmonic_score) / 2,
    }


def sprsound_score(
    predictions: Sequence[int] | np.ndarray, references: Sequence[int] | np.ndarray, task: str
) -> dict[str, Any]:
    """The measure of one task of the SPRSound challenge.

    Recordings that are truly of poor quality count in no rate; predicting poor quality for another one is an error.

    Args:
        predictions (sequence of `int`): predicted labels, places in `TASK_CLASSES[task]`.
        references (sequence of `int`): true labels, in the same order.
        task (`str`): `1-1` (events, normal or adventitious), `1-2` (events, seven types), `2-1` (recordings, normal,
            adventitious or poor quality) or `2-2` (recordings, five classes).

    Returns:
        `dict`: fractions from 0 to 1 under `specificity` (SP, normal items predicted normal), `sensitivity` (SE,
        adventitious items given exactly their class, pooled over the classes), `average_score` (AS, mean of the two),
        `harmonic_score` (HS, harmonic mean of the two) and `score` (mean of AS and HS); and `confusion_matrix`, a
        nested list of counts, `confusion_matrix[true][predicted]`.

    Raises:
        ValueError: an unknown task, different lengths, unknown labels, no items, or no normal or no adventitious item,
            for which a rate would be undefined (`rates_from_counts` gives NaN there).

    Example:

    ```python
    >>> measured = sprsound_score(predictions=[0, 0, 1, 0], references=[0, 0, 1, 1], task="1-1")
    >>> measured["specificity"], measured["sensitivity"], measured["average_score"]
    (1.0, 0.5, 0.75)
    >>> round(measured["harmonic_score"], 4), round(measured["score"], 4)
    (0.6667, 0.7083)

    ```
    """
    counts = confusion_counts(predictions, references, task)
    rates: dict[str, Any] = {name: float(rate) for name, rate in rates_from_counts(counts, task).items()}
    for name, missing in (("specificity", "normal"), ("sensitivity", "adventitious")):
        if np.isnan(rates[name]):
            raise ValueError(f"references hold no {missing} item, so the {name} is undefined; add some")
    return {**rates, "confusion_matrix": counts.tolist()}
