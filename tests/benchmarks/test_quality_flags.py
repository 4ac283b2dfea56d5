"""The benchmark of the quality flags on simulated recordings."""

import numpy as np
import pytest
import soundfile

from benchmarks.quality_flags import FAULTS, FLAGS, main, may_have, read_training_recordings
from dataset_scripts.simulated import write_simulated


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_simulated(tmp_path_factory.mktemp("simulated") / "data", patients=5, cycles_per_recording=2)


def test_tables_have_a_row_for_each_source_flag_and_fault(folder, tmp_path, capsys):
    (tmp_path / "train_wav").mkdir()
    noise = np.random.default_rng(0).normal(scale=0.1, size=(24000, 1))
    soundfile.write(tmp_path / "train_wav" / "child.wav", noise, 8000)

    assert main([str(folder), "--sprsound", str(tmp_path), "--recordings", "1"]) == 0

    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    first_cells = [line.split(" | ")[0].removeprefix("| ") for line in lines if "---" not in line]
    assert first_cells[1:3] == ["ICBHI, Simulated, 8 kHz", "SPRSound, 8 kHz"]
    assert set(FLAGS) | {fault.name for fault in FAULTS} <= set(first_cells)
    assert "| last bit only | silence | 2 | 1.000 |" in lines


def test_only_training_recordings_are_read(folder):
    recordings = read_training_recordings(str(folder), None, 1000, 0)

    total = len(list(folder.glob("*.wav")))
    assert 0 < len(recordings) < total


def test_simpler_criteria_see_full_scale_and_stuck_samples():
    waveform = 0.5 * np.sin(np.arange(8000))
    stuck = waveform.copy()
    stuck[2000:6500] = 0.1

    assert not may_have("clipping", waveform, 8000)
    assert may_have("clipping", 2 * waveform, 8000)
    assert not may_have("silence", waveform, 8000)
    assert may_have("silence", stuck, 8000)
    assert not may_have("low_level", stuck, 8000)


def test_folder_without_recordings_is_named(folder, tmp_path, capsys):
    assert main([str(folder), "--sprsound", str(tmp_path)]) == 2
    assert f"{tmp_path}: lacks train_wav/*.wav" in capsys.readouterr().err
