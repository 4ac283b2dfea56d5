"""Collects the files of a model repository from the folder of a checkpoint: only listed names go up."""

import tempfile
from pathlib import Path

from huggingface_hub import ModelCard

from lung_srad_cli.publishing.checkpoint_folder import (
    CARD,
    TRAINING_SUMMARY,
    CheckpointFolder,
    read_checkpoint_folder,
)
from lung_srad_cli.publishing.evaluation_results import is_certainly_about, read_evaluation
from lung_srad_cli.publishing.model_card import build_card, default_snippet
from lung_srad_cli.publishing.repository_files import (
    PreparedRepository,
    RepositoryFile,
    place_files,
    refuse_links_to_outside,
)
from lung_srad_cli.publishing.snippet import run_snippet, usage_snippet
from modeling_lung_srad.familiarity import FAMILIARITY_FILE

OPTIONAL = (FAMILIARITY_FILE, "LICENSE", "NOTICE")


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
        InputError: as `read_checkpoint_folder`;
            a report or card that cannot be used, or a link to a file elsewhere.
    """
    folder = read_checkpoint_folder(checkpoint)
    names = published_names(folder)
    read = [name for name in (*names, CARD) if not name.endswith(".py")]
    refuse_links_to_outside([folder.path / name for name in read], folder.path)
    report = None if evaluation is None else read_evaluation(evaluation, folder.path)
    card = build_card(repo_id, folder, report, license_name)
    files = [RepositoryFile(name, folder.portable.get(name, folder.path / name)) for name in names]
    files.append(RepositoryFile(CARD, card.encode("utf-8")))
    notes = [f"licence on the card: {ModelCard(card).data.get('license')}"]
    if report is not None and not is_certainly_about(report, folder.path):
        named = report.get("checkpoint")
        notes.append(f"not checked: whether the report is about this checkpoint; it names {named!r}")
    if folder.hidden_path is not None:
        notes.append(f"{TRAINING_SUMMARY} stays here: it holds paths of this machine such as {folder.hidden_path}")
    left_out = sorted({path.name for path in folder.path.iterdir()} - {*names, CARD})
    if left_out:
        notes.append(f"left out: {', '.join(left_out)}")

    def try_out() -> None:
        with tempfile.TemporaryDirectory(prefix="lung-srad-publish-") as prepared:
            place_files(files, Path(prepared, "model"))
            run_snippet(usage_snippet(card), repo_id, Path(prepared, "model"))

    return PreparedRepository(files, notes, default_snippet(repo_id), try_out)


def published_names(folder: CheckpointFolder) -> list[str]:
    """The files that go up: settings, weights and code, but never pickles, optimizer states, logs or folders."""
    summary = [TRAINING_SUMMARY] if folder.summary is not None else []
    optional = [name for name in OPTIONAL if (folder.path / name).is_file()]
    return [*folder.portable, *folder.weights, *summary, *optional]
