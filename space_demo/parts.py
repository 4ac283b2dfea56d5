"""The parts of a recording that can be explained, as texts to choose from."""

from typing import NamedTuple

from modeling_lung_srad.configuration_lung_srad import CLASS_NAMES
from modeling_lung_srad.errors import InputError
from modeling_lung_srad.timeline import RecordingResult


class Part(NamedTuple):
    """A part of a recording, in seconds, and the class to explain there."""

    start: float
    end: float
    label: str


def choices(result: RecordingResult) -> list[tuple[str, str]]:
    """The strongest segment, where there is one, and then each window: text to show, and value for [`parse`]."""
    windows = [
        (Part(segment["start"], segment["end"], segment["label"]), segment["confidence"])
        for segment in result["timeline"]
    ]
    offered = [(_text(part, probability), _value(part)) for part, probability in windows]
    for strongest in result["summary"]["strongest"][:1]:
        times = (strongest["start"], strongest["end"])
        part, probability = next(window for window in windows if window[0][:2] == times)
        offered.insert(0, (f"Strongest: {_text(part, probability)}", f"{_value(part)} strongest"))
    return offered


def parse(value: str | None) -> Part:
    """The part of a value of [`choices`]; raises [`InputError`] for anything else."""
    fields = (value or "").split()
    try:
        part = Part(float(fields[0]), float(fields[1]), fields[2])
    except (IndexError, ValueError):
        part = None
    if part is None or part.label not in CLASS_NAMES or not 0 <= part.start < part.end:
        raise InputError("part", "none was chosen", "classify a recording first, then choose one of its windows")
    return part


def _text(part: Part, probability: float) -> str:
    return f"{part.start:.1f}–{part.end:.1f} s: {part.label} ({probability:.2f})"


def _value(part: Part) -> str:
    return f"{part.start:.6f} {part.end:.6f} {part.label}"
