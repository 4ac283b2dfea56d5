"""Writes classified recordings as a table to read, as CSV or as JSON, a piece of text per recording."""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator

from .classify import ClassifiedCycle, ClassifiedRecording
from .configuration_lung_srad import CLASS_NAMES

CSV_COLUMNS = ("file", "start", "end", "label", *CLASS_NAMES)
SECONDS_DIGITS = 6
PROBABILITY_DIGITS = 6


def csv_text(recordings: Iterable[ClassifiedRecording], with_reference: bool = False) -> Iterator[str]:
    """
    One row a cycle: file, start and end in seconds, class name, the four probabilities.

    Args:
        recordings (iterable of [`ClassifiedRecording`]): taken one at a time.
        with_reference (`bool`, *optional*, defaults to `False`): whether a column `reference` follows.

    Yields:
        `str`: the header, then the rows of each recording.
    """
    columns = [*CSV_COLUMNS, "reference"] if with_reference else list(CSV_COLUMNS)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    yield _take(buffer)
    for recording in recordings:
        writer.writerows({"file": recording.file} | _record(cycle, with_reference) for cycle in recording.cycles)
        yield _take(buffer)


def json_text(recordings: Iterable[ClassifiedRecording], with_reference: bool = False) -> Iterator[str]:
    """
    A list with one object a recording: `file`, `duration` in seconds and `cycles`, a list of objects with the keys of
    the CSV columns.

    Args:
        recordings (iterable of [`ClassifiedRecording`]): taken one at a time.
        with_reference (`bool`, *optional*, defaults to `False`): whether the cycles have a key `reference`.

    Yields:
        `str`: pieces of one JSON document.
    """
    separator = "["
    for recording in recordings:
        head = json.dumps({"file": recording.file, "duration": round(recording.duration, SECONDS_DIGITS)})
        cycles = ",\n    ".join(json.dumps(_record(cycle, with_reference)) for cycle in recording.cycles)
        yield f'{separator}\n  {head[:-1]}, "cycles": [\n    {cycles}\n  ]}}'
        separator = ","
    yield "[]\n" if separator == "[" else "\n]\n"


def table_text(recordings: Iterable[ClassifiedRecording], with_reference: bool = False) -> Iterator[str]:
    """
    For each recording a line that sums it up, then a line a cycle.

    Args:
        recordings (iterable of [`ClassifiedRecording`]): taken one at a time.
        with_reference (`bool`, *optional*, defaults to `False`): whether the annotated classes are shown.

    Yields:
        `str`: the table of each recording.
    """
    separator = ""
    for recording in recordings:
        yield separator + "\n".join(_table_lines(recording, with_reference)) + "\n"
        separator = "\n"


FORMATS: dict[str, Callable[[Iterable[ClassifiedRecording], bool], Iterator[str]]] = {
    "table": table_text,
    "csv": csv_text,
    "json": json_text,
}


def _record(cycle: ClassifiedCycle, with_reference: bool) -> dict[str, float | str | None]:
    record: dict[str, float | str | None] = {
        "start": round(cycle.start, SECONDS_DIGITS),
        "end": round(cycle.end, SECONDS_DIGITS),
        "label": cycle.label,
    }
    record |= {
        name: round(value, PROBABILITY_DIGITS) for name, value in zip(CLASS_NAMES, cycle.probabilities, strict=True)
    }
    return record | {"reference": cycle.reference} if with_reference else record


def _table_lines(recording: ClassifiedRecording, with_reference: bool) -> Iterator[str]:
    counts = ", ".join(f"{count} {name}" for name, count in recording.label_counts.items())
    unit = ("cycle" if with_reference else "window") + ("" if len(recording.cycles) == 1 else "s")
    summary = f"{recording.file}: {recording.duration:.1f} s, {len(recording.cycles)} {unit}: {counts}"
    header = f"{'start':>9} {'end':>9}  {'label':<7}" + "".join(f" {name:>8}" for name in CLASS_NAMES)
    if with_reference:
        matches = sum(cycle.label == cycle.reference for cycle in recording.cycles)
        summary += f"; {matches} of {len(recording.cycles)} as annotated"
        header += "  reference"
    yield summary
    yield header
    for cycle in recording.cycles:
        line = f"{cycle.start:9.3f} {cycle.end:9.3f}  {cycle.label:<7}"
        line += "".join(f" {value:8.3f}" for value in cycle.probabilities)
        yield line + (f"  {cycle.reference or ''}" if with_reference else "")


def _take(buffer: io.StringIO) -> str:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text
