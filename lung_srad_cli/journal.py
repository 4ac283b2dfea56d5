"""Keeps the results of a long run beside its output until all are there, so that a killed run can go on."""

import contextlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from modeling_lung_srad.errors import InputError
from modeling_lung_srad.files.output_files import locked, writing_to

SUFFIX = ".partial"
HEAD = b'{"settings": '


class Journal:
    """
    Results by key, a line of JSON each, in files beside the output: one for each process that writes.

    A line that was cut off by a kill, or damaged, is left out, and its result is computed again. Only keys and places
    of lines are held in memory.

    Args:
        output (`Path`): the file that the results are for.
        settings (`dict`): the results depend on them; those of a run with other settings are refused.
        process (`int`, *optional*, defaults to 0): number of this process.

    Raises:
        InputError: where there are results of a run with other settings, another run is writing to them, or a file
            of that name is something else.
    """

    def __init__(self, output: Path, settings: dict[str, Any], process: int = 0):
        self.output = output
        self.settings = settings
        self.path = output.with_name(f"{output.name}{SUFFIX}" + (f"-{process}" if process else ""))
        self._places: dict[str, tuple[Path, int]] = {}
        with contextlib.ExitStack() as stack:
            stack.enter_context(locked(self.path.with_name(f"{self.path.name}.lock"), self.path))
            self._recover()
            self.read()
            # Without a buffer, which closing would write to a full disk once more.
            self._file = stack.enter_context(self.path.open("ab", buffering=0))
            if not self._file.tell():
                self._write({"settings": settings})
            self._opened = stack.pop_all()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._opened.close()

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def paths(self) -> list[Path]:
        """The files of all processes."""
        name = re.compile(re.escape(self.output.name + SUFFIX) + r"(-\d+)?")
        return sorted(path for path in self.output.parent.iterdir() if name.fullmatch(path.name))

    def add(self, key: str, result: Any) -> None:
        """Keeps a result; it is on the disk when this returns."""
        place = self._file.tell()
        self._write({"key": key, "result": result})
        self._places[key] = (self.path, place)

    def read(self) -> None:
        """Finds the results that all processes have kept so far."""
        for path in self.paths:
            with path.open("rb") as file:
                place = 0
                for line in file:
                    if place == 0:
                        self._check_head(path, line)
                    record = _parse(line)
                    if "key" in record:
                        self._places[record["key"]] = (path, place)
                    place += len(line)

    def results(self, keys: Iterable[str]) -> Iterator[Any]:
        """Results of `keys`, where there are any, in their order, read from the disk one at a time."""
        for key in keys:
            if key in self._places:
                path, place = self._places[key]
                with path.open("rb") as file:
                    file.seek(place)
                    yield json.loads(file.readline())["result"]

    def remove(self) -> None:
        """Removes the files of all processes."""
        self._file.close()
        for path in self.paths:
            path.unlink()

    def _check_head(self, path: Path, line: bytes) -> None:
        """Raises [`InputError`] where the first line of a file does not name these settings."""
        settings = _parse(line).get("settings")
        if settings is None:
            raise InputError(path, "is not a journal of lung-srad", "move it, or give another --output")
        if settings != json.loads(json.dumps(self.settings)):
            raise InputError(
                path,
                "holds the results of an unfinished run with another checkpoint or other settings",
                "remove it, or give another --output",
            )

    def _recover(self) -> None:
        """Cuts off the end of a line that was being written when the process was killed."""
        content = self.path.read_bytes() if self.path.exists() else b""
        end = content.rfind(b"\n") + 1
        if end == 0 and not content.startswith(HEAD[: len(content)]):
            return
        if end < len(content):
            os.truncate(self.path, end)

    def _write(self, record: dict[str, Any]) -> None:
        line = memoryview(json.dumps(record).encode("utf-8") + b"\n")
        with writing_to(self.path):
            while line:
                line = line[self._file.write(line) :]
            os.fsync(self._file.fileno())


def _parse(line: bytes) -> dict[str, Any]:
    """The record of a line: settings, or a key with its result; an empty one where the line is damaged."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(record, dict) or not line.endswith(b"\n"):
        return {}
    is_result = isinstance(record.get("key"), str) and "result" in record
    return record if is_result or isinstance(record.get("settings"), dict) else {}
