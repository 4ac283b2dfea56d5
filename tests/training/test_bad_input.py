"""Mistakes of every kind end with one line that names file, field and remedy, and change nothing."""

import csv
import json
import re
import shutil
import subprocess
import sys

import pytest
import torch

from modeling_lung_srad.checkpoint_loading import load_checkpoint
from modeling_lung_srad.errors import InputError
from tests.training.conftest import SMOKE, STRETCHES
from training.configuration import CONFIGS, expand_seeds, read_configuration
from training.model_setup import build_model
from training.prediction.evaluate_checkpoint import predict
from training.record.training_record import read_training_record
from training.report.files import read_report
from training.report.predictions import COLUMNS, read_predictions
from training.run_training import train

SCRIPT = CONFIGS.parent / "examples" / "finetune_folder.py"
ROW = ["101_1b1", "0.0", "1.5", "wheeze", "wheeze", "0.1", "0.2", "0.6", "0.1", "101", "Meditron", "Tc", "test"]
SMALLEST = ["data.simulated=4", "per_device_train_batch_size=4", "sampling.cycles_per_epoch=4"]
THREE_EPOCHS = ["num_train_epochs=3", "save_total_limit=3"]


@pytest.mark.parametrize(
    ("text", "overrides", "message"),
    [
        ("model: {size: tiny}\nseed: 1\nmodel: {size: small}", [], "model is there twice"),
        ("extends: [a.yaml, b.yaml]", [], r"extends: \['a.yaml', 'b.yaml'\] should be the path of one"),
        ("extends: ''", [], "extends: '' should be the path of one"),
        ("extends: nowhere.yaml", [], r"nowhere.yaml: no such configuration file \(extends of .*config.yaml\)"),
        ("seed: 1", ["model.checkpoint="], "'model.checkpoint=': lacks a value; give one, or model.checkpoint=null"),
        ("seed: 1", [".icbhi=3"], "an override is key=value"),
        ("data: {icbhi: ''}", [], "data.icbhi: the path is empty"),
        ("data: {split: offical, simulated: 4}", [], "data.split: 'offical' is not one of .* nearest is official"),
        ("data: {simulated: 1}", [], "data.simulated: 1 patients: use 2 or more"),
        ("seed: 99999999999", [], "seed: 99999999999 should be 0 to"),
        ("label_smoothing_factor: 2", [], "label_smoothing_factor: 2.0 should be at least 0 and below 1"),
        ("max_grad_norm: .nan", [], "max_grad_norm: nan should be 0 or more"),
        ("adam_beta1: 2", [], "adam_beta1: 2.0 should be at least 0 and below 1"),
        ("report_to: nonsense", [], "report_to: 'nonsense' is not installed, or not known"),
        ("log_level: loud", [], "log_level: 'loud' is not one of"),
        ("accelerator_config: nonsense", [], "config.yaml: .*nonsense"),
        ("accelerator_config: {nonsense: true}", [], "config.yaml: .*nonsense"),
        ("neftune_noise_alpha: 3", [], "neftune_noise_alpha: is for embeddings of words"),
        ("label_names: [x]", [], "label_names: the labels are always"),
        ("save_strategy: steps", [], "save_strategy: 'steps' is not eval_strategy, 'epoch'"),
        ("{save_strategy: steps, eval_strategy: steps, eval_steps: 0}", [], "eval_steps: 0.* should be above 0"),
        ("eval_delay: 100", [], "eval_delay: 100.* leaves no epoch to choose from"),
        ("lr_scheduler_kwargs: {min_lr_rate: high}", [], "lr_scheduler_kwargs.min_lr_rate: 'high' should be a number"),
        ("{lr_per_epoch: true, lr_scheduler_kwargs: {min_lr_rat: 0.1}}", [], "lr_scheduler_kwargs: has the key"),
        ("teacher: {checkpoints: runs/first}", [], "teacher.checkpoints: 'runs/first' should be of type list"),
        ("teacher: {checkpoints: [1]}", [], r"teacher.checkpoints: \[1\] should be a list of paths or Hub ids"),
        ("teacher: {checkpoints: [a], weight: 1.5}", [], "teacher.weight: 1.5 should be 0 to 1"),
        (
            "teacher: {checkpoints: [a], weight: 0}",
            [],
            "teacher.weight: 0 and feature_weight 0 leave nothing to learn",
        ),
        ("teacher: {checkpoints: [a], temperature: 0}", [], "teacher.temperature: 0.0 should be above 0"),
        ("teacher: {checkpoints: [a], feature_weight: -1}", [], "teacher.feature_weight: -1.0 should be 0 or more"),
        ("teacher: {checkpoints: [a], label_weight: .nan}", [], "teacher.label_weight: nan should be 0 or more"),
        ("teacher: {temperature: 2}", [], "teacher.temperature: is given without a teacher"),
        ("objective: {class_balance: 1.0e+10}", [], "objective.class_balance: .* should be 0 to 10"),
    ],
)
def test_configurations_that_would_be_ignored_or_fail_later_are_refused(tmp_path, text, overrides, message):
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=message) as raised:
        read_configuration(path, overrides)
    assert "\n" not in str(raised.value)


def test_endless_range_of_seeds_is_refused():
    with pytest.raises(InputError, match="more than 1000 runs"):
        expand_seeds(SMOKE, ["seed=1..99999999999999"])


def test_key_that_is_no_text_is_named():
    arguments, _ = read_configuration(SMOKE, ["model.config={1: 2}"])
    with pytest.raises(InputError, match=r"model\.config\.1: unknown key"):
        build_model(arguments.model)


@pytest.fixture(scope="module")
def interrupted_run(tmp_path_factory):
    """A run that was stopped after two of three epochs, each of a step."""
    folder = tmp_path_factory.mktemp("runs") / "interrupted"
    assert train(SMOKE, [*SMALLEST, *THREE_EPOCHS, f"output_dir={folder}"]) == 0
    for name in ("training_summary.json", "model.safetensors"):
        (folder / name).unlink()
    shutil.rmtree(folder / "checkpoint-3")
    return folder


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("checkpoint-2/model.safetensors", b"cut", "checkpoint-2: cannot be read"),
        ("checkpoint-2/projector.safetensors", b"cut", "checkpoint-2: cannot be read"),
        ("checkpoint-2/optimizer.pt", b"cut", "checkpoint-2: cannot be read"),
        ("checkpoint-2/scheduler.pt", None, "checkpoint-2: lacks scheduler.pt; remove this folder"),
        ("checkpoint-2/rng_state.pth", b"cut", "checkpoint-2: cannot be read"),
        ("checkpoint-2/rng_state.pth", None, "checkpoint-2: lacks rng_state.pth, without which"),
        ("training_configuration.json", b"[]", "training_configuration.json: does not hold the settings of a run"),
        ("training_summary.json", b"{", "training_summary.json: does not hold the summary of a run"),
    ],
)
def test_damaged_file_of_an_interrupted_run_is_named_and_nothing_is_removed(
    tmp_path, capsys, interrupted_run, file, content, message
):
    folder = tmp_path / "run"
    shutil.copytree(interrupted_run, folder)
    _damage(folder / file, content)
    before = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    command = [*SMALLEST, *THREE_EPOCHS, f"output_dir={folder}"]
    assert train(SMOKE, command) == 2
    assert message in _last_line(capsys)
    assert {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("name", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
def test_pickled_code_in_an_interrupted_run_is_refused_and_not_run(tmp_path, capsys, interrupted_run, name):
    class Exploit:
        def __reduce__(self):
            return (open, (str(tmp_path / "written"), "w"))

    folder = tmp_path / "run"
    shutil.copytree(interrupted_run, folder)
    torch.save(Exploit(), folder / "checkpoint-2" / name)
    assert train(SMOKE, [*SMALLEST, *THREE_EPOCHS, f"output_dir={folder}"]) == 2
    assert "checkpoint-2: cannot be read" in _last_line(capsys)
    assert not (tmp_path / "written").exists()


def _damage(path, content):
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)


def _last_line(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lung-srad: error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optim=adamw_bnb_8bit"], "optim, optim_args: .* cannot be used"),
        (["optim_args=nonsense"], "optim, optim_args: .*nonsense"),
        (["lr_scheduler_kwargs={min_lr_rat: 0.1}"], "lr_scheduler_kwargs: .*min_lr_rat"),
        (["max_steps=1", "eval_delay=5"], "no checkpoint was scored"),
        (["data.other_sounds=3"], "data.other_sounds: go with augmentation.stretch_frames"),
        (["data.other_sounds=3", *STRETCHES], "data.other_sounds: have no class to learn"),
    ],
)
def test_settings_that_only_the_trainer_can_check_are_named(tmp_path, capsys, overrides, message):
    command = [*SMALLEST, "num_train_epochs=1", f"output_dir={tmp_path / 'run'}", *overrides]
    assert train(SMOKE, command) == 2
    assert re.search(message, _last_line(capsys))


def test_output_dir_below_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    assert train(SMOKE, [f"output_dir={tmp_path / 'file' / 'run'}"]) == 2
    assert "file is not a writable folder; choose another output_dir" in _last_line(capsys)


def test_processes_that_would_each_train_by_themselves_are_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert train(SMOKE, [f"output_dir={tmp_path / 'run'}"]) == 2
    assert "2 processes were started, and each would train by itself" in _last_line(capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ROW, ROW], "line 3: is the cycle of line 2 once more"),
        ([[*ROW[:2], "-1.0", *ROW[3:]]], "line 2: end: -1.0 s is not after start"),
        ([["", *ROW[1:]]], "line 2: recording: is empty"),
    ],
)
def test_predictions_that_would_count_wrongly_are_refused(tmp_path, rows, message):
    path = tmp_path / "predictions.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *rows])
    with pytest.raises(InputError, match=message):
        read_predictions(path)


@pytest.mark.parametrize(
    "change", [{"data_notes": [1]}, {"selection": ["last"]}, {"checkpoint": None}, {"validation_cycles": "ten"}]
)
def test_evaluation_json_with_values_of_other_types_is_named(tmp_path, change):
    about = {"checkpoint": "runs/x", "part": "test", "data_notes": [], "data": "icbhi", "split": "official"}
    (tmp_path / "evaluation.json").write_text(json.dumps(about | change), encoding="utf-8")
    with open(tmp_path / "predictions.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, ROW])
    with pytest.raises(InputError, match=rf"evaluation.json: is not a report \({next(iter(change))}: "):
        read_report(tmp_path)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"configuration": {"data": {"split": ["official"]}}}, "configuration.data.split"),
        ({"validation_patients": "105"}, "validation_patients"),
        ({"cycles": {"validation": {"icbhi": {"cycles": "ten"}}}}, "cycles.validation"),
    ],
)
def test_training_summary_with_values_of_other_types_is_named(tmp_path, change, named):
    summary = {"selection": "last", "configuration": {"data": {"split": "official"}}} | change
    (tmp_path / "training_summary.json").write_text(json.dumps(summary), encoding="utf-8")
    with pytest.raises(ValueError, match=f"training_summary.json: is not a training summary .{named}"):
        read_training_record(tmp_path)


def test_classes_are_found_where_label2id_was_edited_away(checkpoint, simulated_sources):
    model, feature_extractor = load_checkpoint(checkpoint)
    model.config.label2id = {"normal": 9}
    assert predict(model, feature_extractor, simulated_sources[1]).shape[1] == 4


def test_example_says_what_it_needs(tmp_path):
    (tmp_path / "only").mkdir()
    command = [sys.executable, str(SCRIPT), str(tmp_path), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "two classes or more (1 now)" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_bug_in_a_training_keeps_its_traceback(tmp_path, monkeypatch):
    def stumble(*arguments):
        raise ValueError("shapes do not match")

    monkeypatch.setattr("training.run_training.build_trainer", stumble)
    with pytest.raises(ValueError, match="shapes do not match"):
        train(SMOKE, [*SMALLEST, f"output_dir={tmp_path / 'run'}"])
