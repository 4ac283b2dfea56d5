"""The folder of a checkpoint, read and checked before anything of it is published."""

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from lung_srad_cli.publishing.repository_files import read_card
from modeling_lung_srad.checkpoint_loading import load_checkpoint
from modeling_lung_srad.errors import InputError
from modeling_lung_srad.familiarity import load_familiarity
from modeling_lung_srad.files.checkpoint_code import (
    CONFIG,
    EXTRACTOR_CONFIG,
    checkpoint_code_files,
    settings_with_classes,
)

WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
TRAINING_SUMMARY, CARD = "training_summary.json", "README.md"
# A path of this machine: /home/..., ~/..., C:\...
LOCAL_PATH = re.compile(r"^(/|~|[A-Za-z]:[\\/])")


@dataclass(frozen=True)
class CheckpointFolder:
    """
    A checkpoint that loads here and has all that it needs to load elsewhere.

    Args:
        path (`Path`): the folder.
        settings (`dict`): of `config.json`, with the defaults that it leaves out.
        extractor_settings (`dict`): of `preprocessor_config.json`.
        num_parameters (`int`): of the model.
        weights (`tuple[str, ...]`): names of the safetensors files, and of their index if there are several.
        portable (`dict[str, bytes]`): contents by name of the settings and of the code of this package to which they
            refer, whatever the folder has of them.
        summary (`dict`, *optional*): of `training_summary.json`, where it may be published.
        hidden_path (`str`, *optional*): a path of this machine in the summary, which therefore stays here.
        card (`str`, *optional*): `README.md`.
    """

    path: Path
    settings: dict[str, Any]
    extractor_settings: dict[str, Any]
    num_parameters: int
    weights: tuple[str, ...]
    portable: dict[str, bytes]
    summary: dict[str, Any] | None
    hidden_path: str | None
    card: str | None


def read_checkpoint_folder(checkpoint: str) -> CheckpointFolder:
    """
    Reads a folder that `save_pretrained` wrote, and loads all of it once to see that it is whole.

    Args:
        checkpoint (`str`): the folder.

    Returns:
        [`CheckpointFolder`]

    Raises:
        InputError: a checkpoint that is incomplete, damaged or has pickles only;
            statistics of the training cycles that are damaged or of another number of mel bins;
            a card or a training summary that cannot be read.
    """
    path = Path(os.path.expanduser(checkpoint))
    # An absolute path is never taken for an id on the Hub, which would need the network.
    model, _ = load_checkpoint(path.absolute())
    familiarity = load_familiarity(path.absolute())
    if familiarity is not None:
        familiarity.distance(torch.zeros(1, 2, model.config.num_mel_bins))
    contents = settings_with_classes(path)
    portable = {name: content.encode("utf-8") for name, content in contents.items()}
    portable |= {file.name: file.read_bytes() for file in checkpoint_code_files()}
    summary = _read_summary(path / TRAINING_SUMMARY)
    hidden_path = next((text for text in _strings(summary) if LOCAL_PATH.match(text)), None)
    return CheckpointFolder(
        path,
        model.config.to_dict() | json.loads(contents[CONFIG]),
        json.loads(contents[EXTRACTOR_CONFIG]),
        model.num_parameters(),
        _weight_files(path, checkpoint),
        portable,
        summary if hidden_path is None else None,
        hidden_path,
        read_card(path / CARD) if (path / CARD).is_file() else None,
    )


def _weight_files(path: Path, checkpoint: str) -> tuple[str, ...]:
    """The file, or the index and its files; one of the two is there when the checkpoint has loaded."""
    if (path / WEIGHTS).is_file():
        return (WEIGHTS,)
    index = json.loads((path / WEIGHTS_INDEX).read_text(encoding="utf-8"))
    files = sorted(set(index["weight_map"].values()))
    for name in files:
        if Path(name).name != name:
            raise InputError(checkpoint, f"{WEIGHTS_INDEX}: names {name!r} outside", "save the model again")
    return (WEIGHTS_INDEX, *files)


def _read_summary(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(file, f"cannot be read ({error})", "correct it, or take it out of the folder") from error
    if not isinstance(summary, dict):
        raise InputError(file, "is not a training summary", "take it out of the folder")
    if not _has_counts(summary):
        raise InputError(
            file,
            "cycles: is not a mapping of parts to data sets to numbers",
            "correct it, or take it out of the folder",
        )
    return summary


def _has_counts(summary: dict[str, Any]) -> bool:
    """True where the numbers of training cycles, if there are any, can stand in a table."""
    parts = summary.get("cycles") or {}
    sources = (parts.get("training") or {}) if isinstance(parts, dict) else None
    return isinstance(sources, dict) and all(
        name.isprintable() and isinstance(counts, dict) and all(type(number) is int for number in counts.values())
        for name, counts in sources.items()
    )


def _strings(value: Any) -> list[str]:
    """All texts in what JSON held."""
    if isinstance(value, dict):
        return [text for part in value.values() for text in _strings(part)]
    if isinstance(value, list):
        return [text for part in value for text in _strings(part)]
    return [value] if isinstance(value, str) else []
