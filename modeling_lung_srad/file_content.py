"""Files that are read where they are used, like `bytes` but without taking memory.

A file that another program shortens meanwhile is an error; through a memory map, it would end this process. The module
is saved with checkpoints.
"""

import os
from pathlib import Path
from types import TracebackType

from .errors import InputError

SEARCHED_BYTES = 2**16


class FileContent:
    """
    The bytes of a file, as a context manager.

    Args:
        path (`Path`): the file.

    Raises:
        InputError: at the end of the block, where the file became shorter in it, in place of other errors.
    """

    def __init__(self, path: Path):
        self._path = path
        self._file = path.open("rb")
        self._size = os.fstat(self._file.fileno()).st_size

    def __enter__(self) -> "FileContent":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        is_shorter = os.fstat(self._file.fileno()).st_size < self._size
        self._file.close()
        if is_shorter and (error is None or isinstance(error, Exception)):
            raise InputError(self._path, "became shorter while it was read", "copy or export it again") from error

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self._size)
        self._file.seek(start)
        return self._file.read(max(0, stop - start))

    def find(self, sought: bytes, start: int = 0, stop: int | None = None) -> int:
        """As `bytes.find`."""
        stop = self._size if stop is None else min(stop, self._size)
        for first in range(start, stop, SEARCHED_BYTES):
            place = self[first : min(first + SEARCHED_BYTES + len(sought) - 1, stop)].find(sought)
            if place >= 0:
                return first + place
        return -1

    def rfind(self, sought: bytes, start: int = 0, stop: int | None = None) -> int:
        """As `bytes.rfind`."""
        stop = self._size if stop is None else min(stop, self._size)
        for first in reversed(range(start, stop, SEARCHED_BYTES)):
            place = self[first : min(first + SEARCHED_BYTES + len(sought) - 1, stop)].rfind(sought)
            if place >= 0:
                return first + place
        return -1


class FileView:
    """A part of a [`FileContent`], like a `memoryview`."""

    def __init__(self, content: FileContent, start: int, stop: int):
        self._content, self._start, self._stop = content, start, stop

    def __len__(self) -> int:
        return self._stop - self._start

    def __getitem__(self, part: slice) -> "FileView":
        start, stop, _ = part.indices(len(self))
        return FileView(self._content, self._start + start, self._start + max(start, stop))

    def __bytes__(self) -> bytes:
        return self._content[self._start : self._stop]


def view_of(content: bytes | FileContent) -> memoryview | FileView:
    """A view of all bytes; slices of it read nothing."""
    return FileView(content, 0, len(content)) if isinstance(content, FileContent) else memoryview(content)
