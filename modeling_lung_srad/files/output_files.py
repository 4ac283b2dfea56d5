"""Writes results so that an interrupted or failed run never leaves half of one or damages an existing one."""

import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout
from safetensors import SafetensorError

from ..errors import InputError, one_line


def check_output(path: str | os.PathLike, inputs: Iterable[Path] = ()) -> None:
    """
    Checks before any work is done that a file can be written.

    Args:
        path (`str` or `os.PathLike`): where a result will be written.
        inputs (iterable of `Path`): files that must not be overwritten.

    Raises:
        InputError: where the path is a folder, is one of `inputs`, or its folder is missing or not writable.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(path, "is a folder", "name a file in it")
    if path.exists() and not path.is_file():
        return
    if not path.parent.is_dir():
        raise InputError(path, f"its folder {path.parent} does not exist", "make it first")
    if not os.access(path.parent, os.W_OK):
        raise InputError(path, f"its folder {path.parent} is not writable", "choose another one")
    if os.path.realpath(path) in map(os.path.realpath, inputs):
        raise InputError(path, "is one of the inputs", "choose another name")


def check_new_folder(path: str | os.PathLike) -> None:
    """
    Checks before any work is done that a folder can be made.

    Raises:
        InputError: where there is something already, or the path is the current folder.
    """
    path = Path(path)
    if path.is_file() or (path.is_dir() and any(path.iterdir())):
        raise InputError(path, "holds something already", "name a new folder")
    if not path.name:
        raise InputError(path, "is the folder that you are in", "name a new folder")


@contextmanager
def writing_to(path: str | os.PathLike) -> Iterator[None]:
    """Raises [`InputError`], which names `path`, in place of an error that names no file, as that of a full disk."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if getattr(error, "filename", None) is not None:
            raise
        reason = getattr(error, "strerror", None) or one_line(error)
        raise InputError(
            path, f"cannot be written ({reason})", "free space on its disk and start the same command again"
        ) from error


@contextmanager
def locked(file: Path, name: object) -> Iterator[None]:
    """
    Holds a lock, which ends with this process at the latest.

    Args:
        file (`Path`): the lock, which is removed in the end.
        name (`object`): what is written to under it.

    Raises:
        InputError: where another process holds it.
    """
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(name, "another run is writing there", "wait until it ends, or name another place") from None
    try:
        yield
    finally:
        # Windows removes no open file; there the lock removes it when it is released.
        with suppress(PermissionError):
            file.unlink(missing_ok=True)
        lock.release()


@contextmanager
def partial_folder(folder: Path, name: str | os.PathLike) -> Iterator[Path]:
    """
    Gives an empty folder for what is moved to its place when it is complete; in the end the folder is removed.

    Args:
        folder (`Path`): the folder; what a killed run left there is removed first.
        name (`str` or `os.PathLike`): where the result goes, for messages.

    Raises:
        InputError: where another process is writing there, or the disk is full.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder.with_name(f"{folder.name}.lock"), name), writing_to(name):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def folder_when_complete(path: str | os.PathLike) -> Iterator[Path]:
    """As [`partial_folder`], in a hidden folder that becomes `path` when the block ends without an error."""
    place = Path(os.path.realpath(path))
    with partial_folder(place.with_name(f".{place.name}.partial"), path) as folder:
        yield folder
        if place.exists():
            place.rmdir()
        folder.rename(place)


@contextmanager
def replaced_when_complete(path: str | os.PathLike) -> Iterator[Path]:
    """
    Gives the path of a temporary file beside `path`, which takes its place when the block ends without an error.

    Where `path` is not a regular file, such as a pipe or `/dev/null`, it is given itself.

    Args:
        path (`str` or `os.PathLike`): the file to write or to replace.

    Yields:
        `Path`: what to write to.

    Raises:
        InputError: where the disk is full.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        with writing_to(path):
            yield path
        return
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        # Temporary files are private; the result gets the permissions of any new or of the replaced file.
        temporary.chmod(path.stat().st_mode if path.exists() else 0o666 & ~_umask())
        with writing_to(path):
            yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
