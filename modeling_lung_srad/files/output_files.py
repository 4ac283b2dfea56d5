"""Writes result files so that an interrupted or failed run never leaves half a file or damages an existing one."""

import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ..errors import InputError


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


@contextmanager
def replaced_when_complete(path: str | os.PathLike) -> Iterator[Path]:
    """
    Gives the path of a temporary file beside `path`, which takes its place when the block ends without an error.

    Where `path` is not a regular file, such as a pipe or `/dev/null`, it is given itself.

    Args:
        path (`str` or `os.PathLike`): the file to write or to replace.

    Yields:
        `Path`: what to write to.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        yield path
        return
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        # Temporary files are private; the result gets the permissions of any new or of the replaced file.
        temporary.chmod(path.stat().st_mode if path.exists() else 0o666 & ~_umask())
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
