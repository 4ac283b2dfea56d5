"""Calibration of two sounds, on log odds whose true correction is known."""

import numpy as np
import pytest
import torch

from modeling_lung_srad import LungSradForAudioClassification
from tests.conftest import tiny_config
from training.data.log_mel_dataset import LogMelDataset
from training.evaluation import icbhi_score
from training.sound_calibration import CONTEXT_WEIGHT, CalibrationPart, calibrate, fit_sounds, predict_sounds


def draw(generator, cycles, true_odds=None):
    """True log odds, and the classes that follow from them."""
    odds = generator.normal(-1.5, 2.0, (cycles, 2)) if true_odds is None else true_odds
    heard = generator.random(odds.shape) < 1 / (1 + np.exp(-odds))
    return odds, heard @ np.array([1, 2])


def test_temperature_is_found_again():
    odds, labels = draw(np.random.default_rng(0), 20_000)
    fitted = fit_sounds([CalibrationPart(2.5 * odds, labels)])
    assert fitted.temperature == pytest.approx(2.5, rel=0.05)


def test_databases_count_alike_however_large_they_are():
    generator = np.random.default_rng(1)
    large, small = draw(generator, 20_000), draw(generator, 2000)
    parts = [CalibrationPart(4 * large[0], large[1]), CalibrationPart(small[0], small[1])]
    # Between the temperatures of the two, and beyond the middle: being too sure costs more.
    assert 2 < fit_sounds(parts).temperature < 4
    assert fit_sounds(parts).temperature == pytest.approx(fit_sounds(parts[::-1]).temperature)


def test_thresholds_are_those_of_the_best_score_over_data_sets():
    generator = np.random.default_rng(2)
    parts = []
    for cycles in (3000, 1000):
        odds, labels = draw(generator, cycles)
        parts.append(CalibrationPart(odds, labels))
    fitted = fit_sounds(parts)

    def score(thresholds):
        scores = []
        for part in parts:
            sounds = 1 / (1 + np.exp(-part.odds / fitted.temperature))
            named = [int(c >= thresholds[0]) + 2 * int(w >= thresholds[1]) for c, w in sounds]
            rates = icbhi_score(named, part.labels)
            scores += [rates["score"], rates["score_any_abnormal"]]
        return np.mean(scores)

    assert fitted.thresholds[0] == fitted.thresholds[1] < 0.5  # Rare sounds pay to be named before they are likely.
    for other in [(0.5, 0.5), (0.3, 0.3), (0.1, 0.1), (0.04, 0.04)]:
        assert score(fitted.thresholds) >= score(other)


def test_a_model_has_what_was_fitted_in_its_configuration(feature_extractor):
    torch.manual_seed(0)
    model = LungSradForAudioClassification(tiny_config(head="sounds")).train()
    cycles = LogMelDataset(torch.randn(6, 398, 128), [0, 1, 2, 3, 0, 1], feature_extractor)
    part = predict_sounds(model, cycles)
    assert model.training
    assert part.labels.tolist() == cycles.labels
    fitted = fit_sounds([part])._replace(temperature=2.0)
    calibrate(model, fitted)
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
    part = CalibrationPart(told, labels)
    fitted = fit_sounds([part._replace(recordings=recordings, spans=spans)])
    assert fitted.context_weight == CONTEXT_WEIGHT
    assert fitted.temperature == pytest.approx(1.5, rel=0.1)
    assert fit_sounds([part]).context_weight is None
