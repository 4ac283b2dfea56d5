"""Computed speech, tones and noise: seeded, and each with the spectrum of its kind."""

import numpy as np
import pytest

from dataset_scripts.other_sounds import KINDS, simulate_other_sound
from modeling_lung_srad.errors import InputError

RATE = 16000


def sound_of(kind, seed=0, seconds=8.0):
    return simulate_other_sound(kind, seconds, RATE, np.random.default_rng(seed))


def flatness(frame):
    """Geometric over arithmetic mean of the power spectrum: near 0 for lines."""
    power = np.abs(np.fft.rfft(frame * np.hanning(len(frame))))[5:] ** 2 + 1e-12
    return float(np.exp(np.log(power).mean()) / power.mean())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seconds", [0.5, 8.0])
def test_sound_depends_on_the_seed_and_on_nothing_else(kind, seconds):
    first, again, other = (sound_of(kind, seed, seconds) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0.01
    assert (first.dtype, first.shape) == (np.float32, (int(seconds * RATE),))
    assert np.sqrt(np.mean(first**2)) == pytest.approx(0.05, rel=1e-3)


def test_tones_are_lines_and_noise_is_none():
    median = {
        kind: np.median([flatness(frame) for seed in range(5) for frame in sound_of(kind, seed).reshape(-1, 2000)])
        for kind in KINDS
    }
    assert 100 * median["tones"] < median["noise"], median


def test_speech_has_pauses_and_a_voice():
    """Frames of 25 ms are loud or nearly silent, and some repeat after 1/350 to 1/60 s."""
    for seed in range(5):
        frames = sound_of("speech", seed).reshape(-1, 400).astype(np.float64)
        level = np.sqrt(np.mean(frames**2, axis=1))
        assert np.mean(level < 0.1 * level.max()) > 0.02
        repeats = []
        for frame in sound_of("speech", seed).reshape(-1, 800).astype(np.float64):
            correlation = np.correlate(frame, frame, "full")[len(frame) - 1 :]
            repeats.append(correlation[RATE // 350 : RATE // 60].max() / correlation[0])
        assert np.mean(np.array(repeats) > 0.6) > 0.2


@pytest.mark.parametrize(
    ("kind", "seconds", "rate"),
    [("music", 1.0, RATE), ("speech", 0.1, RATE), ("noise", float("nan"), RATE), ("tones", 1.0, 100)],
)
def test_arguments_out_of_range_are_refused(kind, seconds, rate):
    with pytest.raises(InputError):
        simulate_other_sound(kind, seconds, rate)
