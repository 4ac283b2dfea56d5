"""Writes classified recordings as a table to read, as CSV, JSON or Parquet, one recording after the other."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ..configuration_lung_srad import CLASS_NAMES
from ..errors import printable
from ..timeline import RecordingResult

COLUMNS = ("file", "start", "end", "label", *CLASS_NAMES, "abstained", "flags")
SECONDS_DIGITS = 6
PROBABILITY_DIGITS = 6
FLAG_SEPARATOR = ";"
FORMULA_SIGNS = ("=", "+", "-", "@")


def shown_file(result: RecordingResult) -> str | None:
    """The file of a result as all formats write it; `./` keeps spreadsheets from taking a name for a formula."""
    if result["file"] is None:
        return None
    name = printable(result["file"])
    return f"./{name}" if name.startswith(FORMULA_SIGNS) else name


def csv_text(results: Iterable[RecordingResult], with_reference: bool = False) -> Iterator[str]:
    """
    One row a segment: file, start and end in seconds, class name, the four probabilities, whether the pipeline
    abstained (`true`, `false`) and the names of the quality flags, separated by semicolons.

    Args:
        results (iterable of [`RecordingResult`]): taken one at a time.
        with_reference (`bool`, *optional*, defaults to `False`): whether a column `reference` follows.

    Yields:
        `str`: the header, then the rows of each recording.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, _columns(with_reference), lineterminator="\n")
    writer.writeheader()
    yield _take(buffer)
    for result in results:
        for row in _rows(result, with_reference):
            writer.writerow(row | {"abstained": str(row["abstained"]).lower()})
        yield _take(buffer)


def json_text(results: Iterable[RecordingResult], with_reference: bool = False) -> Iterator[str]:
    """
    A list with one object a recording, the [`RecordingResult`] of the pipeline with rounded numbers.

    Args:
        results (iterable of [`RecordingResult`]): taken one at a time.
        with_reference (`bool`, *optional*, defaults to `False`): ignored; a reference is written where it is given.

    Yields:
        `str`: pieces of one JSON document.
    """
    separator = "["
    for result in results:
        head = {name: value for name, value in result.items() if name != "timeline"} | {"file": shown_file(result)}
        segments = ",\n    ".join(json.dumps(_rounded(segment)) for segment in result["timeline"])
        yield f'{separator}\n  {json.dumps(_rounded(head))[:-1]}, "timeline": [\n    {segments}\n  ]}}'
        separator = ","
    yield "[]\n" if separator == "[" else "\n]\n"


def table_text(results: Iterable[RecordingResult], with_reference: bool = False) -> Iterator[str]:
    """
    For each recording a line that sums it up, a line a segment and a line a quality flag.

    Args:
        results (iterable of [`RecordingResult`]): taken one at a time.
        with_reference (`bool`, *optional*, defaults to `False`): whether the annotated classes are shown.

    Yields:
        `str`: the table of each recording.
    """
    separator = ""
    for result in results:
        yield separator + "\n".join(_table_lines(result, with_reference)) + "\n"
        separator = "\n"


FORMATS: dict[str, Callable[[Iterable[RecordingResult], bool], Iterator[str]]] = {
    "table": table_text,
    "csv": csv_text,
    "json": json_text,
}
PARQUET = "parquet"


def write_parquet(path: Path, results: Iterable[RecordingResult], with_reference: bool = False) -> None:
    """
    The rows of the CSV with their types, a row group a recording. It needs pyarrow.

    Args:
        path (`Path`): the file to write.
        results (iterable of [`RecordingResult`]): taken one at a time.
        with_reference (`bool`, *optional*, defaults to `False`): whether a column `reference` follows.
    """
    import pyarrow
    from pyarrow import parquet

    numbers = ("start", "end", *CLASS_NAMES)
    types = {"abstained": pyarrow.bool_(), "flags": pyarrow.list_(pyarrow.string())}
    types |= dict.fromkeys(numbers, pyarrow.float64())
    schema = pyarrow.schema(
        [pyarrow.field(name, types.get(name, pyarrow.string())) for name in _columns(with_reference)]
    )
    with parquet.ParquetWriter(path, schema) as writer:
        for result in results:
            rows = [
                row | {"flags": segment["flags"]}
                for row, segment in zip(_rows(result, with_reference), result["timeline"], strict=True)
            ]
            writer.write_table(pyarrow.Table.from_pylist(rows, schema=schema))


def write_results(
    path: Path, output_format: str, results: Iterable[RecordingResult], with_reference: bool = False
) -> None:
    """
    Writes a file, each result as soon as it is there.

    Args:
        path (`Path`): the file, pipe or device.
        output_format (`str`): a key of `FORMATS`, or `PARQUET`.
        results (iterable of [`RecordingResult`]): taken one at a time.
        with_reference (`bool`, *optional*, defaults to `False`): as in the functions of the formats.
    """
    if output_format == PARQUET:
        write_parquet(path, results, with_reference)
        return
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        for piece in FORMATS[output_format](results, with_reference):
            file.write(piece)
            file.flush()


def _columns(with_reference: bool) -> list[str]:
    return [*COLUMNS, "reference"] if with_reference else list(COLUMNS)


def _rows(result: RecordingResult, with_reference: bool) -> Iterator[dict[str, Any]]:
    for segment in result["timeline"]:
        row = {
            "file": shown_file(result) or "",
            "start": round(segment["start"], SECONDS_DIGITS),
            "end": round(segment["end"], SECONDS_DIGITS),
            "label": segment["label"],
            **{name: round(value, PROBABILITY_DIGITS) for name, value in segment["probabilities"].items()},
            "abstained": segment["abstained"],
            "flags": FLAG_SEPARATOR.join(segment["flags"]),
        }
        yield row | {"reference": segment.get("reference")} if with_reference else row


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, SECONDS_DIGITS)
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def _table_lines(result: RecordingResult, with_reference: bool) -> Iterator[str]:
    timeline = result["timeline"]
    yield _head(result, with_reference)
    header = f"{'start':>9} {'end':>9}  {'label':<8}" + "".join(f" {name:>8}" for name in CLASS_NAMES)
    yield header + ("  reference" if with_reference else "")
    for segment in timeline:
        label = segment["label"] + ("?" if segment["abstained"] else "")
        line = f"{segment['start']:9.3f} {segment['end']:9.3f}  {label:<8}"
        line += "".join(f" {value:8.3f}" for value in segment["probabilities"].values())
        yield line + (f"  {segment.get('reference') or ''}" if with_reference else "")
    if any(segment["abstained"] for segment in timeline):
        yield "  ?: not sure enough to answer (--min-confidence), or nothing to hear"
    for flag in result["quality"]:
        yield f"  {flag['flag'].replace('_', ' ')}: {flag['message']}"


def _head(result: RecordingResult, with_reference: bool) -> str:
    timeline, summary = result["timeline"], result["summary"]
    counts = Counter(segment["label"] for segment in timeline if not segment["abstained"])
    parts = [f"{counts[name]} {name}" for name in CLASS_NAMES if counts[name]]
    if abstained := sum(segment["abstained"] for segment in timeline):
        parts.append(f"{abstained} unsure")
    unit = ("cycle" if result["cycles_given"] else "window") + ("" if len(timeline) == 1 else "s")
    line = (
        f"{shown_file(result) or 'recording'}: {result['duration']:.1f} s, {len(timeline)} {unit}: {', '.join(parts)}"
    )
    line += f"; crackle in {summary['crackle_share']:.0%}, wheeze in {summary['wheeze_share']:.0%} of the time"
    if with_reference:
        matches = sum(segment["label"] == segment.get("reference") for segment in timeline)
        line += f"; {matches} of {len(timeline)} as annotated"
    return line


def _take(buffer: io.StringIO) -> str:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text
