"""Simulated events: seeded, alone in their recording, and where they say they are."""

import numpy as np
import pytest

from dataset_scripts.cycles import CLASS_NAMES
from dataset_scripts.simulated_events import simulate_event
from modeling_lung_srad.errors import InputError

RATE = 8000
CRACKLE, WHEEZE = CLASS_NAMES.index("crackle"), CLASS_NAMES.index("wheeze")


def with_and_without(label, seed, seconds=8.0):
    """The event, and its sound alone: the difference to the same recording with an inaudible one."""
    loud, event = simulate_event(label, seconds, RATE, np.random.default_rng(seed))
    silent, _ = simulate_event(label, seconds, RATE, np.random.default_rng(seed), level=1e-9)
    return event, loud.astype(np.float64) - silent


def test_recording_depends_on_the_seed_and_on_nothing_else():
    first, again, other = (simulate_event(CRACKLE, 3.0, RATE, np.random.default_rng(seed))[0] for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
    assert (first.dtype, first.shape) == (np.float32, (24000,))


@pytest.mark.parametrize("label", [CRACKLE, WHEEZE])
@pytest.mark.parametrize("seconds", [1.0, 8.0])
def test_event_lies_within_its_times_and_nowhere_else(label, seconds):
    for seed in range(5):
        event, sound = with_and_without(label, seed, seconds)
        heard = np.flatnonzero(np.abs(sound) > 1e-6) / RATE
        assert event.label == label
        assert 0.0 < event.start <= heard.min() < event.start + 0.01
        assert event.end - 0.01 < heard.max() <= event.end < seconds
        assert np.all((event.times >= event.start) & (event.times <= event.end))


def test_wheeze_has_its_stated_fundamental():
    """The strongest line of its middle 100 ms."""
    for seed in range(5):
        event, sound = with_and_without(WHEEZE, seed)
        middle = int((event.start + event.end) / 2 * RATE)
        spectrum = np.abs(np.fft.rfft(sound[middle - 400 : middle + 400] * np.hanning(800), RATE))
        stated = event.frequencies[np.abs(event.times - middle / RATE).argmin()]
        assert np.argmax(spectrum) == pytest.approx(stated[0], rel=0.05)
        assert np.nanmax(event.frequencies) < 2000
        assert 0.25 <= event.end - event.start <= 0.6


def test_crackles_are_loudest_at_their_stated_frequency():
    """A burst's own spectrum is a comb under that of one crackle, so the mean frequency of its power is compared."""
    for seed in range(5):
        event, sound = with_and_without(CRACKLE, seed)
        assert event.end - event.start <= 0.15
        assert np.unique(event.frequencies).size == 1
        assert 4 <= len(event.times) <= 8
        power = np.abs(np.fft.rfft(sound, 8 * RATE)) ** 2
        frequency = np.arange(len(power)) / 8
        assert np.sum(power * frequency) / np.sum(power) == pytest.approx(event.frequencies[0, 0], rel=0.35)


def test_level_is_a_factor_on_the_event_alone():
    silent, _ = simulate_event(WHEEZE, 2.0, RATE, np.random.default_rng(0), level=1e-9)
    one, three = (simulate_event(WHEEZE, 2.0, RATE, np.random.default_rng(0), level=level)[0] for level in (0.1, 0.3))
    np.testing.assert_allclose(three - silent, 3 * (one - silent), atol=1e-6)


def test_wrong_arguments_are_errors():
    with pytest.raises(InputError, match=r"label: 0 is not an event; give one of 1 \(crackle\) and 2 \(wheeze\)"):
        simulate_event(0)
    with pytest.raises(InputError, match=r"0\.5 s at 8000 Hz: a recording with an event lasts at least 1 s"):
        simulate_event(CRACKLE, 0.5)
    with pytest.raises(InputError, match="level: 0 is not a loudness"):
        simulate_event(CRACKLE, level=0)
