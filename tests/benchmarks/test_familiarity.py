"""Foreign sounds and the measures that the benchmark of familiarity prints."""

import numpy as np
import pytest

from benchmarks import foreign_sounds
from benchmarks.familiarity import Described, candidate_scores, main, separation
from benchmarks.foreign_sounds import GENERATED, generate, speak


@pytest.mark.parametrize("name", GENERATED)
def test_foreign_sounds_are_audible_and_repeatable(name):
    first, second = generate(name, 2, seconds=1.0)
    again = generate(name, 1, seconds=1.0)[0]

    assert first.shape == second.shape == (16000,)
    assert first.dtype == np.float32
    assert 0.09 < np.abs(first).max() <= 1.0
    assert np.array_equal(first, again)
    assert not np.array_equal(first, second)


def test_dominant_frequency_of_hum_is_that_of_the_mains():
    for waveform in generate("mains hum", 4, seconds=2.0):
        spectrum = np.abs(np.fft.rfft(waveform * np.hanning(len(waveform))))
        frequency = np.fft.rfftfreq(len(waveform), 1 / 16000)[spectrum.argmax()]
        assert min(frequency % 50, frequency % 60) < 1


def test_without_espeak_there_is_no_speech(monkeypatch):
    monkeypatch.setattr(foreign_sounds.shutil, "which", lambda name: None)

    assert speak(3) == []


def test_separation_is_that_of_counted_pairs():
    generator = np.random.default_rng(0)
    familiar, foreign = generator.normal(size=40).round(1), generator.normal(1.0, size=30).round(1)
    pairs = [(low, high) for low in familiar for high in foreign]
    expected = sum(1.0 if high > low else 0.5 if high == low else 0.0 for low, high in pairs) / len(pairs)
    limit = sorted(familiar)[37] + 0.05 * (sorted(familiar)[38] - sorted(familiar)[37])

    area, accepted = separation(familiar, foreign)

    assert area == pytest.approx(expected)
    assert accepted == pytest.approx(np.mean([value <= limit for value in foreign]))


def test_every_candidate_is_higher_far_away():
    generator = np.random.default_rng(0)

    def described(offset, logits):
        values = (generator.normal(offset, size=(60, size)) for size in (8, 16, 12))
        return Described(*values, logits=np.full((60, 4), 0.0) + logits * np.eye(4)[0])

    training = described(0.0, 5.0)
    scores = candidate_scores(training, [f"patient {index % 6}" for index in range(60)])

    for name, score in scores.items():
        assert score(described(4.0, 0.1)).mean() > score(described(0.0, 5.0)).mean(), name


def test_checkpoint_without_validation_patients_is_named(tmp_path, capsys):
    assert main([str(tmp_path), "--checkpoint", str(tmp_path)]) == 2
    assert f"lung-srad: error: {tmp_path}: lacks validation patients" in capsys.readouterr().err
