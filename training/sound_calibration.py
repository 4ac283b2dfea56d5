"""Calibration of a model with a head for two sounds, crackle and wheeze, to validation patients of several databases.

A temperature (arXiv 1706.04599) and a threshold, common to all databases. Biases are not fitted: those of one
stethoscope are wrong for the next (docs/evidence.md).
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from scipy.special import expit
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from modeling_lung_srad.timeline import add_context
from training.data.log_mel_dataset import LogMelDataset
from training.metrics.icbhi_score.icbhi_measure import confusion_counts, rates_from_counts

BATCH_SIZE = 32
THRESHOLDS = np.arange(0.04, 0.62, 0.02).round(2).tolist()
# A threshold that misses more is of little use, however high its Score.
WANTED_SENSITIVITY = 0.4
# It raises the AUROC of three networks on both databases (docs/evidence.md); 1 and more gain no more.
CONTEXT_WEIGHT = 0.5
# Prior of the logarithm of the temperature, for a model that is always right or knows nothing.
PRIOR_DEVIATION = 2.0


class CalibrationPart(NamedTuple):
    """
    The cycles of one database.

    Args:
        odds (`np.ndarray` of shape `(cycles, 2)`): log odds of the sounds.
        labels (`np.ndarray` of shape `(cycles,)`): classes.
        recordings (sequence of `str`, *optional*): of each cycle; without, cycles have no context.
        spans (sequence of `tuple[float, float]`, *optional*): start and end of each cycle in its recording, in s.
    """

    odds: np.ndarray
    labels: np.ndarray
    recordings: Sequence[str] | None = None
    spans: Sequence[tuple[float, float]] | None = None


class SoundCalibration(NamedTuple):
    """
    Args:
        temperature (`float`): divides the logits.
        thresholds (`tuple[float, float]`): probabilities from which crackle and wheeze are named.
        context_weight (`float`, *optional*): weight of the surrounding windows that the fit assumed.
    """

    temperature: float
    thresholds: tuple[float, float]
    context_weight: float | None = None


@torch.inference_mode()
def predict_sounds(classifier: Any, cycles: LogMelDataset) -> CalibrationPart:
    """Input of [`fit_sounds`] from one database, from a classifier with a head for two sounds."""
    was_training = classifier.training
    classifier.eval()
    odds, labels = [], []
    for batch in tqdm(DataLoader(cycles, batch_size=BATCH_SIZE), desc="calibration", unit="batch", leave=False):
        outputs = classifier(batch["input_values"].to(classifier.device))
        odds.append((outputs.logits[:, 1:3] - outputs.logits[:, :1]).float().cpu())
        labels.append(batch["labels"])
    classifier.train(was_training)
    return CalibrationPart(torch.cat(odds).double().numpy(), torch.cat(labels).numpy())


def fit_sounds(parts: Sequence[CalibrationPart]) -> SoundCalibration:
    """
    Fits the temperature by likelihood, then the thresholds by Score.

    Each database has the same weight. Both sounds get one threshold, since two of them follow the few wheezes of the
    validation patients: of those that find 40 % of the abnormal cycles of each database with their class, the one with
    the largest mean over databases of the ICBHI Score with four classes and with any abnormal class.

    Args:
        parts (sequence of [`CalibrationPart`]): of each database.
    """
    odds = [_with_context(part) for part in parts]
    heard = [np.stack((part.labels & 1, part.labels >> 1), axis=1) for part in parts]
    cycles = sum(len(part.labels) for part in parts)

    def loss(log_temperature: float) -> float:
        pairs = zip(odds, heard, strict=True)
        scale = math.exp(-log_temperature)
        likelihood = sum(np.logaddexp(0, scale * of * (1 - 2 * sounds)).sum(axis=1).mean() for of, sounds in pairs)
        return likelihood + (log_temperature / PRIOR_DEVIATION) ** 2 / (2 * cycles)

    temperature = math.exp(minimize_scalar(loss).x)
    probabilities = [expit(of / temperature) for of in odds]
    labels = [part.labels for part in parts]
    rated = [(_rate(probabilities, labels, threshold), threshold) for threshold in THRESHOLDS]
    _, threshold = max(rated, key=lambda choice: (min(choice[0][0], WANTED_SENSITIVITY), choice[0][1]))
    return SoundCalibration(
        temperature=temperature,
        thresholds=(threshold, threshold),
        context_weight=None if all(part.recordings is None for part in parts) else CONTEXT_WEIGHT,
    )


def calibrate(model: Any, fitted: SoundCalibration) -> None:
    """Puts a calibration into the configuration of a model."""
    model.config.temperature = fitted.temperature
    model.config.crackle_threshold, model.config.wheeze_threshold = fitted.thresholds
    model.config.context_weight = fitted.context_weight


def _with_context(part: CalibrationPart) -> np.ndarray:
    """Log odds as the pipeline has them for whole recordings."""
    if part.recordings is None or part.spans is None:
        return part.odds
    together: dict[str, list[int]] = {}
    for index, recording in enumerate(part.recordings):
        together.setdefault(recording, []).append(index)
    result = part.odds.copy()
    for indices in together.values():
        result[indices] = add_context(part.odds[indices], [part.spans[index] for index in indices], CONTEXT_WEIGHT)
    return result


def _rate(probabilities: Sequence[np.ndarray], labels: Sequence[np.ndarray], threshold: float) -> tuple[float, float]:
    """The lowest four-class sensitivity of a database, and the mean of their Scores."""
    sensitivities, scores = [], []
    for sounds, truth in zip(probabilities, labels, strict=True):
        rates = rates_from_counts(confusion_counts((sounds >= threshold) @ np.array([1, 2]), truth))
        sensitivities.append(float(rates["sensitivity"]))
        scores += [float(rates["score"]), float(rates["score_any_abnormal"])]
    return min(sensitivities), float(np.mean(scores))
