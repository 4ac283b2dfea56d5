"""The files of a repository before they are uploaded: from disk, or made here."""

import os
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from modeling_lung_srad.errors import InputError

OWN_PACKAGES = ("lung_srad_cli", "modeling_lung_srad", "dataset_scripts", "training")


@dataclass(frozen=True)
class RepositoryFile:
    """
    One file of a repository.

    Args:
        path (`str`): its place in the repository, with `/` between folders.
        source (`Path` or `bytes`): the file on disk, or its content.
    """

    path: str
    source: Path | bytes

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.source) if isinstance(self.source, bytes) else self.source.stat().st_size


@dataclass(frozen=True)
class PreparedRepository:
    """
    A repository that is ready to upload.

    Args:
        files (`list[RepositoryFile]`): all files to upload.
        notes (`list[str]`): sentences to show with the list, such as files that were left out.
        how_to_load (`str`): code or a command that uses the published repository.
        try_out (`Callable[[], None]`): last check before the upload; raises [`InputError`] where it fails.
        variables (`dict[str, str | None]`): public environment variables of a Space; `None` for one to remove.
        space_sdk (`str`, *optional*): of a Space, `gradio` or `static`.
    """

    files: list[RepositoryFile]
    notes: list[str]
    how_to_load: str
    try_out: Callable[[], None] = field(default=lambda: None)
    variables: dict[str, str | None] = field(default_factory=dict)
    space_sdk: str | None = None


def read_card(file: Path) -> str:
    """Text of a `README.md`; raises [`InputError`] where it is not text."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(file, "is not UTF-8 text", "save it as UTF-8") from error


def refuse_links_to_outside(files: Iterable[Path], folder: Path) -> None:
    """
    A link out of the folder could publish any file of this machine.

    A snapshot in the cache of the Hub consists of links to files that the cache keeps beside it, in a folder of the
    same model; these may be followed.

    Args:
        files (iterable of `Path`): in the folder.
        folder (`Path`): the folder to publish.

    Raises:
        InputError: naming the first such link.
    """
    allowed = Path(os.path.realpath(folder))
    if allowed.parent.name == "snapshots" and allowed.parents[1].name.startswith("models--"):
        allowed = allowed.parents[1]
    for file in files:
        target = Path(os.path.realpath(file))
        if not target.is_relative_to(allowed):
            raise InputError(file, f"is a link to {target}, outside {folder}", "put a copy in its place")


def place_files(files: Iterable[RepositoryFile], folder: Path) -> None:
    """Makes a folder look as the repository will, with copies that may be changed without harm."""
    for file in files:
        target = folder / file.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(file.source, bytes):
            target.write_bytes(file.source)
        else:
            shutil.copyfile(file.source, target)


def format_size(num_bytes: int) -> str:
    """Bytes as `512 B`, `3.1 kB`, `5.9 MB` or `1.2 GB`."""
    if num_bytes < 1000:
        return f"{num_bytes} B"
    size = num_bytes / 1000
    for unit in ("kB", "MB"):
        if size < 1000:
            return f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def describe_files(files: Iterable[RepositoryFile]) -> list[str]:
    """A line a file, size and path, in the order of paths."""
    return [f"{format_size(file.size):>9}  {file.path}" for file in sorted(files, key=lambda file: file.path)]
