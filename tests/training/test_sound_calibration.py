"""Calibration of two sounds, on log odds whose true correction is known."""

import numpy as np
import pytest
import torch

from modeling_lung_srad import LungSradForAudioClassification
from tests.conftest import tiny_config
from training.data.log_mel_dataset import LogMelDataset
from training.evaluation import icbhi_score
from training.sound_calibration import CONTEXT_WEIGHT, CalibrationPart, apply_to_head, fit_sounds, predict_sounds


def draw(generator, cycles, true_odds=None):
    """True log odds, and the classes that follow from them."""
    odds = generator.normal(-1.5, 2.0, (cycles, 2)) if true_odds is None else true_odds
    heard = generator.random(odds.shape) < 1 / (1 + np.exp(-odds))
    return odds, heard @ np.array([1, 2])


def test_biases_and_temperature_of_one_database_are_found_again():
    odds, labels = draw(np.random.default_rng(0), 20_000)
    told = 2.5 * odds - np.array([1.0, -0.5])
    fitted = fit_sounds([CalibrationPart(np.zeros((20_000, 3)), told, labels)])
    assert fitted.temperature == pytest.approx(2.5, rel=0.05)
    assert fitted.bias.tolist() == pytest.approx([1.0, -0.5], abs=0.15)
    assert not fitted.weight.any()


def test_two_databases_with_other_biases_are_both_calibrated():
    generator = np.random.default_rng(1)
    parts, truth = [], []
    for shift, place in ((1.5, -1.0), (-1.0, 1.0)):
        odds, labels = draw(generator, 8000)
        pooled = generator.normal(size=(8000, 4)) * 0.3
        pooled[:, 2] += place
        parts.append(CalibrationPart(pooled, odds + shift, labels))
        truth.append(odds)
    fitted = fit_sounds(parts)
    for part, odds in zip(parts, truth, strict=True):
        corrected = (part.odds + part.pooled @ fitted.weight.T + fitted.bias) / fitted.temperature
        assert np.abs((corrected - odds).mean(axis=0)).max() < 0.2
        assert (corrected - odds).std() < 0.6


def test_thresholds_are_those_of_the_best_score_over_data_sets():
    generator = np.random.default_rng(2)
    parts = []
    for cycles in (3000, 1000):
        odds, labels = draw(generator, cycles)
        parts.append(CalibrationPart(np.zeros((cycles, 1)), odds, labels))
    fitted = fit_sounds(parts)

    def score(thresholds):
        scores = []
        for part in parts:
            sounds = 1 / (1 + np.exp(-(part.odds + fitted.bias) / fitted.temperature))
            named = [int(c >= thresholds[0]) + 2 * int(w >= thresholds[1]) for c, w in sounds]
            rates = icbhi_score(named, part.labels)
            scores += [rates["score"], rates["score_any_abnormal"]]
        return np.mean(scores)

    assert fitted.thresholds[0] == fitted.thresholds[1] < 0.5  # Rare sounds pay to be named before they are likely.
    for other in [(0.5, 0.5), (0.3, 0.3), (0.1, 0.1), (0.04, 0.04)]:
        assert score(fitted.thresholds) >= score(other)


def test_the_correction_becomes_a_part_of_the_head(feature_extractor):
    torch.manual_seed(0)
    model = LungSradForAudioClassification(tiny_config(head="sounds")).train()
    log_mel = torch.randn(6, 398, 128)
    cycles = LogMelDataset(log_mel, [0, 1, 2, 3, 0, 1], feature_extractor)
    before = predict_sounds(model, cycles)
    assert model.training
    assert before.labels.tolist() == cycles.labels
    fitted = fit_sounds([before])._replace(weight=np.full((2, 32), 0.1), bias=np.array([1.0, -1.0]), temperature=2.0)
    apply_to_head(model, fitted)
    after = predict_sounds(model, cycles)
    np.testing.assert_allclose(after.odds, before.odds + before.pooled @ fitted.weight.T + fitted.bias, atol=1e-4)
    assert model.config.temperature == 2.0
    assert (model.config.crackle_threshold, model.config.wheeze_threshold) == fitted.thresholds


def test_context_is_part_of_what_is_fitted():
    generator = np.random.default_rng(3)
    recordings = [str(index // 5) for index in range(5000)]
    spans = [(4.0 * (index % 5), 4.0 * (index % 5) + 4) for index in range(5000)]
    told = generator.normal(-1.5, 2.0, (5000, 2))
    around = told.clip(-2, 2).reshape(1000, 5, 2)
    odds = told + CONTEXT_WEIGHT * ((around.sum(axis=1, keepdims=True) - around) / 4).reshape(-1, 2)
    _, labels = draw(generator, 5000, true_odds=odds / 1.5)
    part = CalibrationPart(np.zeros((5000, 1)), told, labels)
    fitted = fit_sounds([part._replace(recordings=recordings, spans=spans)])
    assert fitted.context_weight == CONTEXT_WEIGHT
    assert fitted.temperature == pytest.approx(1.5, rel=0.1)
    assert fitted.bias.tolist() == pytest.approx([0, 0], abs=0.15)
    assert fit_sounds([part]).context_weight is None
