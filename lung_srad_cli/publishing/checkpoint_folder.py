"""The folder of a checkpoint, read and checked before anything of it is published."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lung_srad_cli.publishing.repository_files import PublishError
from modeling_lung_srad.checkpoint_loading import CheckpointError, load_checkpoint

CONFIG, EXTRACTOR_CONFIG = "config.json", "preprocessor_config.json"
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
TRAINING_SUMMARY, CARD = "training_summary.json", "README.md"
# What a path on someone's machine looks like: /home/..., ~/..., C:\...
LOCAL_PATH = re.compile(r"^(/|~|[A-Za-z]:[\\/])")


@dataclass(frozen=True)
class CheckpointFolder:
    """
    A checkpoint that loads here and has all that it needs to load elsewhere.

    Args:
        path (`Path`): the folder.
        settings (`dict`): of `config.json`.
        extractor_settings (`dict`): of `preprocessor_config.json`.
        num_parameters (`int`): of the model.
        weights (`tuple[str, ...]`): names of the safetensors files, and of their index if there are several.
        code (`tuple[str, ...]`): names of the Python files.
        summary (`dict`, *optional*): of `training_summary.json`, where it may be published.
        hidden_path (`str`, *optional*): a path of this machine in the summary, which therefore stays here.
        card (`str`, *optional*): `README.md`.
    """

    path: Path
    settings: dict[str, Any]
    extractor_settings: dict[str, Any]
    num_parameters: int
    weights: tuple[str, ...]
    code: tuple[str, ...]
    summary: dict[str, Any] | None
    hidden_path: str | None
    card: str | None


def read_checkpoint_folder(checkpoint: str) -> CheckpointFolder:
    """
    Reads a folder that `save_pretrained` wrote, and loads the model once to see that it is whole.

    Args:
        checkpoint (`str`): the folder.

    Returns:
        [`CheckpointFolder`]

    Raises:
        CheckpointError: a checkpoint that is incomplete, damaged, without its code or has pickles only.
        PublishError: a card or a training summary that cannot be read.
    """
    path = Path(checkpoint).expanduser()
    # An absolute path is never taken for an id on the Hub, which would need the network.
    model, _ = load_checkpoint(path.absolute())
    settings, extractor_settings = (
        json.loads((path / name).read_text(encoding="utf-8")) for name in (CONFIG, EXTRACTOR_CONFIG)
    )
    code = tuple(sorted(file.name for file in path.glob("*.py") if file.is_file()))
    _check_code(settings, extractor_settings, code, checkpoint)
    summary = _read_summary(path / TRAINING_SUMMARY)
    hidden_path = next((text for text in _strings(summary) if LOCAL_PATH.match(text)), None)
    return CheckpointFolder(
        path,
        settings,
        extractor_settings,
        model.num_parameters(),
        _weight_files(path),
        code,
        summary if hidden_path is None else None,
        hidden_path,
        _read_card(path / CARD),
    )


def _check_code(
    settings: dict[str, Any], extractor_settings: dict[str, Any], code: tuple[str, ...], checkpoint: str
) -> None:
    """Every class that a stranger's process would import must have its file."""
    classes, extractor_classes = (given.get("auto_map") or {} for given in (settings, extractor_settings))
    if "AutoModelForAudioClassification" not in classes or "AutoFeatureExtractor" not in extractor_classes:
        raise CheckpointError(
            f"{checkpoint}: config.json or preprocessor_config.json has no auto_map, so that it loads only where this "
            "package is installed; load and save both with this package"
        )
    references = [str(value) for value in (*classes.values(), *extractor_classes.values())]
    references += [str(task.get("impl")) for task in (settings.get("custom_pipelines") or {}).values()]
    for reference in references:
        name = f"{reference.partition('.')[0]}.py"
        if name not in code:
            raise CheckpointError(f"{checkpoint}: has no {name}, which config.json asks for; save the model again")


def _weight_files(path: Path) -> tuple[str, ...]:
    """The file, or the index and its files; one of the two is there when the checkpoint has loaded."""
    if (path / WEIGHTS).is_file():
        return (WEIGHTS,)
    index = json.loads((path / WEIGHTS_INDEX).read_text(encoding="utf-8"))
    return (WEIGHTS_INDEX, *sorted(set(index["weight_map"].values())))


def _read_summary(file: Path) -> dict[str, Any] | None:
    if not file.is_file():
        return None
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PublishError(f"{file}: cannot be read ({error}); correct it, or take it out of the folder") from error
    if not isinstance(summary, dict):
        raise PublishError(f"{file}: is no training summary; take it out of the folder")
    return summary


def _strings(value: Any) -> list[str]:
    """All texts in what JSON held."""
    if isinstance(value, dict):
        return [text for part in value.values() for text in _strings(part)]
    if isinstance(value, list):
        return [text for part in value for text in _strings(part)]
    return [value] if isinstance(value, str) else []


def _read_card(file: Path) -> str | None:
    if not file.is_file():
        return None
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PublishError(f"{file}: is no UTF-8 text; save it as UTF-8") from error
