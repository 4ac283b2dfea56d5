"""Breathing cycles: the annotation files of ICBHI 2017, and the way from a recording to the waveform of a cycle."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from modeling_lung_srad.audio import MIN_SECONDS, SAMPLING_RATE, decode_audio, read_audio
from modeling_lung_srad.configuration_lung_srad import CLASS_NAMES
from modeling_lung_srad.errors import InputError, shortened
from modeling_lung_srad.recording import cut_cycle, fade_recording

ANNOTATION_COLUMNS = ("start", "end", "crackle", "wheeze")
# Annotated ends are rounded to milliseconds and some recordings end a little before their last one.
END_TOLERANCE_SECONDS = 0.05
# Longer than any recording, and few enough that no number of samples overflows.
MOST_SECONDS = 1e9
RECORDINGS_IN_MEMORY = 4
NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?|[+-]?(nan|inf)", re.IGNORECASE)
# Columns of a selection table of Raven, in lower case: times, and what may have the label.
RAVEN_TIMES = ("begin time (s)", "end time (s)")
RAVEN_LABELS = ("label", "annotation", "species", "type", "notes")


@dataclass(frozen=True)
class Cycle:
    """
    One annotated breathing cycle of a recording.

    Args:
        start (`float`): seconds from the beginning of the recording.
        end (`float`): seconds from the beginning of the recording.
        label (`int`, *optional*): index into `CLASS_NAMES`; `None` if unknown.
    """

    start: float
    end: float
    label: int | None = None


def class_label(crackle: bool, wheeze: bool) -> int:
    """Class of a cycle by its sounds, an index into `CLASS_NAMES`."""
    return int(crackle) + 2 * int(wheeze)


def read_annotations(
    path: str | os.PathLike, duration: float | None = None, end_tolerance: float = END_TOLERANCE_SECONDS
) -> list[Cycle]:
    """
    Reads an ICBHI 2017 annotation file: one cycle a line, `start<TAB>end<TAB>crackle<TAB>wheeze`, seconds and 0 or 1.

    Label tracks of Audacity (`start<TAB>end<TAB>label`) and selection tables of Raven are read as well, see
    [`label_by_words`].

    Args:
        path (`str` or `os.PathLike`): the annotation file.
        duration (`float`, *optional*):
            seconds of the recording, where the last cycle is cut if it ends later.
        end_tolerance (`float`, *optional*, defaults to 0.05):
            seconds that a cycle may end after the recording; more is an error.

    Returns:
        `list[Cycle]`: the cycles in the order of the file.

    Raises:
        InputError: naming file, line and field, where the file or one of its values cannot be used.
    """
    cycles: list[Cycle] = []
    line_of_span: dict[tuple[float, float], int] = {}
    lines = _read_text(path).splitlines()
    columns = _raven_columns(lines, path)
    for number, line in enumerate(lines, start=1):
        # In Audacity's label tracks, a line that begins with a backslash has the frequencies of the one before.
        if not line.strip() or line.startswith("\\") or (columns and number == 1):
            continue
        cycle = _parse_cycle(line, columns, f"{path}: line {number}", duration, end_tolerance)
        first = line_of_span.setdefault((cycle.start, cycle.end), number)
        if first != number:
            # In a table of Raven, a selection has a row for each view of it.
            if columns:
                continue
            raise InputError(path, f"line {number}: has the times of line {first}", "remove one of the two")
        cycles.append(cycle)
    if not cycles:
        raise InputError(path, "contains no cycles", "write one line a cycle: start, end, crackle, wheeze")
    return cycles


def check_length(start: float, end: float, where: str) -> None:
    """Raises `InputError`, beginning with `where`, for a cycle too short for one frame of the features."""
    if int(end * SAMPLING_RATE) - int(start * SAMPLING_RATE) < round(MIN_SECONDS * SAMPLING_RATE):
        raise InputError(
            where,
            f"{1000 * (end - start):.0f} ms from {start:g} s to {end:g} s in the recording are too short",
            f"at least {1000 * MIN_SECONDS:.0f} ms are needed, correct the times or remove the cycle",
        )


def check_named(data_dir: str | os.PathLike) -> None:
    """Raises `InputError` for an empty path, which would otherwise be the current folder."""
    if not os.fspath(data_dir):
        raise InputError("data_dir", "is empty", "name a folder, or '.' for the current one")


def write_annotations(path: str | os.PathLike, cycles: Iterable[Cycle]) -> None:
    """
    Writes cycles in the format that [`read_annotations`] reads; times are rounded to milliseconds.

    Raises:
        InputError: where a cycle lacks a label.
    """
    lines = []
    for cycle in cycles:
        if cycle.label is None:
            raise InputError(path, f"the cycle at {cycle.start} s lacks a label", f"give it one of {CLASS_NAMES}")
        crackle, wheeze = cycle.label & 1, cycle.label >> 1
        lines.append(f"{cycle.start:.3f}\t{cycle.end:.3f}\t{crackle}\t{wheeze}\n")
    Path(path).write_text("".join(lines), encoding="utf-8")


def decode_cycle(path: str | os.PathLike, start: float, end: float, sampling_rate: int = SAMPLING_RATE) -> np.ndarray:
    """
    Waveform of one cycle: the whole recording is read, resampled and faded, then the cycle is cut out.

    The last few recordings are kept in memory, since the cycles of one are usually asked for in a row.

    Args:
        path (`str` or `os.PathLike`): audio file of the recording.
        start (`float`): seconds.
        end (`float`): seconds.
        sampling_rate (`int`, *optional*, defaults to 16000): rate in Hz of the result.

    Returns:
        `np.ndarray`: float32 waveform of shape `(samples,)`.

    Raises:
        InputError: where the file cannot be read;
            where the cycle lies outside of the recording.
    """
    file = Path(path)
    stamp = (file.stat().st_size, file.stat().st_mtime_ns) if file.exists() else None
    recording = _faded_recording(str(path), stamp, sampling_rate)
    try:
        return cut_cycle(recording, sampling_rate, start, end)
    except InputError as error:
        raise error.within(path) from None


def decode_embedded_cycle(data: bytes, name: str, sampling_rate: int = SAMPLING_RATE) -> np.ndarray:
    """
    Waveform of a cycle that was stored by itself, faded and cut already.

    Args:
        data (`bytes`): content of an audio file.
        name (`str`): its name in error messages.
        sampling_rate (`int`, *optional*, defaults to 16000): rate in Hz of the result.

    Returns:
        `np.ndarray`: float32 waveform of shape `(samples,)`.
    """
    return decode_audio(data, name, sampling_rate, allow_silence=True)


@lru_cache(maxsize=RECORDINGS_IN_MEMORY)
def _faded_recording(path: str, stamp: tuple[int, int] | None, sampling_rate: int) -> np.ndarray:
    """`stamp` (size and time of the file) is there to forget a recording that was changed."""
    return fade_recording(read_audio(path, sampling_rate, allow_silence=True), sampling_rate)


def _read_text(path: str | os.PathLike) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(path, "no such file", "check the path") from None
    except IsADirectoryError:
        raise InputError(path, "is a folder", "name an annotation file") from None
    except UnicodeDecodeError:
        raise InputError(path, "is not UTF-8 text", "save it as plain text") from None
    except OSError as error:
        raise InputError(path, f"cannot be opened ({error.strerror})", "check its permissions") from error


def _raven_columns(lines: list[str], path: str | os.PathLike) -> dict[str, int]:
    """Places of the columns of a selection table of Raven, by their names in lower case; none for other files."""
    names = [name.strip().lower() for name in lines[0].split("\t")] if lines else []
    missing = [name for name in RAVEN_TIMES if name not in names]
    if len(missing) == len(RAVEN_TIMES):
        return {}
    if missing:
        raise InputError(path, f"line 1: lacks the column {missing[0]!r} of Raven", "save the table with it")
    return {name: place for place, name in enumerate(names)}


def _parse_cycle(
    line: str, columns: dict[str, int], where: str, duration: float | None, end_tolerance: float
) -> Cycle:
    fields = line.rstrip("\r\n").split("\t")
    if columns:
        fields = _fields_of_raven(fields, columns, where)
    is_label = bool(columns) or (len(fields) == 3 and fields[2].strip() not in ("0", "1"))
    if not is_label and len(fields) < len(ANNOTATION_COLUMNS):
        raise InputError(where, _describe_columns(line, fields))
    if len(fields) > len(ANNOTATION_COLUMNS) and any(field.strip() for field in fields[len(ANNOTATION_COLUMNS) :]):
        raise InputError(where, f"has {len(fields)} columns", "keep start, end, crackle, wheeze")
    start, end = (_parse_seconds(fields[column], f"{where}: {ANNOTATION_COLUMNS[column]}") for column in (0, 1))
    if is_label:
        label = label_by_words(fields[2])
    else:
        flags = (_parse_flag(fields[column], f"{where}: {ANNOTATION_COLUMNS[column]}") for column in (2, 3))
        label = class_label(*flags)
    if end <= start:
        raise InputError(where, f"end {end:g} s is not after start {start:g} s", "correct the times")
    if duration is not None:
        if end > duration + end_tolerance or start >= duration:
            raise InputError(
                where, f"end {end:g} s is beyond the recording of {duration:.3f} s", "correct the times or the file"
            )
        end = min(end, duration)
    check_length(start, end, where)
    return Cycle(start, end, label)


def _fields_of_raven(fields: list[str], columns: dict[str, int], where: str) -> list[str]:
    """Begin, end and label of a row."""
    places = [columns[name] for name in RAVEN_TIMES]
    if len(fields) <= max(places):
        raise InputError(where, f"has {len(fields)} of {len(columns)} columns", "save the table again by Raven")
    noted = next((columns[name] for name in RAVEN_LABELS if name in columns), len(fields))
    return [*(fields[place] for place in places), fields[noted] if noted < len(fields) else ""]


def label_by_words(text: str) -> int | None:
    """
    Class that a label in words names, an index into `CLASS_NAMES`; `None` for other words.

    Example:

    ```python
    >>> [label_by_words(text) for text in ("Fine crackles", "wheeze?", "both", "normal", "cough")]
    [1, 2, 3, 0, None]

    ```"""
    words = text.lower()
    label = class_label("crackle" in words or "both" in words, "wheez" in words or "both" in words)
    return label if label or "normal" in words else None


def _describe_columns(line: str, fields: list[str]) -> str:
    for separator, name in ((",", "commas"), (";", "semicolons"), (None, "spaces")):
        if len(line.split(separator)) >= len(ANNOTATION_COLUMNS):
            return f"columns are separated by {name}; separate them by tabs"
    missing = ", ".join(ANNOTATION_COLUMNS[len(fields) :])
    return f"has {len(fields)} of 4 columns, {missing} missing; write start, end, crackle, wheeze separated by tabs"


def _parse_seconds(field: str, where: str) -> float:
    # `float` also takes the digits of other scripts and underscores, but not all white space that `strip` removes.
    number = field.strip()
    if not NUMBER.fullmatch(number):
        raise InputError(where, f"{shortened(field)} is not a number", "give seconds, such as 1.25")
    seconds = float(number)
    if not 0 <= seconds <= MOST_SECONDS:
        raise InputError(where, f"{shortened(field)} is not a time", "give seconds from 0 on")
    return seconds


def _parse_flag(field: str, where: str) -> bool:
    if field.strip() not in ("0", "1"):
        raise InputError(where, f"{shortened(field)} is not 0 or 1", "give 0 (absent) or 1 (present)")
    return field.strip() == "1"
