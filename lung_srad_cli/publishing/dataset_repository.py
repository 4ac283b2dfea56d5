"""Collects the files of a data set repository: a card that points to the source, and audio only where it may go."""

import json
import os
from pathlib import Path

from lung_srad_cli.publishing.dataset_card import DATABASES, audio_card, pointer_card
from lung_srad_cli.publishing.repository_files import (
    PreparedRepository,
    RepositoryFile,
    read_card,
    refuse_links_to_outside,
)
from modeling_lung_srad.errors import InputError

CARD = "README.md"
# `dataset_scripts.cycle_dataset.PREPARED_INFO` without its imports.
PREPARED_INFO = "prepared.json"
SIMULATED = "simulated"
PARQUET_MAGIC = b"PAR1"


def prepare_dataset(
    source: str,
    repo_id: str,
    with_audio: bool = False,
    may_redistribute: bool = False,
    license_name: str | None = None,
) -> PreparedRepository:
    """
    Collects the card, and the Parquet files of simulated sounds or of a database that the user may redistribute.

    Args:
        source (`str`): `icbhi` or `sprsound`, or a folder that `lung-srad prepare` wrote.
        repo_id (`str`): such as `user/name`.
        with_audio (`bool`, *optional*, defaults to `False`): whether to upload recordings of people.
        may_redistribute (`bool`, *optional*, defaults to `False`): whether the user states to be allowed to do so.
        license_name (`str`, *optional*): identifier of the licence on the Hub.

    Returns:
        [`PreparedRepository`]

    Raises:
        InputError: audio without the statement, a source that is neither a known database nor a prepared folder, or
            a link to a file elsewhere.
    """
    folder = Path(os.path.expanduser(source))
    database_name = source if source in DATABASES and not folder.is_dir() else _prepared_database(folder, source)
    database = DATABASES.get(database_name)
    if database is not None and with_audio and not may_redistribute:
        raise InputError(
            "--with-audio",
            f"would re-host audio of {database.title}, whose publishers' terms apply ({database.address})",
            "add --i-may-redistribute if you may, or leave --with-audio out",
        )
    if database is not None and not with_audio:
        card = pointer_card(database, license_name)
        note = "no audio goes up: the card says where the database is and how to prepare it"
        return PreparedRepository([RepositoryFile(CARD, card.encode("utf-8"))], [note], database.steps)
    if not folder.is_dir():
        raise InputError(source, "--with-audio needs a folder of audio", f"make it by `lung-srad prepare {source}`")
    parquet = _parquet_files(folder, source)
    refuse_links_to_outside([*parquet, folder / PREPARED_INFO, folder / CARD], folder)
    card = audio_card(read_card(folder / CARD), repo_id, database, license_name)
    files = [RepositoryFile(file.relative_to(folder).as_posix(), file) for file in parquet]
    files.append(RepositoryFile(PREPARED_INFO, folder / PREPARED_INFO))
    files.append(RepositoryFile(CARD, card.encode("utf-8")))
    note = "simulated sounds, not recordings of anyone" if database is None else f"re-hosts audio of {database.title}"
    return PreparedRepository(files, [note], f'datasets.load_dataset("{repo_id}")')


def _prepared_database(folder: Path, source: str) -> str:
    """The database that a folder was prepared from."""
    try:
        database = json.loads((folder / PREPARED_INFO).read_text(encoding="utf-8"))["source"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(
            source, f"is neither {' nor '.join(DATABASES)} nor a folder of `lung-srad prepare`", "name one of them"
        ) from None
    if database not in (SIMULATED, *DATABASES):
        raise InputError(folder / PREPARED_INFO, f"source {database!r} is not known", "prepare the folder again")
    return database


def _parquet_files(folder: Path, source: str) -> list[Path]:
    files = sorted((folder / "data").glob("*-*-of-*.parquet"))
    if not files or not (folder / CARD).is_file():
        raise InputError(source, f"lacks data/*.parquet or {CARD}", "make it again by `lung-srad prepare`")
    for file in files:
        with open(file, "rb") as opened:
            start = opened.read(len(PARQUET_MAGIC))
            opened.seek(-min(len(PARQUET_MAGIC), file.stat().st_size), 2)
            if start != PARQUET_MAGIC or opened.read() != PARQUET_MAGIC:
                raise InputError(file, "is not a whole Parquet file", "make the folder again by `lung-srad prepare`")
    return files
