"""How well probabilities tell abnormal cycles, crackles and wheezes from the rest, at every threshold at once."""

from functools import partial
from typing import Any

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from training.metrics.icbhi_score.icbhi_measure import CLASS_NAMES
from training.report.resampling import PatientDraws

NORMAL, CRACKLE, WHEEZE, BOTH = range(len(CLASS_NAMES))
TARGETS = {"abnormal": (CRACKLE, WHEEZE, BOTH), "crackle": (CRACKLE, BOTH), "wheeze": (WHEEZE, BOTH)}
MEASURES = ("auroc", "auprc")


def target_scores(target: str, probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Score and truth of a sound in each cycle.

    Args:
        target (`str`): `abnormal` (1 - p(normal)), `crackle` (p(crackle) + p(both)) or `wheeze` (likewise).
        probabilities (`np.ndarray` of shape `(cycles, 4)`).
        labels (`np.ndarray` of shape `(cycles,)`).

    Returns:
        `tuple[np.ndarray, np.ndarray]`: scores in [0, 1] and whether the sound is there, both `(cycles,)`.
    """
    classes = TARGETS[target]
    scores = 1 - probabilities[:, NORMAL] if target == "abnormal" else probabilities[:, list(classes)].sum(axis=1)
    return scores, np.isin(labels, classes)


def discrimination(probabilities: np.ndarray, labels: np.ndarray, draws: PatientDraws) -> dict[str, dict[str, Any]]:
    """AUROC and AUPRC (average precision) of each sound, with 95 % intervals over patients.

    Returns:
        `dict`: by sound, `positives` (cycles that have it), `prevalence` (their share, the AUPRC of chance), `auroc`,
        `auprc` and `intervals_95` of the two; `None` where all cycles or none of them have the sound.
    """
    measured: dict[str, dict[str, Any]] = {}
    resampled = resampled_discrimination(probabilities, labels, draws)
    for target in TARGETS:
        scores, present = target_scores(target, probabilities, labels)
        figures = areas(scores, present)
        intervals = {
            name: None if figures[name] is None else draws.interval(resampled[f"{name}_{target}"]) for name in MEASURES
        }
        count = {"positives": int(present.sum()), "prevalence": float(present.mean())}
        measured[target] = {**count, **figures, "intervals_95": intervals}
    return measured


def areas(scores: np.ndarray, present: np.ndarray) -> dict[str, float | None]:
    """`auroc` and `auprc` of one sound, see `target_scores`; `None` where all cycles or none of them have it."""
    if not 0 < present.sum() < len(present):
        return dict.fromkeys(MEASURES)
    return {
        "auroc": float(roc_auc_score(present, scores)),
        "auprc": float(average_precision_score(present, scores)),
    }


def resampled_discrimination(
    probabilities: np.ndarray, labels: np.ndarray, draws: PatientDraws
) -> dict[str, np.ndarray]:
    """`auroc_abnormal`, `auprc_abnormal`, and so on in every draw of patients, `(draws,)`; NaN where undefined."""
    resampled: dict[str, np.ndarray] = {}
    for target in TARGETS:
        both = draws.weighted(partial(weighted_areas, *target_scores(target, probabilities, labels)))
        resampled |= {f"{name}_{target}": both[:, column] for column, name in enumerate(MEASURES)}
    return resampled


def weighted_areas(scores: np.ndarray, present: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """AUROC and average precision under many weightings of the cycles at once, as scikit-learn defines them.

    Args:
        scores (`np.ndarray` of shape `(cycles,)`): larger where the sound is thought to be there.
        present (`np.ndarray` of shape `(cycles,)`): whether it is.
        weights (`np.ndarray` of shape `(weightings, cycles)`): 0 or more.

    Returns:
        `np.ndarray` of shape `(weightings, 2)`: NaN where the cycles of positive weight all have the sound or all
        lack it.
    """
    order = np.argsort(-scores, kind="stable")
    descending = scores[order]
    first_of_value = np.flatnonzero(np.r_[True, descending[1:] != descending[:-1]])
    positive = np.add.reduceat(weights[:, order] * present[order], first_of_value, axis=1)
    negative = np.add.reduceat(weights[:, order] * ~present[order], first_of_value, axis=1)
    true_positives, false_positives = positive.cumsum(axis=1), negative.cumsum(axis=1)
    positives, negatives = true_positives[:, -1], false_positives[:, -1]
    with np.errstate(invalid="ignore", divide="ignore"):
        outranked = negatives[:, None] - false_positives + negative / 2
        auroc = (positive * outranked).sum(axis=1) / (positives * negatives)
        precision = np.nan_to_num(true_positives / (true_positives + false_positives))
        average_precision = (positive * precision).sum(axis=1) / positives
    average_precision[negatives == 0] = np.nan
    return np.stack([auroc, average_precision], axis=1)
