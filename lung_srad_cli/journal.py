"""Keeps the results of a long run beside its output until all are there, so that a killed run can go on."""

import glob
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from modeling_lung_srad.output_files import OutputError

SUFFIX = ".partial"


class Journal:
    """
    Results by key, a line of JSON each, in files beside the output: one for each process that writes.

    A line that was cut off by a kill is left out, and its result is computed again. Only keys and places of lines are
    held in memory.

    Args:
        output (`Path`): the file that the results are for.
        settings (`dict`): what the results depend on; those of a run with other settings are refused.
        process (`int`, *optional*, defaults to 0): number of this process.

    Raises:
        OutputError: where there are results of a run with other settings.
    """

    def __init__(self, output: Path, settings: dict[str, Any], process: int = 0):
        self.output = output
        self.settings = settings
        self.path = output.with_name(f"{output.name}{SUFFIX}" + (f"-{process}" if process else ""))
        self._places: dict[str, tuple[Path, int]] = {}
        self.read()
        self._file = self.path.open("ab")
        if not self._file.tell():
            self._write({"settings": settings})

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._file.close()

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __len__(self) -> int:
        return len(self._places)

    @property
    def paths(self) -> list[Path]:
        """The files of all processes."""
        name = glob.escape(self.output.name + SUFFIX)
        return sorted(path for pattern in (name, f"{name}-*") for path in self.output.parent.glob(pattern))

    def add(self, key: str, result: Any) -> None:
        """Keeps a result; it is on the disk when this returns."""
        place = self._file.tell()
        self._write({"key": key, "result": result})
        self._places[key] = (self.path, place)

    def read(self) -> None:
        """Finds the results that all processes have kept so far."""
        for path in self.paths:
            with path.open("rb") as file:
                end = 0
                for line in file:
                    record = _parse(line)
                    if record is None:
                        break
                    if end == 0 and record.get("settings") != json.loads(json.dumps(self.settings)):
                        raise OutputError(
                            f"{path}: holds the results of an unfinished run with another checkpoint or other "
                            "settings; remove it, or give another --output"
                        )
                    if "key" in record:
                        self._places[record["key"]] = (path, end)
                    end += len(line)
            if path == self.path and end < path.stat().st_size:
                os.truncate(path, end)

    def results(self, keys: Iterable[str]) -> Iterator[Any]:
        """The results of those of `keys` that have one, in their order, read from the disk one at a time."""
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

    def _write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record).encode("utf-8") + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())


def _parse(line: bytes) -> dict[str, Any] | None:
    """The record of a whole line."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None
