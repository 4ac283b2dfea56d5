"""`lung-srad publish`: lists what goes up, tries it out, uploads it, and says how to load it."""

import argparse
import re
from typing import TYPE_CHECKING, Any

from lung_srad_cli.argument_types import Parser, path
from lung_srad_cli.errors import require_modules
from lung_srad_cli.export_command import EXPORT_MODULES

if TYPE_CHECKING:
    from lung_srad_cli.publishing.repository_files import PreparedRepository
    from lung_srad_cli.publishing.upload import Upload

DESCRIPTION = """\
Uploads a checkpoint, a data set or the demo to the Hugging Face Hub: private unless --public is given.

A model takes its weights (safetensors), settings, code and a model card with it, so that from_pretrained and pipeline
load it anywhere. The usage snippet of the card is run first, in a process without this package."""
EPILOG = """\
examples:
  lung-srad publish model runs/first user/lung-srad-first --evaluation report/ --dry-run
  lung-srad publish model runs/first user/lung-srad-first --evaluation report/
  lung-srad publish dataset icbhi user/icbhi-2017                     a card that points to the publishers
  lung-srad publish dataset simulated/ user/simulated-lung-sounds     a folder of `lung-srad prepare simulated`
  lung-srad publish space user/lung-srad --checkpoint user/lung-srad-first
  lung-srad publish space user/lung-srad-private --static             the page that computes in the browser

Log in by `hf auth login` first. --dry-run shows what would go up and asks no server. An upload that broke off goes on
with the same command; a file that is there already is not sent again. HF_ENDPOINT names a Hub of your own."""
DATASET_DESCRIPTION = """\
Uploads a data set card that points to the source of a database, or Parquet files of `lung-srad prepare`.

Recordings of people are uploaded only with --with-audio and --i-may-redistribute: they belong to their publishers."""

REPOSITORY_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9_][A-Za-z0-9._-]*")
MAX_ID_LENGTH = 96
LICENSE_ID = re.compile(r"[a-z0-9.-]+")
TRIALS = {"model": "running the usage snippet of the card ...", "gradio": "importing the page from these files ..."}


def repository_id(text: str) -> str:
    """A `type` for arguments: id of a repository on the Hub, by the rules of `huggingface_hub`."""
    forbidden = "--" in text or ".." in text or text.endswith((".git", ".ipynb", "-", ".")) or "./" in text
    if not REPOSITORY_ID.fullmatch(text) or forbidden or len(text) > MAX_ID_LENGTH:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not the id of a repository; write USER/NAME with letters, digits, '-', '_' and '.'"
        )
    return text


def license_id(text: str) -> str:
    """A `type` for arguments: what may be the identifier of a licence on the Hub."""
    if not LICENSE_ID.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not the identifier of a licence; write it as on the Hub, such as apache-2.0 or cc-by-4.0"
        )
    return text


def add(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "publish", help="upload a model, a data set or the demo to the Hub", description=DESCRIPTION, epilog=EPILOG
    )
    parser.set_defaults(run=run)
    kinds = parser.add_subparsers(title="what", metavar="KIND", dest="kind", required=True)
    _add_model(kinds)
    _add_dataset(kinds)
    _add_space(kinds)


def run(arguments: argparse.Namespace) -> int:
    """
    Lists what goes up, tries it out, uploads it, and says how to load it; returns the exit code.

    Raises:
        InputError: where nothing was published.
    """
    from lung_srad_cli.publishing.repository_files import describe_files, format_size
    from lung_srad_cli.publishing.upload import require_model, require_token, upload_files
    from modeling_lung_srad.errors import printable

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
    if trial := TRIALS.get(prepared.space_sdk or kind):
        print(trial, flush=True)
    prepared.try_out()
    uploaded = upload_files(
        prepared.files,
        repository,
        kind,
        arguments.public,
        variables=prepared.variables,
        space_sdk=prepared.space_sdk,
    )
    _describe_upload(uploaded, prepared, arguments)
    return 0


def _prepare(arguments: argparse.Namespace) -> "PreparedRepository":
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
    from lung_srad_cli.publishing.space_repository import prepare_space, prepare_static_space

    if arguments.static:
        require_modules(EXPORT_MODULES, extra="export")
        return prepare_static_space(arguments.repository)
    return prepare_space(arguments.repository, arguments.checkpoint)


def _describe_upload(uploaded: "Upload", prepared: "PreparedRepository", arguments: argparse.Namespace) -> None:
    from huggingface_hub import constants

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


def _add_model(kinds: Any) -> None:
    summary = "a checkpoint with its code and a model card"
    parser = kinds.add_parser("model", help=summary, description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("checkpoint", type=path, metavar="CHECKPOINT", help="folder that training or convert wrote")
    _add_repository(parser)
    parser.add_argument(
        "--evaluation",
        type=path,
        metavar="REPORT",
        help="figures for the card: the folder that `lung-srad evaluate --output` wrote, or its evaluation.json",
    )
    _add_license(parser, "that of the card, or apache-2.0, which is that of the code")
    _add_common(parser)


def _add_dataset(kinds: Any) -> None:
    summary = "a card that points to a database, or prepared cycles"
    parser = kinds.add_parser("dataset", help=summary, description=DATASET_DESCRIPTION, epilog=EPILOG)
    parser.add_argument(
        "source", type=path, metavar="SOURCE", help="icbhi, sprsound, or a folder that `lung-srad prepare` wrote"
    )
    _add_repository(parser)
    parser.add_argument("--with-audio", action="store_true", help="upload the Parquet files of a database as well")
    parser.add_argument(
        "--i-may-redistribute", action="store_true", help="you state that the publishers' terms allow you that"
    )
    _add_license(parser, "other, with the address of the publishers; apache-2.0 for simulated sounds")
    _add_common(parser)


def _add_space(kinds: Any) -> None:
    summary = "the demo, as a Space"
    parser = kinds.add_parser("space", help=summary, description=f"Uploads {summary}.", epilog=EPILOG)
    _add_repository(parser)
    kinds_of_page = parser.add_mutually_exclusive_group()
    kinds_of_page.add_argument(
        "--static",
        action="store_true",
        help="the page that computes in the browser, with the embedded model; npm gets its runtime",
    )
    kinds_of_page.add_argument(
        "--checkpoint",
        type=repository_id,
        metavar="HUB_ID",
        help="a published model to offer beside the embedded one; without it a model offered earlier is taken away",
    )
    _add_common(parser)


def _add_repository(parser: Parser) -> None:
    parser.add_argument("repository", type=repository_id, metavar="USER/NAME", help="id of the repository on the Hub")


def _add_license(parser: Parser, default: str) -> None:
    parser.add_argument(
        "--license", type=license_id, metavar="ID", help=f"licence, by its identifier on the Hub (default: {default})"
    )


def _add_common(parser: Parser) -> None:
    parser.add_argument("--public", action="store_true", help="everyone may read it (default: private)")
    parser.add_argument("--dry-run", action="store_true", help="list what would go up, without any network")
