import numpy as np
import pytest

from training.report.resampling import DRAWS_AT_ONCE, draw_patients


def test_totals_and_means_are_those_of_the_repeated_cycles():
    generator = np.random.default_rng(0)
    patients, values = generator.integers(5, size=40), generator.random((40, 3))
    draws = draw_patients(patients, resamples=20)
    totals, means = draws.totals(values), draws.means(values[:, 0])
    for draw in range(20):
        repeated = np.repeat(values, draws.times_drawn[draw][patients], axis=0)
        assert totals[draw] == pytest.approx(repeated.sum(axis=0))
        assert means[draw] == pytest.approx(repeated[:, 0].mean())


def test_weighted_measures_see_every_draw_once_and_in_order():
    draws = draw_patients(["a", "b", "b", "c"], resamples=2 * DRAWS_AT_ONCE + 3)
    assert (draws.weighted(lambda weights: weights[:, 1]) == draws.times_drawn[:, 1]).all()


def test_interval_leaves_out_undefined_draws_and_needs_two_patients():
    values = np.r_[np.arange(101.0), np.full(50, np.nan)]
    assert draw_patients(["a", "b"]).interval(values) == pytest.approx([2.5, 97.5])
    assert draw_patients(["a", "a"]).interval(values) is None
    assert draw_patients(["a", "b"]).interval(np.full(9, np.nan)) is None
