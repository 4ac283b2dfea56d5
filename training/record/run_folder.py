"""The folder of a training run: its settings, its checkpoints, and what may be gone on with."""

import dataclasses
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from modeling_lung_srad.errors import InputError
from modeling_lung_srad.files.output_files import locked
from training.arguments import RunArguments
from training.record.training_record import TRAINING_SUMMARY
from training.training_arguments import LungSradTrainingArguments

CONFIGURATION = "training_configuration.json"
# How a run is logged, loaded and shared may change between its parts.
OPERATIONAL = ("output_dir", "run_name", "dataloader", "log", "report_to", "disable_tqdm", "hub", "push")
# Beside the settings; known once the teachers are loaded.
TEACHER_WEIGHTS = "teacher.sha256"


def find_last_checkpoint(arguments: RunArguments, training_arguments: LungSradTrainingArguments) -> Path | None:
    """The last complete checkpoint in `output_dir`, or `None` for a fresh start.

    Raises:
        InputError: `output_dir` holds something else, or a run with other settings.
    """
    output_dir = Path(str(training_arguments.output_dir))
    # The first of several processes checks, since it may be writing there while another one looks.
    if training_arguments.process_index == 0:
        _check_output_dir(output_dir, shaping_settings(arguments, training_arguments))
    return _last_complete(output_dir)


@contextmanager
def writing_alone(training_arguments: LungSradTrainingArguments, last_checkpoint: Path | None) -> Iterator[None]:
    """Makes `output_dir` and keeps other runs from writing there; of several processes the first one sees to that.

    Raises:
        InputError: another run is writing there, or has done so since `last_checkpoint` was found.
    """
    if training_arguments.process_index != 0:
        yield
        return
    output_dir = Path(str(training_arguments.output_dir))
    output_dir.mkdir(parents=True, exist_ok=True)
    with locked(output_dir / ".lock", output_dir):
        if (output_dir / TRAINING_SUMMARY).exists() or _last_complete(output_dir) != last_checkpoint:
            raise InputError(output_dir, "another run has written there meanwhile", "start the same command again")
        yield


def shaping_settings(arguments: RunArguments, training_arguments: LungSradTrainingArguments) -> dict[str, Any]:
    """The settings that shape the result, by dotted key; those of the teachers only where there are any."""
    sections = dataclasses.asdict(arguments)
    if not arguments.teacher.checkpoints:
        del sections["teacher"]
    shaping = {f"{section}.{key}": value for section, values in sections.items() for key, value in values.items()}
    return shaping | {"number of processes": training_arguments.world_size} | training_settings(training_arguments)


def training_settings(training_arguments: LungSradTrainingArguments) -> dict[str, Any]:
    """The settings of the Trainer that shape the result."""
    settings = training_arguments.to_sanitized_dict()
    return {key: value for key, value in settings.items() if not key.startswith(OPERATIONAL)}


def check_same_teachers(last_checkpoint: Path | None, sha256: list[str]) -> None:
    """Checks that a run goes on with the teachers that it began with.

    Raises:
        InputError: the weights of a teacher are other ones.
    """
    if last_checkpoint is None or not sha256:
        return
    file = last_checkpoint.parent / CONFIGURATION
    if read_json(file, "settings").get(TEACHER_WEIGHTS) != sha256:
        raise InputError(
            file,
            "the run began with other weights of teacher.checkpoints",
            "put them back, or choose another output_dir",
        )


def read_json(file: Path, content: str) -> dict[str, Any]:
    """A JSON object that a run wrote.

    Raises:
        InputError: naming the file, where it is damaged.
    """
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
        if not isinstance(read, dict):
            raise TypeError("no JSON object")
    except (OSError, ValueError, TypeError) as error:
        raise InputError(
            file, f"does not hold the {content} of a run ({error})", "put it back, or choose another output_dir"
        ) from error
    return read


def _last_complete(output_dir: Path) -> Path | None:
    complete = [path for path in output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if _is_complete(path)]
    return max(complete, key=_step, default=None)


def _is_complete(checkpoint: Path) -> bool:
    """The state is the last file that the Trainer writes: where it is missing or cut short, so is the checkpoint."""
    try:
        state = json.loads((checkpoint / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        return state["global_step"] == _step(checkpoint)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.rpartition("-")[2])


def _check_output_dir(output_dir: Path, shaping: dict[str, Any]) -> None:
    existing = next(path for path in (output_dir, *output_dir.absolute().parents) if path.exists())
    if existing == output_dir and not output_dir.is_dir():
        raise InputError(output_dir, "output_dir is a file", "choose a folder")
    if not existing.is_dir() or not os.access(existing, os.W_OK):
        raise InputError(output_dir, f"{existing} is not a writable folder", "choose another output_dir")
    # A file being written has a hidden name, which is all that a process killed at its very start leaves.
    if not output_dir.exists() or all(path.name.startswith(".") for path in output_dir.iterdir()):
        return
    configuration = output_dir / CONFIGURATION
    if not configuration.exists():
        raise InputError(output_dir, "is not empty and not the folder of a run", "choose another output_dir")
    # A run that stopped before its first checkpoint has nothing to protect.
    if not any(output_dir.glob(f"{PREFIX_CHECKPOINT_DIR}-*")) and not any(output_dir.glob("*.safetensors")):
        return
    before = read_json(configuration, "settings")
    before.pop(TEACHER_WEIGHTS, None)
    now = json.loads(json.dumps(shaping))
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if changed:
        raise InputError(
            output_dir,
            f"holds a run with another {', '.join(changed)}",
            "use the same settings to go on, or choose another output_dir",
        )
