"""Wrong input of the benchmark of hearing, and the figures of a checkpoint of random weights."""

import json

import pytest

from benchmarks import hearing
from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from tests.conftest import tiny_config


@pytest.fixture
def checkpoint(tmp_path):
    LungSradForAudioClassification(tiny_config()).save_pretrained(tmp_path / "random")
    LungSradFeatureExtractor(num_frames=64).save_pretrained(tmp_path / "random")
    return tmp_path / "random"


def test_checkpoint_without_a_summary_is_one_line(checkpoint, simulated_folder, capsys):
    assert hearing.main([str(checkpoint), "--icbhi", str(simulated_folder)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"lung-srad: error: {checkpoint}: lacks a training_summary.json")


def test_validation_patients_of_the_summary_are_heard(checkpoint, simulated_folder, capsys, monkeypatch):
    summary = {"configuration": {"data": {"split": "official"}}, "validation_patients": ["101", "104", "999"]}
    (checkpoint / "training_summary.json").write_text(json.dumps(summary), encoding="utf-8")
    monkeypatch.setattr(hearing, "GAINS_DECIBELS", (0, -20))
    monkeypatch.setattr(hearing, "SIMULATED", 2)
    assert hearing.main([str(checkpoint), "--icbhi", str(simulated_folder)]) == 0
    figures = {
        name: values for line in capsys.readouterr().out.splitlines() for name, values in json.loads(line).items()
    }
    assert list(figures) == ["icbhi", "robustness", "simulated"]
    assert figures["icbhi"]["cycles"] == 16
    assert figures["robustness"]["windows"] == 4
    assert figures["robustness"]["largest_move"]["0 dB"] < 1e-4
    assert figures["simulated"]["recordings"] == 2


def test_folder_without_the_validation_patients_is_named(checkpoint, simulated_folder, capsys):
    summary = {"configuration": {"data": {"split": "official"}}, "validation_patients": ["999"]}
    (checkpoint / "training_summary.json").write_text(json.dumps(summary), encoding="utf-8")
    assert hearing.main([str(checkpoint), "--icbhi", str(simulated_folder)]) == 2
    assert f"its validation patients are not in {simulated_folder}" in capsys.readouterr().err
