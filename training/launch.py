"""Checks that the processes of a run were started as they should be: together, on one device each, in one folder."""

import os
from pathlib import Path

from accelerate.utils import gather_object

from modeling_lung_srad.errors import InputError
from training.record.training_record import TRAINING_SUMMARY
from training.training_arguments import LungSradTrainingArguments


def check_launch() -> None:
    """Checks that as many processes run as `accelerate launch` was asked for.

    Raises:
        InputError: without GPUs, `accelerate launch --num_processes N` starts one process and says nothing.
    """
    started_by_accelerate = "ACCELERATE_MIXED_PRECISION" in os.environ
    if started_by_accelerate and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        raise InputError(
            "accelerate launch",
            "--num_processes asks for several processes, and it started one, as it does without GPUs",
            "there, use accelerate launch --multi_gpu --num_processes N ... use_cpu=true",
        )


def check_processes(training_arguments: LungSradTrainingArguments) -> None:
    """Checks that processes that were started together train together, each on one GPU.

    Raises:
        InputError: each would train by itself, and all in the same folder, as they do without GPUs; or one
            process would train on several GPUs by threads, which would share the draws of the mixed views.
    """
    started = int(os.environ.get("WORLD_SIZE") or 1)
    if training_arguments.world_size != started:
        raise InputError(
            "accelerate launch",
            f"{started} processes were started, and each would train by itself, as they do without GPUs",
            "there, add use_cpu=true",
        )
    if training_arguments.n_gpu > 1:
        raise InputError(
            "accelerate launch",
            f"{training_arguments.n_gpu} GPUs are visible to one process, which can train on one only",
            f"start accelerate launch --num_processes {training_arguments.n_gpu} training/run_training.py CONFIG.yaml "
            "[key=value ...], or set CUDA_VISIBLE_DEVICES=0 to use one",
        )


def check_same_folder(training_arguments: LungSradTrainingArguments, last_checkpoint: Path | None) -> None:
    """Checks that all processes see the same `output_dir`, by what each found in it.

    Raises:
        InputError: some would go on from a checkpoint, or stop, that others do not see.
    """
    if training_arguments.world_size == 1:
        return
    output_dir = Path(str(training_arguments.output_dir))
    name = "none" if last_checkpoint is None else last_checkpoint.name
    found = [TRAINING_SUMMARY if (output_dir / TRAINING_SUMMARY).exists() else name]
    everyone = gather_object(found)
    if len(set(everyone)) > 1:
        raise InputError(
            output_dir,
            f"the processes found {', '.join(sorted(set(everyone)))} as its last state",
            "use an output_dir that all machines share",
        )
