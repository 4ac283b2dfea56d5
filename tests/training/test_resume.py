"""Runs that are killed, in processes of their own, and runs of several processes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from training import run_training
from training.configuration import CONFIGS
from training.training_record import TRAINING_SUMMARY as SUMMARY

SMOKE = str(CONFIGS / "smoke.yaml")
# Everything that draws at random, checkpoints in the middle of epochs, and a best one that is not the last.
FULL_METHOD = [
    "num_train_epochs=3",
    "ma_beta=0.5",
    "model.config.drop_path_rate=0.2",
    "augmentation.frequency_masks=2",
    "augmentation.time_masks=1",
    "augmentation.roll=true",
    "augmentation.equalizer_decibels=2",
    "sampling.class_balance=0.5",
    *(f"{name}_strategy=steps" for name in ("eval", "save", "logging")),
    "eval_steps=3",
    "save_steps=3",
    "logging_steps=1",
]

# Each replaces a function by one that kills its own process when it is called for the given time.
KILL = """
import functools, os, signal, sys
from transformers import TrainerState
from training import feature_cache, run_training
from training.trainer import LungSradTrainer

def killed(owner, name, call, half_done=lambda *arguments: None):
    original, calls = getattr(owner, name), []
    @functools.wraps(original)
    def function(*arguments, **options):
        calls.append(1)
        if len(calls) == call:
            half_done(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)
    setattr(owner, name, function)

def half_a_state(state, path):
    with open(path, "w") as file:
        file.write('{"global_step": 9, "best_')
"""
PHASES = {
    "features": 'killed(feature_cache, "iterate_log_mel", 1)',
    "first step": 'killed(LungSradTrainer, "training_step", 1)',
    "step in the first epoch, after a checkpoint": 'killed(LungSradTrainer, "training_step", 4)',
    "evaluation": 'killed(LungSradTrainer, "evaluate", 1)',
    "state half written": 'killed(TrainerState, "save_to_json", 2, half_a_state)',
    "model saved, optimizer not": 'killed(LungSradTrainer, "_save_optimizer_and_scheduler", 1)',
    "last evaluation": 'killed(LungSradTrainer, "save_model", 2)',
    "summary": 'killed(run_training, "summarize", 1)',
}


def process_environment(folder):
    """One thread, as sums over several are not the same twice, and caches of its own."""
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "HF_HOME": str(folder / "home"),
        "LUNG_SRAD_CACHE": str(folder / "spectrograms"),
    }


def run_process(folder, arguments, before=""):
    code = f"{before}\nimport sys\nfrom training.run_training import main\nsys.exit(main({arguments!r}))"
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=process_environment(folder),
        cwd=CONFIGS.parents[1],
        check=False,
    )


@pytest.fixture
def arguments(simulated_folder):
    def for_output(output_dir, *more):
        data = ["data.simulated=0", f"data.icbhi={simulated_folder}", "data.validation=0.4"]
        return [SMOKE, *data, f"output_dir={output_dir}", "use_cpu=true", *more]

    return for_output


@pytest.mark.slow
def test_run_killed_in_every_phase_ends_with_the_weights_of_an_uninterrupted_one(arguments, tmp_path):
    whole = run_process(tmp_path, arguments(tmp_path / "whole", *FULL_METHOD))
    assert whole.returncode == 0, whole.stderr[-2000:]
    (tmp_path / "spectrograms").rename(tmp_path / "other spectrograms")
    for phase, kill in PHASES.items():
        done = run_process(tmp_path, arguments(tmp_path / "parts", *FULL_METHOD), KILL + kill)
        assert done.returncode == -9, f"{phase}: {done.returncode} {done.stderr[-2000:]}"
        assert not (tmp_path / "parts" / SUMMARY).exists()
    done = run_process(tmp_path, arguments(tmp_path / "parts", *FULL_METHOD))
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    histories = [json.loads((tmp_path / name / SUMMARY).read_text())["history"] for name in ("whole", "parts")]
    assert histories[0] == histories[1]


def launch(folder, arguments):
    """`accelerate launch` with two processes on the CPU."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--main_process_port", "0", run_training.__file__, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=process_environment(folder), check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def losses(folder):
    """Loss and its parts, step by step, and the rates of every evaluation."""
    checkpoint = max(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    history = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return [entry for entry in history if "loss" in entry], [entry for entry in history if "eval_loss" in entry]


@pytest.mark.slow
def test_two_processes_learn_what_one_does_with_the_same_global_batch(arguments, tmp_path):
    # Random depth is drawn per process; everything else is that of the whole batch.
    same = [*FULL_METHOD, "model.config.drop_path_rate=0", "objective.mode=none"]
    launch(tmp_path, arguments(tmp_path / "two", *same, "per_device_train_batch_size=4"))
    one = run_process(tmp_path, arguments(tmp_path / "one", *same, "per_device_train_batch_size=8"))
    assert one.returncode == 0, one.stderr[-2000:]
    (two_steps, two_scores), (one_steps, one_scores) = losses(tmp_path / "two"), losses(tmp_path / "one")
    assert json.loads((tmp_path / "two" / SUMMARY).read_text())["processes"] == 2
    assert len(one_steps) == len(two_steps) == 12
    assert [step["loss"] for step in two_steps] == pytest.approx([step["loss"] for step in one_steps], abs=2e-4)
    assert [score["eval_score"] for score in two_scores] == [score["eval_score"] for score in one_scores]
    assert [score["eval_loss"] for score in two_scores] == pytest.approx(
        [score["eval_loss"] for score in one_scores], abs=2e-4
    )


@pytest.mark.slow
def test_contrastive_negatives_stay_in_each_process(arguments, tmp_path):
    same = [*FULL_METHOD, "model.config.drop_path_rate=0"]
    launch(tmp_path, arguments(tmp_path / "two", *same, "per_device_train_batch_size=4"))
    one = run_process(tmp_path, arguments(tmp_path / "one", *same, "per_device_train_batch_size=8"))
    assert one.returncode == 0, one.stderr[-2000:]
    (two_steps, _), (one_steps, _) = losses(tmp_path / "two"), losses(tmp_path / "one")
    # Before the first update the clean part is the same; each view has 4 clean samples to be told from, not 8.
    assert two_steps[0]["cross_entropy"] == pytest.approx(one_steps[0]["cross_entropy"], abs=1e-5)
    assert two_steps[0]["contrastive_time"] < one_steps[0]["contrastive_time"]
    assert two_steps[-1]["loss"] < two_steps[0]["loss"]
    assert Path(tmp_path / "two" / SUMMARY).exists()
