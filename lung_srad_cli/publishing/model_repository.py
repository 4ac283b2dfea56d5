"""Collects the files of a model repository from the folder of a checkpoint: only what is on a list goes up."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard

from lung_srad_cli.publishing.evaluation_results import is_certainly_about, read_evaluation
from lung_srad_cli.publishing.model_card import build_card, default_snippet
from lung_srad_cli.publishing.repository_files import PreparedRepository, PublishError, RepositoryFile, place_files
from lung_srad_cli.publishing.snippet import run_snippet, usage_snippet
from modeling_lung_srad.checkpoint_loading import CheckpointError, load_checkpoint

SETTINGS = ("config.json", "preprocessor_config.json")
OPTIONAL = ("LICENSE", "NOTICE", "generation_config.json")
WEIGHTS, WEIGHTS_INDEX = "model.safetensors", "model.safetensors.index.json"
TRAINING_SUMMARY, CARD = "training_summary.json", "README.md"
# What a path on someone's machine looks like: /home/..., ~/..., C:\...
LOCAL_PATH = re.compile(r"^(/|~|[A-Za-z]:[\\/])")


def prepare_model(
    checkpoint: str, repo_id: str, evaluation: str | None = None, license_name: str | None = None
) -> PreparedRepository:
    """
    Collects weights, settings, code and model card.

    Args:
        checkpoint (`str`): a folder that `save_pretrained` wrote.
        repo_id (`str`): such as `user/name`.
        evaluation (`str`, *optional*): report of `lung-srad evaluate --output`, for the figures of the card.
        license_name (`str`, *optional*): identifier of the licence on the Hub.

    Returns:
        [`PreparedRepository`]: its last check runs the usage snippet of the card.

    Raises:
        CheckpointError: a checkpoint that is incomplete, damaged or has pickles only.
        PublishError: a checkpoint without its code, or a report or card that cannot be used.
    """
    folder = Path(checkpoint).expanduser()
    if not folder.exists() and not folder.is_absolute() and len(folder.parts) == 2:
        raise CheckpointError(f"{checkpoint}: no such folder; download a model of the Hub first, or check the path")
    model, _ = load_checkpoint(folder if folder.exists() else folder.absolute())
    settings, extractor_settings = (json.loads((folder / name).read_text(encoding="utf-8")) for name in SETTINGS)
    code = sorted(path.name for path in folder.glob("*.py") if path.is_file())
    _check_code(settings, extractor_settings, code, checkpoint)
    report = None if evaluation is None else read_evaluation(evaluation, folder)
    summary, notes = _read_summary(folder)
    if report is not None and not is_certainly_about(report, folder):
        notes.append(f"not checked: whether the report is about this checkpoint; it names {report.get('checkpoint')}")
    own_card = _read_card(folder)
    card = build_card(
        repo_id,
        settings,
        extractor_settings,
        model.num_parameters(),
        summary,
        report,
        own_card,
        folder,
        license_name,
    )
    names = [*SETTINGS, *_weight_files(folder), *code, *(name for name in OPTIONAL if (folder / name).is_file())]
    if summary is not None:
        names.append(TRAINING_SUMMARY)
    files = [RepositoryFile(name, folder / name) for name in names]
    files.append(RepositoryFile(CARD, card.encode("utf-8")))
    notes.append(f"licence on the card: {ModelCard(card).data.license}")
    left_out = sorted({path.name for path in folder.iterdir()} - set(names) - {CARD})
    if left_out:
        notes.append(f"left out: {', '.join(left_out)}")

    def try_out() -> None:
        with tempfile.TemporaryDirectory(prefix="lung-srad-publish-") as prepared:
            # Code that is loaded from a folder goes by the name of the folder.
            target = Path(prepared) / "model"
            place_files(files, target)
            run_snippet(usage_snippet(card), repo_id, target)

    return PreparedRepository(files, notes, default_snippet(repo_id, settings, extractor_settings), try_out)


def _check_code(
    settings: dict[str, Any], extractor_settings: dict[str, Any], code: list[str], checkpoint: str
) -> None:
    """Every class that a stranger's process would import must have its file."""
    maps = [settings.get("auto_map") or {}, extractor_settings.get("auto_map") or {}]
    if "AutoModelForAudioClassification" not in maps[0] or "AutoFeatureExtractor" not in maps[1]:
        raise CheckpointError(
            f"{checkpoint}: config.json or preprocessor_config.json has no auto_map, so that it loads only where this "
            "package is installed; load and save both with this package"
        )
    references = [str(value) for classes in maps for value in classes.values()]
    references += [str(task.get("impl")) for task in (settings.get("custom_pipelines") or {}).values()]
    for reference in references:
        name = f"{reference.partition('.')[0]}.py"
        if name not in code:
            raise CheckpointError(f"{checkpoint}: has no {name}, which config.json asks for; save the model again")


def _weight_files(folder: Path) -> list[str]:
    """The safetensors files, of which the one or the index is there when the checkpoint has loaded."""
    if (folder / WEIGHTS).is_file():
        return [WEIGHTS]
    index = json.loads((folder / WEIGHTS_INDEX).read_text(encoding="utf-8"))
    return [WEIGHTS_INDEX, *sorted(set(index["weight_map"].values()))]


def _read_summary(folder: Path) -> tuple[dict[str, Any] | None, list[str]]:
    """The training summary, unless it would tell where files lie on this machine, and what to say about that."""
    file = folder / TRAINING_SUMMARY
    if not file.is_file():
        return None, []
    try:
        summary = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PublishError(f"{file}: cannot be read ({error}); correct it, or take it out of the folder") from error
    if not isinstance(summary, dict):
        raise PublishError(f"{file}: is no training summary; take it out of the folder")
    paths = [text for text in _strings(summary) if LOCAL_PATH.match(text)]
    if paths:
        return None, [f"{TRAINING_SUMMARY} stays here, it holds paths of this machine such as {paths[0]}"]
    return summary, []


def _strings(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for part in value.values() for text in _strings(part)]
    if isinstance(value, list):
        return [text for part in value for text in _strings(part)]
    return [value] if isinstance(value, str) else []


def _read_card(folder: Path) -> str | None:
    file = folder / CARD
    if not file.is_file():
        return None
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PublishError(f"{file}: is no UTF-8 text; save it as UTF-8") from error
