import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from tests.training.report.conftest import made_up_cycles
from training.report.discrimination import discrimination, resampled_discrimination, target_scores, weighted_areas
from training.report.resampling import draw_patients


def test_scores_of_the_sounds():
    probabilities = np.array([[0.4, 0.3, 0.2, 0.1]])
    expected = {"abnormal": (0.6, [False, True, True, True]), "crackle": (0.4, [False, True, False, True])}
    for target, (score, present) in (expected | {"wheeze": (0.3, [False, False, True, True])}).items():
        assert target_scores(target, probabilities, np.array([0]))[0] == pytest.approx([score])
        assert target_scores(target, probabilities, np.arange(4))[1].tolist() == present


def test_weighted_areas_are_those_of_scikit_learn_with_ties():
    generator = np.random.default_rng(0)
    scores, present = generator.integers(6, size=50) / 6, generator.random(50) < 0.3
    weights = generator.integers(4, size=(30, 50)).astype(float)
    for row, (auroc, auprc) in zip(weights, weighted_areas(scores, present, weights), strict=True):
        assert auroc == pytest.approx(roc_auc_score(present, scores, sample_weight=row))
        assert auprc == pytest.approx(average_precision_score(present, scores, sample_weight=row))


def test_weighted_areas_are_undefined_where_one_kind_has_no_weight():
    scores, present = np.array([0.9, 0.1]), np.array([True, False])
    areas = weighted_areas(scores, present, np.array([[1.0, 1.0], [1.0, 0.0], [0.0, 1.0]]))
    assert areas[0] == pytest.approx([1, 1])
    assert np.isnan(areas[1:]).all()


def test_draws_are_the_areas_of_the_repeated_cycles():
    cycles = made_up_cycles(80)
    draws = draw_patients(cycles.patient, resamples=5)
    drawn = resampled_discrimination(cycles.probabilities, cycles.label, draws)
    _, patients = np.unique(cycles.patient, return_inverse=True)
    for draw in range(5):
        repeated = np.repeat(np.arange(80), draws.times_drawn[draw][patients])
        present, score = cycles.label[repeated] >= 2, cycles.probabilities[repeated, 2:].sum(axis=1)
        assert drawn["auroc_wheeze"][draw] == pytest.approx(roc_auc_score(present, score))
        assert drawn["auprc_wheeze"][draw] == pytest.approx(average_precision_score(present, score))


def test_sound_that_no_cycle_has_is_undefined():
    cycles = made_up_cycles(60, classes=(0, 1))
    figures = discrimination(cycles.probabilities, cycles.label, draw_patients(cycles.patient))
    nothing = {"auroc": None, "auprc": None}
    assert figures["wheeze"] == {"positives": 0, "prevalence": 0.0, **nothing, "intervals_95": nothing}
    low, high = figures["crackle"]["intervals_95"]["auroc"]
    assert low < figures["crackle"]["auroc"] < high
