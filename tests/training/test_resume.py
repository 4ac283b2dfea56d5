"""Runs that are killed, in processes of their own, and runs of several processes."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import datasets
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerState

from tests.training.conftest import SMOKE, last_weights, start_process, summary_of
from training import run_training
from training.data import log_mel_dataset
from training.record.training_record import TRAINING_SUMMARY as SUMMARY
from training.trainer import LungSradTrainer

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


def write_half_a_state(state, path):
    Path(path).write_text('{"global_step": 9, "best_', encoding="utf-8")


# The function, and the number of the call of it, in which the process kills itself; and what it leaves half done.
PHASES = {
    "features": (log_mel_dataset, "iterate_log_mel", 1),
    "first step": (LungSradTrainer, "training_step", 1),
    "step in the first epoch, after a checkpoint": (LungSradTrainer, "training_step", 4),
    "evaluation": (LungSradTrainer, "evaluate", 1),
    "state half written": (TrainerState, "save_to_json", 2, write_half_a_state),
    "model saved, optimizer not": (LungSradTrainer, "_save_optimizer_and_scheduler", 1),
    "last evaluation": (LungSradTrainer, "save_model", 2),
    "summary": (run_training, "summarize", 1),
}


def kill_in(owner, name, call, half_done=lambda *arguments: None):
    """Replaces a function by one that kills its own process when it is called for the given time."""
    original, calls = getattr(owner, name), []

    @functools.wraps(original)
    def function(*arguments, **options):
        calls.append(1)
        if len(calls) == call:
            half_done(*arguments)
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments, **options)

    setattr(owner, name, function)


def train_alone(arguments, folder, phase):
    """Runs in its own process: one thread, as sums over several are not the same twice, and its own caches."""
    torch.set_num_threads(1)
    datasets.config.HF_DATASETS_CACHE = folder / "datasets"
    if phase is not None:
        kill_in(*PHASES[phase])
    return run_training.main([SMOKE, *arguments])


def run_process(folder, arguments, phase=None):
    """The exit code of a process that trains, and the end of what it wrote to standard error."""
    errors = folder / "errors.txt"
    process = start_process(train_alone, arguments, folder, phase, errors=errors)
    process.join()
    return process.exitcode, errors.read_text(encoding="utf-8")[-2000:]


@pytest.mark.slow
def test_run_killed_in_every_phase_ends_with_the_weights_of_an_uninterrupted_one(overrides, tmp_path):
    exit_code, errors = run_process(tmp_path, overrides(tmp_path / "whole", *FULL_METHOD))
    assert exit_code == 0, errors
    for phase in PHASES:
        exit_code, errors = run_process(tmp_path, overrides(tmp_path / "parts", *FULL_METHOD), phase)
        assert exit_code == -signal.SIGKILL, f"{phase}: {exit_code} {errors}"
        assert not (tmp_path / "parts" / SUMMARY).exists()
    # A kill between saving a checkpoint and removing the oldest one leaves that.
    shutil.copytree(next((tmp_path / "parts").glob("checkpoint-*")), tmp_path / "parts" / "checkpoint-1")
    exit_code, errors = run_process(tmp_path, overrides(tmp_path / "parts", *FULL_METHOD))
    assert exit_code == 0, errors
    kept = [{path.name for path in (tmp_path / name).glob("checkpoint-*")} for name in ("whole", "parts")]
    assert kept[0] == kept[1]
    first, second = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert summary_of(tmp_path / "whole")["history"] == summary_of(tmp_path / "parts")["history"]


def launch(folder, arguments):
    """`accelerate launch` with two processes on the CPU."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--main_process_port", "0", run_training.__file__, SMOKE, *arguments]
    environment = os.environ | {
        "OMP_NUM_THREADS": "1",
        "HF_HOME": str(folder / "home"),
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def losses(folder):
    """Loss and its parts, step by step, and the rates of every evaluation."""
    state = last_weights(folder).with_name("trainer_state.json")
    history = json.loads(state.read_text(encoding="utf-8"))["log_history"]
    return [entry for entry in history if "loss" in entry], [entry for entry in history if "eval_loss" in entry]


@pytest.mark.slow
def test_two_processes_learn_what_one_does_with_the_same_global_batch(overrides, tmp_path):
    # Random depth and the mixed views are drawn per process. The views count for nothing in this loss, but are made.
    method = [override for override in FULL_METHOD if not override.startswith("model.config.drop_path_rate=")]
    same = [*method, "model.config.drop_path_rate=0", "objective.time_weight=0", "objective.mel_weight=0"]
    launch(tmp_path, overrides(tmp_path / "two", *same, "per_device_train_batch_size=4"))
    exit_code, errors = run_process(tmp_path, overrides(tmp_path / "one", *same, "per_device_train_batch_size=8"))
    assert exit_code == 0, errors
    (two_steps, two_scores), (one_steps, one_scores) = losses(tmp_path / "two"), losses(tmp_path / "one")
    assert summary_of(tmp_path / "two")["processes"] == 2
    assert len(one_steps) == len(two_steps) == 12
    assert [step["loss"] for step in two_steps] == pytest.approx([step["loss"] for step in one_steps], abs=2e-4)
    assert [score["eval_score"] for score in two_scores] == [score["eval_score"] for score in one_scores]
    assert [score["eval_loss"] for score in two_scores] == pytest.approx(
        [score["eval_loss"] for score in one_scores], abs=2e-4
    )
    # Before the first update the features are the same; each view has 4 clean samples to be told from, not 8.
    assert two_steps[0]["contrastive_time"] < one_steps[0]["contrastive_time"]
    assert two_steps[0]["contrastive_mel"] < one_steps[0]["contrastive_mel"]
