"""The benchmark's own pieces: hits and their counts."""

import json

import numpy as np
import pytest
import torch

from benchmarks import saliency_localization
from benchmarks.saliency_localization import describe, header, is_hit, localize, localize_excess, simulate_recordings
from dataset_scripts.simulated_events import SimulatedEvent
from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.saliency import mel_frequencies
from tests.conftest import tiny_config

# One mel bin in mel, of 128 between 20 Hz and 8 kHz.
BIN = 1127 * (np.log1p(8000 / 700) - np.log1p(20 / 700)) / 129


def bins_above(frequency, number):
    """The frequency that many mel bins above another one."""
    return 700 * np.expm1(np.log1p(frequency / 700) + number * BIN / 1127)


@pytest.fixture
def crackles():
    return SimulatedEvent(1, 2.0, 2.1, np.array([2.0, 2.05]), np.full((2, 1), 300.0))


@pytest.fixture
def wheeze():
    """A fundamental that glides from 400 to 800 Hz in a second, whose harmonic above 1500 Hz is not sounded."""
    times = np.linspace(3.0, 4.0, 101)
    pitch = np.linspace(400.0, 800.0, 101)
    harmonic = np.where(2 * pitch > 1500, np.nan, 2 * pitch)
    return SimulatedEvent(2, 3.0, 4.0, times, np.stack([pitch, harmonic], axis=1))


@pytest.mark.parametrize(
    ("time", "bins", "expected"),
    [(2.05, 0, True), (1.91, 9.9, True), (2.19, -9.9, True), (1.89, 0, False), (2.21, 0, False), (2.05, 10.1, False)],
)
def test_hit_of_crackles_is_within_100_ms_and_10_mel_bins(crackles, time, bins, expected):
    assert is_hit(crackles, time, bins_above(300.0, bins)) is expected


@pytest.mark.parametrize(
    ("time", "frequency", "expected"),
    [
        (3.0, 400.0, True),
        (4.05, 800.0, True),
        (3.0, 800.0, True),  # its harmonic
        (3.0, bins_above(880.0, 9), True),  # the harmonic 100 ms later, which has glid to twice 440 Hz
        (3.0, bins_above(880.0, 11), False),
        (4.0, 400.0, False),  # the fundamental of a second before
        (4.0, 1600.0, False),  # a harmonic that is not sounded
        (4.2, 800.0, False),
    ],
)
def test_hit_of_a_wheeze_follows_its_glide(wheeze, time, frequency, expected):
    assert is_hit(wheeze, time, frequency) is expected


def test_mel_bins_are_those_of_the_features():
    frequencies = mel_frequencies(LungSradFeatureExtractor())
    np.testing.assert_allclose(saliency_localization.mel_bins(frequencies), np.arange(128), atol=1e-9)


def test_recordings_have_crackles_and_wheezes_in_turn_and_differ_by_the_event_alone():
    for label, recording in zip((1, 2, 1), simulate_recordings(3), strict=True):
        assert recording.event.label == label
        assert recording.target == (("crackle", "both"), ("wheeze", "both"))[label - 1]
        changed = np.flatnonzero(recording.waveform != recording.without_event) / 16000
        assert recording.event.start - 0.001 <= changed.min() < changed.max() <= recording.event.end


def test_loudest_excess_finds_loud_events():
    row = localize_excess(simulate_recordings(10, level=8.0))
    assert row.recordings == {"crackle": 5, "wheeze": 5}
    assert row.hits["wheeze"] == 5


def test_rows_count_the_hits_of_each_method():
    torch.manual_seed(0)
    feature_extractor = LungSradFeatureExtractor(num_frames=128, num_mel_bins=32)
    model = LungSradForAudioClassification(tiny_config(num_mel_bins=32)).eval()
    rows = list(localize("untrained", model, feature_extractor, simulate_recordings(2)))
    assert [row.method for row in rows] == ["gradient", "occlusion"]
    for row in rows:
        assert row.recordings == {"crackle": 1, "wheeze": 1}
        assert all(abs(rise) < 0.5 for rise in row.rise.values())
        assert describe(row).startswith(f"| untrained | {row.method} | {row.hits['crackle']} of 1 | ")
        assert describe(row).count("|") == header().splitlines()[0].count("|")
    assert header().startswith("| model | method | crackle | wheeze | all |")


def test_command_measures_a_checkpoint_and_the_same_network_untrained(tmp_path, capsys):
    LungSradForAudioClassification(tiny_config(num_mel_bins=32)).save_pretrained(tmp_path / "small")
    LungSradFeatureExtractor(num_frames=128, num_mel_bins=32).save_pretrained(tmp_path / "small")
    arguments = ["--checkpoint", str(tmp_path / "small"), "--recordings", "2", "--output", str(tmp_path / "out.json")]
    assert saliency_localization.main(arguments) == 0
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["none", "small", "small", "random weights", "random weights"]
    assert "| small | gradient |" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["--recordings", "1"], ["--level", "0"], ["--seconds", "9"]])
def test_wrong_arguments_end_with_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        saliency_localization.main(["--recordings", "2", *arguments])
    assert stopped.value.code == 2
    assert "error: " in capsys.readouterr().err


def test_checkpoint_that_is_missing_is_one_line_and_a_bug_keeps_its_traceback(capsys, monkeypatch):
    assert saliency_localization.main(["--recordings", "2", "--checkpoint", "/nowhere/model"]) == 2
    assert capsys.readouterr().err == "lung-srad: error: /nowhere/model: no such folder; check the path\n"

    def stumble(*arguments):
        raise ValueError("shapes do not match")

    monkeypatch.setattr(saliency_localization, "simulate_recordings", stumble)
    with pytest.raises(ValueError, match="shapes do not match"):
        saliency_localization.main(["--recordings", "2"])
