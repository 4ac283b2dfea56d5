import numpy as np
import pytest

from training.arguments import SamplingArguments
from training.data.sampling import CycleSampler, sampling_weights

SOURCES = ["icbhi"] * 6 + ["sprsound"] * 4
LABELS = [0, 0, 0, 1, 1, 2, 0, 0, 0, 3]


def test_defaults_see_every_cycle_once():
    assert sampling_weights(SOURCES, LABELS, SamplingArguments()) is None


def test_full_balance_makes_classes_equally_likely():
    weights = sampling_weights(SOURCES, LABELS, SamplingArguments(class_balance=1.0))
    assert [weights[np.array(LABELS) == label].sum() for label in range(4)] == pytest.approx([0.25] * 4)


def test_half_balance_lies_between():
    weights = sampling_weights(SOURCES, LABELS, SamplingArguments(class_balance=0.5))
    assert weights[0] / weights[5] == pytest.approx((6 / 1) ** -0.5)


def test_source_weight_is_relative_to_a_cycle_of_the_other_source():
    weights = sampling_weights(SOURCES, LABELS, SamplingArguments(sprsound=0.25))
    assert weights[6] / weights[0] == pytest.approx(0.25)
    without = sampling_weights(SOURCES, LABELS, SamplingArguments(sprsound=0.0, class_balance=1.0))
    assert without[6:].sum() == 0
    assert without[0] / without[5] == pytest.approx(1 / 3)


@pytest.mark.parametrize("arguments", [{"icbhi": -1.0}, {"icbhi": 0.0, "sprsound": 0.0}, {"cycles_per_epoch": 0}])
def test_impossible_weights_are_refused(arguments):
    with pytest.raises(ValueError, match="sampling"):
        sampling_weights(SOURCES, LABELS, SamplingArguments(**arguments))


def test_draws_follow_the_weights_the_seed_and_the_epoch():
    weights = np.array([0.5, 0.3, 0.2, 0.0])
    sampler = CycleSampler(4, batch_size=8, seed=1, weights=weights, draws=10_000)
    first = list(sampler)
    assert len(sampler) == len(first) == 10_000
    counts = np.bincount([draw.cycle for draw in first], minlength=4)
    assert (counts / 10_000).tolist() == pytest.approx(weights.tolist(), abs=0.02)
    assert list(sampler) == first
    sampler.epoch = 1
    assert list(sampler) != first
    assert list(CycleSampler(4, 8, seed=2, weights=weights, draws=10_000)) != first


def test_without_weights_an_epoch_is_whole_batches_of_different_cycles():
    sampler = CycleSampler(num_cycles=21, batch_size=4, seed=0)
    left_out = set()
    for epoch in range(8):
        sampler.epoch = epoch
        indices = [draw.cycle for draw in sampler]
        assert len(indices) == len(set(indices)) == len(sampler) == 20
        left_out |= set(range(21)) - set(indices)
    assert len(left_out) > 3


def test_every_draw_has_a_seed_of_its_own():
    seeds = [draw.seed for draw in CycleSampler(num_cycles=1000, batch_size=10, seed=0)]
    assert len(set(seeds)) == 1000


def test_batch_larger_than_an_epoch_is_refused():
    with pytest.raises(ValueError, match="is 16 cycles and an epoch only 10; make it smaller"):
        CycleSampler(num_cycles=10, batch_size=16, seed=0)


def test_patients_with_many_cycles_are_evened_out_within_a_class():
    patients = ["a", "a", "a", "a", "a", "a", "b", "b", "c", "c"]
    weights = sampling_weights(SOURCES, LABELS, SamplingArguments(patient_balance=1.0), patients)
    normal = {"a": weights[:3].sum(), "b": weights[6:8].sum(), "c": weights[8]}
    assert list(normal.values()) == pytest.approx([0.6 / 3] * 3)
    half = sampling_weights(SOURCES, LABELS, SamplingArguments(patient_balance=0.5), patients)
    assert half[0] / half[8] == pytest.approx(3**-0.5)
    assert [half[np.array(LABELS) == label].sum() for label in range(4)] == pytest.approx([0.6, 0.2, 0.1, 0.1])


def test_a_device_does_not_stand_for_a_class():
    devices = ["a", "a", "a", "b", "b", "b", "b", "b", "b", "b"]
    plain = sampling_weights(SOURCES, LABELS, SamplingArguments(cycles_per_epoch=10), None, devices)
    even = sampling_weights(SOURCES, LABELS, SamplingArguments(device_balance=1.0), None, devices)
    assert plain == pytest.approx([0.1] * 10)
    labels, on_b = np.array(LABELS), np.array(devices) == "b"
    assert even[~on_b].sum() == pytest.approx(0.3)
    assert even[on_b].sum() == pytest.approx(0.7)
    # Device a has normal cycles alone; those of b have the shares of all cycles.
    shares = [even[on_b & (labels == label)].sum() / even[on_b].sum() for label in range(4)]
    assert shares == pytest.approx([0.6, 0.2, 0.1, 0.1])
