"""The measure of the ICBHI 2017 challenge, in plain numpy.

The folder of this file is loaded both as a part of the package (`training.evaluation.icbhi_score`) and by
`evaluate.load`, which copies the metric and the siblings that it imports to a cache: so it imports numpy only.

Source: Rocha et al. 2018, "A respiratory sound database for the development of automated classification"; the
any-abnormal ("2-class") sensitivity is the one that Patch-Mix CL (arXiv 2305.14032) and later work report beside it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

CLASS_NAMES = ("normal", "crackle", "wheeze", "both")
NUM_CLASSES = len(CLASS_NAMES)
RATES = ("specificity", "sensitivity", "score", "sensitivity_any_abnormal", "score_any_abnormal")


def check_labels(labels: Sequence[int] | np.ndarray, name: str) -> np.ndarray:
    """Returns `labels` as an integer array `(cycles,)`.

    Raises:
        ValueError: not one-dimensional, empty, or a value that is not one of the labels 0 to 3.
    """
    values = np.asarray(labels)
    if values.ndim != 1:
        raise ValueError(
            f"{name} must be one label per cycle, got shape {values.shape}; take the argmax of logits first"
        )
    if values.size == 0:
        raise ValueError(f"{name} is empty; the measure needs at least one normal and one abnormal cycle")
    known = np.isin(values, np.arange(NUM_CLASSES))
    if not known.all():
        raise ValueError(
            f"{name}[{int(np.argmin(known))}] is {values[np.argmin(known)]!r}; labels are the integers 0 to "
            f"{NUM_CLASSES - 1} ({', '.join(CLASS_NAMES)})"
        )
    return values.astype(np.int64)


def confusion_counts(predictions: Sequence[int] | np.ndarray, references: Sequence[int] | np.ndarray) -> np.ndarray:
    """Counts cycles by true class (row) and predicted class (column), `(4, 4)` integers.

    Raises:
        ValueError: different lengths, or labels that `check_labels` refuses.
    """
    predicted, true = check_labels(predictions, "predictions"), check_labels(references, "references")
    if len(predicted) != len(true):
        raise ValueError(f"{len(predicted)} predictions for {len(true)} references; pass one of each per cycle")
    return np.bincount(true * NUM_CLASSES + predicted, minlength=NUM_CLASSES**2).reshape(NUM_CLASSES, NUM_CLASSES)


def rates_from_counts(counts: np.ndarray) -> dict[str, np.ndarray]:
    """The five rates of the measure from confusion counts, for one matrix or a stack of them.

    A rate whose denominator is zero is NaN, and so is every score made from it: this is the function for subgroups
    and resamples, where a class may be absent. `icbhi_score` raises instead.

    Args:
        counts (`np.ndarray` of shape `(..., 4, 4)`): cycles by true class (row) and predicted class (column).

    Returns:
        `dict`: `specificity`, `sensitivity`, `score`, `sensitivity_any_abnormal` and `score_any_abnormal`, each of
        shape `(...)`, fractions from 0 to 1.
    """
    counts = np.asarray(counts, dtype=np.float64)
    normal, abnormal = counts[..., 0, :].sum(axis=-1), counts[..., 1:, :].sum(axis=(-2, -1))
    exactly_right = np.trace(counts[..., 1:, 1:], axis1=-2, axis2=-1)
    with np.errstate(invalid="ignore"):
        specificity = counts[..., 0, 0] / normal
        sensitivity = exactly_right / abnormal
        any_abnormal = counts[..., 1:, 1:].sum(axis=(-2, -1)) / abnormal
    return {
        "specificity": specificity,
        "sensitivity": sensitivity,
        "score": (specificity + sensitivity) / 2,
        "sensitivity_any_abnormal": any_abnormal,
        "score_any_abnormal": (specificity + any_abnormal) / 2,
    }


def icbhi_score(predictions: Sequence[int] | np.ndarray, references: Sequence[int] | np.ndarray) -> dict[str, Any]:
    """The ICBHI measure under both definitions of the sensitivity.

    Args:
        predictions (sequence of `int`): predicted labels, 0 normal, 1 crackle, 2 wheeze, 3 both.
        references (sequence of `int`): true labels, in the same order.

    Returns:
        `dict`: fractions from 0 to 1 under `specificity` (normal cycles predicted normal), `sensitivity` (abnormal
        cycles given exactly their class), `score` (mean of the two), `sensitivity_any_abnormal` (abnormal cycles given
        any abnormal class), `score_any_abnormal` (its mean with the same specificity); and `confusion_matrix`, a
        nested list of counts, `confusion_matrix[true][predicted]`.

    Raises:
        ValueError: different lengths, labels other than 0 to 3, no cycles, or no normal or no abnormal cycle, for
            which a rate would be undefined (`rates_from_counts` gives NaN there).

    Example:

    ```python
    >>> measured = icbhi_score(predictions=[0, 0, 1, 3], references=[0, 0, 1, 2])
    >>> measured["specificity"], measured["sensitivity"], measured["sensitivity_any_abnormal"]
    (1.0, 0.5, 1.0)

    ```
    """
    counts = confusion_counts(predictions, references)
    if counts[0].sum() == 0:
        raise ValueError("references hold no normal cycle (label 0), so the specificity is undefined")
    if counts[1:].sum() == 0:
        raise ValueError("references hold no abnormal cycle (labels 1 to 3), so the sensitivity is undefined")
    rates: dict[str, Any] = {name: float(rate) for name, rate in rates_from_counts(counts).items()}
    return {**rates, "confusion_matrix": counts.tolist()}
