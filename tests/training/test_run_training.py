import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from training import run_training
from training.configuration import CONFIGS
from training.run_training import CONFIGURATION, SUMMARY, main, train
from training.trainer import LungSradTrainer

SMOKE = str(CONFIGS / "smoke.yaml")
AUGMENTED = ["augmentation.frequency_masks=2", "augmentation.roll=true", "sampling.class_balance=0.5"]


@pytest.fixture
def overrides(simulated_folder):
    """Settings that put the smoke configuration on the simulated recordings of the tests."""

    def for_output(output_dir, *more):
        data = ["data.simulated=0", f"data.icbhi={simulated_folder}", "data.validation=0.4"]
        return [*data, f"output_dir={output_dir}", "use_cpu=true", *more]

    return for_output


def summary_of(folder):
    return json.loads(Path(folder, SUMMARY).read_text(encoding="utf-8"))


def test_run_leaves_the_best_checkpoint_its_features_and_a_summary(overrides, tmp_path):
    assert train(SMOKE, overrides(tmp_path, "num_train_epochs=3")) == 0
    summary = summary_of(tmp_path)
    history = [entry["eval_score"] for entry in summary["history"]]
    assert summary["validation"]["score"] == max(history)
    assert summary["best_step"] == summary["history"][history.index(max(history))]["step"]
    assert summary["cycles"]["training"]["icbhi"]["cycles"] + summary["cycles"]["validation"]["icbhi"]["cycles"] == 48
    assert summary["selection"] == "best validation score"
    assert "Simulated" in summary["validation_notes"][0]
    model = LungSradForAudioClassification.from_pretrained(tmp_path)
    assert model.num_parameters() == summary["parameters"]
    assert LungSradFeatureExtractor.from_pretrained(tmp_path).num_frames == 256
    assert not list(tmp_path.glob("*.bin"))


def test_same_seed_gives_the_same_weights_and_another_seed_others(overrides, tmp_path):
    for name, seed in (("first", 1), ("again", 1), ("other", 2)):
        assert train(SMOKE, overrides(tmp_path / name, "num_train_epochs=1", f"seed={seed}", *AUGMENTED)) == 0
    first, again, other = (load_file(tmp_path / name / "model.safetensors") for name in ("first", "again", "other"))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])


def test_interrupted_run_goes_on_to_the_same_weights(overrides, tmp_path, monkeypatch):
    settings = ("num_train_epochs=2", *AUGMENTED)
    assert train(SMOKE, overrides(tmp_path / "whole", *settings)) == 0

    step = LungSradTrainer.training_step

    def interrupted_step(self, *args, **kwargs):
        if self.state.epoch is not None and self.state.epoch > 1:
            raise KeyboardInterrupt
        return step(self, *args, **kwargs)

    monkeypatch.setattr(LungSradTrainer, "training_step", interrupted_step)
    with pytest.raises(KeyboardInterrupt):
        train(SMOKE, overrides(tmp_path / "parts", *settings))
    assert not (tmp_path / "parts" / SUMMARY).exists()
    # A checkpoint that was being written when the process died has no state yet.
    (tmp_path / "parts" / "checkpoint-999").mkdir()
    monkeypatch.setattr(LungSradTrainer, "training_step", step)
    assert train(SMOKE, overrides(tmp_path / "parts", *settings)) == 0

    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(whole[key], parts[key]) for key in whole)
    scores = [[entry["eval_score"] for entry in summary_of(tmp_path / name)["history"]] for name in ("whole", "parts")]
    assert scores[0] == scores[1]


def test_complete_run_is_left_alone(overrides, tmp_path, capsys):
    settings = overrides(tmp_path, "num_train_epochs=1")
    assert train(SMOKE, settings) == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert train(SMOKE, settings) == 0
    assert "this run is complete" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_other_settings_do_not_overwrite_a_run(overrides, tmp_path, capsys):
    assert train(SMOKE, overrides(tmp_path, "num_train_epochs=1")) == 0
    capsys.readouterr()
    assert train(SMOKE, overrides(tmp_path, "num_train_epochs=1", "learning_rate=0.1", "disable_tqdm=false")) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds a run with another learning_rate;" in line


def test_folder_in_which_nothing_was_trained_does_not_block_other_settings(overrides, tmp_path):
    (tmp_path / CONFIGURATION).write_text('{"learning_rate": -1.0}', encoding="utf-8")
    assert train(SMOKE, overrides(tmp_path, "max_steps=1")) == 0
    assert (tmp_path / SUMMARY).exists()


def test_run_without_checkpoints_is_not_overwritten_either(overrides, tmp_path, capsys):
    settings = ("max_steps=1", "save_strategy=no", "load_best_model_at_end=false")
    assert train(SMOKE, overrides(tmp_path, *settings)) == 0
    assert not list(tmp_path.glob("checkpoint-*"))
    assert train(SMOKE, overrides(tmp_path, *settings, "learning_rate=0.1")) == 2
    assert "holds a run with another learning_rate;" in capsys.readouterr().err


def test_folder_of_something_else_is_left_alone(overrides, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine", encoding="utf-8")
    assert train(SMOKE, overrides(tmp_path)) == 2
    assert "choose another output_dir" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["learning_rat=1"], "no key learning_rat; the nearest valid one is learning_rate"),
        (["data.icbhi=nowhere"], "nowhere"),
        (["data.split=offical"], "offical"),
        (["model.size=large"], "model.size"),
        (["model.checkpoint=nowhere"], "nowhere"),
        (["sampling.icbhi=-1"], "sampling"),
        (["augmentation.crop_frames=0"], "augmentation.crop_frames"),
        (["augmentation.equalizer_decibels=.nan"], "augmentation.equalizer_decibels: nan"),
        (["sampling.class_balance=nan"], "sampling.class_balance: nan"),
        (["learning_rate=-1"], "learning_rate: -1.0 should be above 0"),
        (["learning_rate=nan"], "learning_rate: nan should be above 0"),
        (["per_device_train_batch_size=0"], "per_device_train_batch_size: 0 should be above 0"),
        (["gradient_accumulation_steps=0"], "gradient_accumulation_steps: 0 should be above 0"),
        (["num_train_epochs=-1"], "num_train_epochs: -1.0 should be above 0"),
        (["weight_decay=-1"], "weight_decay: -1.0 should be 0 or more"),
        (["seed=-1"], "seed: -1 should be 0 or more"),
        (["metric_for_best_model=nosuch"], "'nosuch' is not one of loss, specificity, sensitivity, score,"),
        (["data.validation_seed=-1"], "data.validation_seed: -1 should be 0 or more"),
        (["model.config.hidden_act=nosuch"], "model.config.hidden_act"),
        (
            ["model.config.num_mel_bins=64"],
            "model.config.num_mel_bins: 64 is not model.feature_extractor.num_mel_bins",
        ),
    ],
)
def test_wrong_settings_are_one_line_and_write_nothing(overrides, tmp_path, capsys, more, message):
    assert main([SMOKE, *overrides(tmp_path / "run", *more)]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("lung-srad train: ")
    assert message in line
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_accelerate_starts_the_script(overrides, tmp_path):
    script = run_training.__file__
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "1", "--cpu", script, SMOKE]
    command = [*launch, *overrides(tmp_path / "run", "max_steps=2", "data.icbhi=null", "data.simulated=12")]
    done = subprocess.run(command, capture_output=True, text=True, env=accelerate_environment(tmp_path))
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "run" / SUMMARY).exists()


def accelerate_environment(folder):
    import os

    return os.environ | {"HF_HOME": str(folder / "home"), "OMP_NUM_THREADS": "1"}
