"""Calibration of a model with a head for two sounds, crackle and wheeze, to validation patients of several databases.

How often a sound occurs, and how a stethoscope renders it, differ from database to database: one bias fits none. The
log odds of a sound therefore get a bias and a multiple of the linear direction of the pooled features that tells two
databases apart best; with a common temperature these are fitted by likelihood (Platt 1999; arXiv 1706.04599). All but
the temperature becomes a part of the head.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from modeling_lung_srad.timeline import add_context
from training.data.log_mel_dataset import LogMelDataset
from training.metrics.icbhi_score.icbhi_measure import confusion_counts, rates_from_counts

BATCH_SIZE = 32
THRESHOLDS = np.arange(0.04, 0.62, 0.02).round(2).tolist()
# A threshold that misses more is of little use, however high its Score.
WANTED_SENSITIVITY = 0.4
# Inverse strength of the penalty of the direction, which few patients have to settle.
DIRECTION_STRENGTH = 0.01
# It raises the AUROC of three networks on both databases (docs/evidence.md); 1 and more gain no more.
CONTEXT_WEIGHT = 0.5
# Prior of biases and multiples, in log odds: a few dozen abnormal cycles leave them uncertain.
PRIOR_DEVIATION = 2.0


class CalibrationPart(NamedTuple):
    """
    The cycles of one database.

    Args:
        pooled (`np.ndarray` of shape `(cycles, width)`): pooled features.
        odds (`np.ndarray` of shape `(cycles, 2)`): log odds of the sounds.
        labels (`np.ndarray` of shape `(cycles,)`): classes.
        recordings (sequence of `str`, *optional*): of each cycle; without, cycles have no context.
        spans (sequence of `tuple[float, float]`, *optional*): start and end of each cycle in its recording, in s.
    """

    pooled: np.ndarray
    odds: np.ndarray
    labels: np.ndarray
    recordings: Sequence[str] | None = None
    spans: Sequence[tuple[float, float]] | None = None


class SoundCalibration(NamedTuple):
    """
    Args:
        weight (`np.ndarray` of shape `(2, width)`): added to the weight of the head.
        bias (`np.ndarray` of shape `(2,)`): added to its bias.
        temperature (`float`): divides the logits.
        thresholds (`tuple[float, float]`): probabilities from which crackle and wheeze are named.
        context_weight (`float`, *optional*): weight of the surrounding windows that the fit assumed.
    """

    weight: np.ndarray
    bias: np.ndarray
    temperature: float
    thresholds: tuple[float, float]
    context_weight: float | None = None


@torch.inference_mode()
def predict_sounds(classifier: Any, cycles: LogMelDataset) -> CalibrationPart:
    """Input of [`fit_sounds`] from one database, from a classifier with a head for two sounds."""
    was_training = classifier.training
    classifier.eval()
    pooled, odds, labels = [], [], []
    for batch in tqdm(DataLoader(cycles, batch_size=BATCH_SIZE), desc="calibration", unit="batch", leave=False):
        outputs = classifier(batch["input_values"].to(classifier.device))
        pooled.append(outputs.pooler_output.float().cpu())
        odds.append((outputs.logits[:, 1:3] - outputs.logits[:, :1]).float().cpu())
        labels.append(batch["labels"])
    classifier.train(was_training)
    parts = (torch.cat(tensors).numpy() for tensors in (pooled, odds, labels))
    first, second, third = parts
    return CalibrationPart(first.astype(np.float64), second.astype(np.float64), third)


def fit_sounds(parts: Sequence[CalibrationPart]) -> SoundCalibration:
    """
    Fits the correction of the head and the temperature by likelihood, then the thresholds by Score.

    Each database has the same weight. Both sounds get one threshold, since two of them follow the few wheezes of the
    validation patients: of those that find 40 % of the abnormal cycles of each database with their class, the one with
    the largest mean over databases of the ICBHI Score with four classes and with any abnormal class.

    Args:
        parts (sequence of [`CalibrationPart`]): of each database; two of them have a direction that tells them apart.
    """
    direction, offset = _direction(parts)
    places = [part.pooled @ direction + offset for part in parts]
    heard = [np.stack((part.labels & 1, part.labels >> 1), axis=1) for part in parts]
    cycles = sum(len(part.labels) for part in parts)

    def corrected(values: np.ndarray) -> list[np.ndarray]:
        biases, multiples = values[1:3], values[3:5]
        return [
            _with_context(part, part.odds + biases + place[:, None] * multiples) / math.exp(values[0])
            for part, place in zip(parts, places, strict=True)
        ]

    def loss(values: np.ndarray) -> float:
        pairs = zip(corrected(values), heard, strict=True)
        likelihood = sum(np.logaddexp(0, odds * (1 - 2 * sounds)).sum(axis=1).mean() for odds, sounds in pairs)
        return likelihood + np.square(values / PRIOR_DEVIATION).sum() / (2 * cycles)

    fitted = minimize(loss, np.zeros(5), method="BFGS").x
    probabilities = [expit(odds) for odds in corrected(fitted)]
    labels = [part.labels for part in parts]
    rated = [(_rate(probabilities, labels, threshold), threshold) for threshold in THRESHOLDS]
    _, threshold = max(rated, key=lambda choice: (min(choice[0][0], WANTED_SENSITIVITY), choice[0][1]))
    return SoundCalibration(
        weight=np.outer(fitted[3:5], direction),
        bias=fitted[1:3] + fitted[3:5] * offset,
        temperature=math.exp(fitted[0]),
        thresholds=(threshold, threshold),
        context_weight=None if all(part.recordings is None for part in parts) else CONTEXT_WEIGHT,
    )


def apply_to_head(model: Any, fitted: SoundCalibration) -> None:
    """Puts a calibration into the head and the configuration of a model."""
    with torch.no_grad():
        model.head.weight += model.head.weight.new_tensor(fitted.weight)
        model.head.bias += model.head.bias.new_tensor(fitted.bias)
    model.config.temperature = fitted.temperature
    model.config.crackle_threshold, model.config.wheeze_threshold = fitted.thresholds
    model.config.context_weight = fitted.context_weight


def _with_context(part: CalibrationPart, odds: np.ndarray) -> np.ndarray:
    """Log odds as the pipeline has them for whole recordings."""
    if part.recordings is None or part.spans is None:
        return odds
    together: dict[str, list[int]] = {}
    for index, recording in enumerate(part.recordings):
        together.setdefault(recording, []).append(index)
    result = odds.copy()
    for indices in together.values():
        result[indices] = add_context(odds[indices], [part.spans[index] for index in indices], CONTEXT_WEIGHT)
    return result


def _direction(parts: Sequence[CalibrationPart]) -> tuple[np.ndarray, float]:
    """Weight and offset of a linear function of the features of mean 0 and spread 1; 0 but for two databases."""
    width = parts[0].pooled.shape[1]
    if len(parts) != 2:
        return np.zeros(width), 0.0
    pooled = np.concatenate([part.pooled for part in parts])
    database = np.repeat([0, 1], [len(part.labels) for part in parts])
    mean, spread = pooled.mean(axis=0), pooled.std(axis=0) + 1e-6
    model = LogisticRegression(C=DIRECTION_STRENGTH, class_weight="balanced").fit((pooled - mean) / spread, database)
    direction = model.coef_[0] / spread
    places = pooled @ direction
    size = places.std() or 1.0
    return direction / size, -float(places.mean() / size)


def _rate(probabilities: Sequence[np.ndarray], labels: Sequence[np.ndarray], threshold: float) -> tuple[float, float]:
    """The lowest four-class sensitivity of a database, and the mean of their Scores."""
    sensitivities, scores = [], []
    for sounds, truth in zip(probabilities, labels, strict=True):
        rates = rates_from_counts(confusion_counts((sounds >= threshold) @ np.array([1, 2]), truth))
        sensitivities.append(float(rates["sensitivity"]))
        scores += [float(rates["score"]), float(rates["score_any_abnormal"])]
    return min(sensitivities), float(np.mean(scores))
