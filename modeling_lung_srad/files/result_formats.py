"""Writes classified recordings as a table to read, CSV, JSON, Parquet or labels, one recording after the other."""

import csv
import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..audio import SAMPLING_RATE
from ..configuration_lung_srad import CLASS_NAMES
from ..errors import printable
from ..timeline import RecordingResult, why_no_answer

COLUMNS = ("file", "start", "end", "label", *CLASS_NAMES, "abstained", "flags")
SUMMARY_COLUMNS = (
    "file", "duration", "sampling_rate", "label", "crackle_share", "wheeze_share", "abstained_share", "flags",
)  # fmt: skip
RAVEN_COLUMNS = (
    "Selection", "View", "Channel", "Begin Time (s)", "End Time (s)", "Low Freq (Hz)", "High Freq (Hz)", "Begin File",
    "Label", "Probability",
)  # fmt: skip
SECONDS_DIGITS = 6
PROBABILITY_DIGITS = 6
FLAG_SEPARATOR = ";"
FORMULA_SIGNS = ("=", "+", "-", "@")
# By this sign at the beginning, Excel knows that a CSV file is UTF-8.
BYTE_ORDER_MARK = "\ufeff"


class Layout(NamedTuple):
    """
    The choice of rows and columns.

    Args:
        with_reference (`bool`, *optional*, defaults to `False`): whether annotated classes are.
        summary (`bool`, *optional*, defaults to `False`): whether a recording gets one row in place of its segments.
        byte_order_mark (`bool`, *optional*, defaults to `False`): whether CSV begins with one, for Excel.
    """

    with_reference: bool = False
    summary: bool = False
    byte_order_mark: bool = False


SEGMENTS = Layout()


def shown_file(result: RecordingResult) -> str | None:
    """The file of a result as all formats write it; `./` keeps spreadsheets from taking a name for a formula."""
    if result["file"] is None:
        return None
    name = printable(result["file"])
    return f"./{name}" if name.startswith(FORMULA_SIGNS) else name


def csv_text(results: Iterable[RecordingResult], layout: Layout = SEGMENTS) -> Iterator[str]:
    """
    One row a segment: file, start and end in seconds, class name, the four probabilities, whether the pipeline
    abstained (`true`, `false`) and the names of the quality flags, separated by semicolons; or one row a recording.

    Args:
        results (iterable of [`RecordingResult`]): taken one at a time.
        layout ([`Layout`], *optional*): with annotated classes a column `reference` follows.

    Yields:
        `str`: the header, then the rows of each recording.
    """
    buffer = io.StringIO(BYTE_ORDER_MARK if layout.byte_order_mark else "")
    buffer.seek(0, io.SEEK_END)
    writer = csv.DictWriter(buffer, _columns(layout), lineterminator="\n")
    writer.writeheader()
    yield _take(buffer)
    for result in results:
        for row in _rows(result, layout):
            if "abstained" in row:
                row["abstained"] = str(row["abstained"]).lower()
            writer.writerow(row | {"flags": FLAG_SEPARATOR.join(row["flags"])})
        yield _take(buffer)


def json_text(results: Iterable[RecordingResult], layout: Layout = SEGMENTS) -> Iterator[str]:
    """
    A list with one object a recording, the [`RecordingResult`] of the pipeline with rounded numbers.

    Args:
        results (iterable of [`RecordingResult`]): taken one at a time.
        layout ([`Layout`], *optional*): a summary leaves the timeline out; a reference is written where it is given.

    Yields:
        `str`: pieces of one JSON document.
    """
    separator = "["
    for result in results:
        head = {name: value for name, value in result.items() if name != "timeline"} | {"file": shown_file(result)}
        text = json.dumps(_rounded(head))
        if not layout.summary:
            segments = ",\n    ".join(json.dumps(_rounded(segment)) for segment in result["timeline"])
            text = f'{text[:-1]}, "timeline": [\n    {segments}\n  ]}}'
        yield f"{separator}\n  {text}"
        separator = ","
    yield "[]\n" if separator == "[" else "\n]\n"


def table_text(results: Iterable[RecordingResult], layout: Layout = SEGMENTS) -> Iterator[str]:
    """
    For each recording a line that sums it up, a line a segment and a line a quality flag; a summary is the first line.

    Args:
        results (iterable of [`RecordingResult`]): taken one at a time.
        layout ([`Layout`], *optional*): what is shown.

    Yields:
        `str`: the table of each recording.
    """
    separator = ""
    for result in results:
        if layout.summary:
            yield f"{_head(result, layout.with_reference)}\n"
            continue
        yield separator + "\n".join(_table_lines(result, layout.with_reference)) + "\n"
        separator = "\n"


def audacity_text(results: Iterable[RecordingResult], layout: Layout = SEGMENTS) -> Iterator[str]:
    """
    The label track of Audacity for one recording: start, end and class of each segment, `?` where it was abstained
    from.

    Args:
        results (iterable of [`RecordingResult`]): of one recording.
        layout ([`Layout`], *optional*): not used.

    Yields:
        `str`: its labels.
    """
    for result in results:
        for segment in result["timeline"]:
            doubt = "?" if segment["abstained"] else ""
            yield f"{segment['start']:.6f}\t{segment['end']:.6f}\t{segment['label']}{doubt}\n"


def raven_text(results: Iterable[RecordingResult], layout: Layout = SEGMENTS) -> Iterator[str]:
    """
    A selection table of Raven: a row a segment, over all frequencies that the recording has up to 8 kHz.

    Args:
        results (iterable of [`RecordingResult`]): taken one at a time.
        layout ([`Layout`], *optional*): not used.

    Yields:
        `str`: the header, then the rows of each recording.
    """
    yield "\t".join(RAVEN_COLUMNS) + "\n"
    selection = 0
    for result in results:
        highest = min(result["sampling_rate"], SAMPLING_RATE) / 2
        file = Path(shown_file(result) or "").name
        for segment in result["timeline"]:
            selection += 1
            label = segment["label"] + ("?" if segment["abstained"] else "")
            times = f"{segment['start']:.6f}\t{segment['end']:.6f}"
            yield (
                f"{selection}\tSpectrogram 1\t1\t{times}\t0.0\t{highest:.1f}\t{file}\t{label}\t"
                f"{segment['confidence']:.6f}\n"
            )


FORMATS: dict[str, Callable[[Iterable[RecordingResult], Layout], Iterator[str]]] = {
    "table": table_text,
    "csv": csv_text,
    "json": json_text,
    "audacity": audacity_text,
    "raven": raven_text,
}
PARQUET = "parquet"
# Formats that the suffix of a file chooses.
SUFFIXES = {".csv": "csv", ".json": "json", ".parquet": PARQUET, ".txt": "table"}


def write_parquet(path: Path, results: Iterable[RecordingResult], layout: Layout = SEGMENTS) -> None:
    """
    The rows of the CSV with their types, a row group a recording. It needs pyarrow.

    Args:
        path (`Path`): the file to write.
        results (iterable of [`RecordingResult`]): taken one at a time.
        layout ([`Layout`], *optional*): what is written.
    """
    import pyarrow
    from pyarrow import parquet

    types = dict.fromkeys((*CLASS_NAMES, *SUMMARY_COLUMNS, "start", "end"), pyarrow.float64())
    types |= dict.fromkeys(("file", "label"), pyarrow.string()) | {"sampling_rate": pyarrow.int64()}
    types |= {"abstained": pyarrow.bool_(), "flags": pyarrow.list_(pyarrow.string())}
    schema = pyarrow.schema([pyarrow.field(name, types.get(name, pyarrow.string())) for name in _columns(layout)])
    with parquet.ParquetWriter(path, schema) as writer:
        for result in results:
            writer.write_table(pyarrow.Table.from_pylist(list(_rows(result, layout)), schema=schema))


def write_results(
    path: Path, output_format: str, results: Iterable[RecordingResult], layout: Layout = SEGMENTS
) -> None:
    """
    Writes a file, each result as soon as it is there.

    Args:
        path (`Path`): the file, pipe or device.
        output_format (`str`): a key of `FORMATS`, or `PARQUET`.
        results (iterable of [`RecordingResult`]): taken one at a time.
        layout ([`Layout`], *optional*): what is written.
    """
    if output_format == PARQUET:
        write_parquet(path, results, layout)
        return
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        for piece in FORMATS[output_format](results, layout):
            file.write(piece)
            file.flush()


def _columns(layout: Layout) -> list[str]:
    if layout.summary:
        return list(SUMMARY_COLUMNS)
    return [*COLUMNS, "reference"] if layout.with_reference else list(COLUMNS)


def _rows(result: RecordingResult, layout: Layout) -> Iterator[dict[str, Any]]:
    file = shown_file(result) or ""
    if layout.summary:
        summary = {name: value for name, value in result["summary"].items() if name != "strongest"}
        row = {"file": file, "duration": result["duration"], "sampling_rate": result["sampling_rate"], **summary}
        yield _rounded(row) | {"flags": [flag["flag"] for flag in result["quality"]]}
        return
    for segment in result["timeline"]:
        row = {
            "file": file,
            "start": round(segment["start"], SECONDS_DIGITS),
            "end": round(segment["end"], SECONDS_DIGITS),
            "label": segment["label"],
            **{name: round(value, PROBABILITY_DIGITS) for name, value in segment["probabilities"].items()},
            "abstained": segment["abstained"],
            "flags": segment["flags"],
        }
        yield row | {"reference": segment.get("reference")} if layout.with_reference else row


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
    reason = why_no_answer(timeline)
    if reason is None:
        line += f"; crackle in {summary['crackle_share']:.0%}, wheeze in {summary['wheeze_share']:.0%} of the time"
    else:
        line += f"; no answer: {reason}"
    if with_reference:
        matches = sum(segment["label"] == segment.get("reference") for segment in timeline)
        line += f"; {matches} of {len(timeline)} as annotated"
    return line


def _take(buffer: io.StringIO) -> str:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text
