"""`lung-srad publish`: lists what goes up, tries it out, uploads it, and says how to load it."""

import argparse

from huggingface_hub import constants

from lung_srad_cli.errors import printable
from lung_srad_cli.publishing.repository_files import PreparedRepository, describe_files, format_size
from lung_srad_cli.publishing.upload import Upload, require_model, require_token, upload_files

TRIALS = {"model": "running the usage snippet of the card ...", "space": "importing the page from these files ..."}


def run(arguments: argparse.Namespace) -> int:
    """
    Publishes what the arguments name.

    Args:
        arguments (`argparse.Namespace`): of `lung-srad publish`.

    Returns:
        `int`: the exit code, 0.

    Raises:
        CheckpointError, PublishError: where nothing was published.
    """
    if not arguments.dry_run:
        require_token()
        if arguments.kind == "space" and arguments.checkpoint:
            require_model(arguments.checkpoint)
    prepared = _prepare(arguments)
    kind, repository = arguments.kind, arguments.repository
    size = format_size(sum(file.size for file in prepared.files))
    access = "public" if arguments.public else "private"
    print(f"{kind} {repository} ({access}): {len(prepared.files)} files, {size}")
    for line in [*describe_files(prepared.files), *prepared.notes]:
        print(f"  {printable(line)}")
    if arguments.dry_run:
        print("dry run: nothing was uploaded" + (", the usage snippet was not run" if kind == "model" else ""))
        return 0
    if kind in TRIALS:
        print(TRIALS[kind], flush=True)
    prepared.try_out()
    uploaded = upload_files(prepared.files, repository, kind, arguments.public, variables=prepared.variables)
    _describe_upload(uploaded, prepared, arguments)
    return 0


def _prepare(arguments: argparse.Namespace) -> PreparedRepository:
    if arguments.kind == "model":
        from lung_srad_cli.publishing.model_repository import prepare_model

        return prepare_model(arguments.checkpoint, arguments.repository, arguments.evaluation, arguments.license)
    if arguments.kind == "dataset":
        from lung_srad_cli.publishing.dataset_repository import prepare_dataset

        return prepare_dataset(
            arguments.source,
            arguments.repository,
            arguments.with_audio,
            arguments.i_may_redistribute,
            arguments.license,
        )
    from lung_srad_cli.publishing.space_repository import prepare_space

    return prepare_space(arguments.repository, arguments.checkpoint)


def _describe_upload(uploaded: Upload, prepared: PreparedRepository, arguments: argparse.Namespace) -> None:
    what = "published" if uploaded.changed else "unchanged since the last upload"
    print(f"{what}: {uploaded.url} (commit {uploaded.commit[:7]}, {'private' if uploaded.is_private else 'public'})")
    if arguments.public and uploaded.is_private:
        print("it existed as private and stays so; change that in its settings")
    if arguments.kind == "space":
        print(f"it starts in a few minutes at {uploaded.url}")
        return
    print("to load it" + (f", after `hf auth login` at {constants.ENDPOINT}:" if uploaded.is_private else ":"))
    for line in prepared.how_to_load.strip().splitlines():
        print(f"  {line}")
