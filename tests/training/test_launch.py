"""Checks before a run starts: its processes, their devices and the folder that they share."""

import pytest

from modeling_lung_srad.errors import InputError
from tests.training.conftest import SMOKE
from training import launch
from training.record.training_record import TRAINING_SUMMARY as SUMMARY
from training.run_training import main, train
from training.training_arguments import LungSradTrainingArguments


def test_one_process_with_several_gpus_is_told_how_to_use_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(LungSradTrainingArguments, "n_gpu", property(lambda self: 2))
    assert train(SMOKE, [f"output_dir={tmp_path / 'run'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "2 GPUs are visible to one process" in line
    assert "accelerate launch --num_processes 2 training/run_training.py" in line
    assert "CUDA_VISIBLE_DEVICES=0" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("others", "message"),
    [
        (["checkpoint-12"], None),
        (["none"], "the processes found checkpoint-12, none as its last state; use an output_dir that all"),
        ([SUMMARY], "the processes found checkpoint-12, training_summary.json as its last state"),
    ],
)
def test_processes_that_find_another_last_checkpoint_are_told(tmp_path, monkeypatch, others, message):
    monkeypatch.setattr(LungSradTrainingArguments, "world_size", property(lambda self: 2))
    monkeypatch.setattr(launch, "gather_object", lambda found: found + others)
    arguments = LungSradTrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    if message is None:
        launch.check_same_folder(arguments, tmp_path / "checkpoint-12")
        return
    with pytest.raises(InputError, match=message):
        launch.check_same_folder(arguments, tmp_path / "checkpoint-12")


def test_accelerate_that_starts_one_of_several_processes_is_told(monkeypatch, capsys):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert main([SMOKE]) == 2
    assert "--multi_gpu --num_processes N ... use_cpu=true" in capsys.readouterr().err
