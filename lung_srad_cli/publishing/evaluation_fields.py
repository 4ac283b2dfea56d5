"""Checks the fields of an evaluation report before its figures stand on a card: anyone may have edited it."""

from collections.abc import Callable
from typing import Any

from modeling_lung_srad.configuration_lung_srad import CLASS_NAMES
from training.metrics.icbhi_score.icbhi_measure import RATES

Check = Callable[[Any], bool]
NUM_CLASSES = len(CLASS_NAMES)


def wrong_field(report: Any) -> str | None:
    """
    Looks for a field that is missing or of another kind than `training.report.figures.build_report` makes it.

    Args:
        report: content of `evaluation.json`.

    Returns:
        `str` or `None`: `field: problem` for the first such field.
    """
    if not isinstance(report, dict):
        return "the report: is not a mapping"
    for fields, may_lack in ((NEEDED, False), (OPTIONAL, True)):
        for name, (wanted, holds) in fields.items():
            if name not in report and not may_lack:
                return f"{name}: is missing"
            if not holds(report.get(name)):
                return f"{name}: is not {wanted}"
    return None


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_line(value: Any) -> bool:
    # It goes into the card, where a line break would end a table or a sentence.
    return isinstance(value, str) and value.isprintable() and bool(value)


def _is_count(value: Any) -> bool:
    # A bool is an int for isinstance.
    return type(value) is int and value >= 0


def _is_share(value: Any) -> bool:
    # NaN, which JSON of Python may hold, is not between anything.
    return type(value) in (int, float) and 0 <= value <= 1


def _is_device(value: Any) -> bool:
    return isinstance(value, dict) and _is_count(value.get("cycles"))


def _or_null(holds: Check) -> Check:
    return lambda value: value is None or holds(value)


def _list(holds: Check, length: int | None = None) -> Check:
    return lambda value: isinstance(value, list) and length in (None, len(value)) and all(map(holds, value))


def _are_intervals(value: Any) -> bool:
    interval = _or_null(_list(_is_share, 2))
    return isinstance(value, dict) and all(rate in value and interval(value[rate]) for rate in RATES)


def _are_subgroups(value: Any) -> bool:
    devices = value.get("device") if isinstance(value, dict) else value
    return devices is None or (
        isinstance(devices, dict) and all(map(_is_line, devices)) and all(map(_is_device, devices.values()))
    )


# Conditions by field, in words and as a check.
Fields = dict[str, tuple[str, Check]]
NEEDED: Fields = {
    "part": ("a line of text", _is_line),
    "data_notes": ("a list of lines of text", _list(_is_line)),
    **dict.fromkeys(("cycles", "recordings", "patients"), ("a whole number from 0 on", _is_count)),
    "confusion_matrix": ("four rows of four whole numbers", _list(_list(_is_count, NUM_CLASSES), NUM_CLASSES)),
    **dict.fromkeys(RATES, ("a share from 0 to 1 or null", _or_null(_is_share))),
    "intervals_95": ("two shares from 0 to 1, or null, for every rate", _are_intervals),
}
OPTIONAL: Fields = {
    "checkpoint": ("a path", _or_null(_is_text)),
    **dict.fromkeys(("split", "selection"), ("a line of text", _or_null(_is_line))),
    "subgroups": ("a mapping with the number of cycles of every device", _are_subgroups),
}
