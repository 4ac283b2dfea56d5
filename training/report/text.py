"""How figures are written in tables: percentages, fractions and intervals, and `undefined` where there is none."""

from collections.abc import Iterable, Sequence

UNDEFINED = "undefined"


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction as a percentage without its sign, or `undefined`."""
    return UNDEFINED if value is None else f"{100 * value:.{digits}f}"


def fraction(value: float | None) -> str:
    """A figure with three decimals, or `undefined`."""
    return UNDEFINED if value is None else f"{value:.3f}"


def percent_interval(bounds: Sequence[float] | None) -> str:
    """The interval of a percentage, or `undefined`."""
    return UNDEFINED if bounds is None else f"{100 * bounds[0]:.1f} to {100 * bounds[1]:.1f}"


def fraction_interval(bounds: Sequence[float] | None) -> str:
    """The interval of a figure with three decimals, or `undefined`."""
    return UNDEFINED if bounds is None else f"{bounds[0]:.3f} to {bounds[1]:.3f}"


def with_interval(value: str, bounds: str) -> str:
    """`value (low to high)`; `undefined` alone where the value is undefined."""
    return UNDEFINED if value == UNDEFINED else f"{value} ({bounds})"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """Lines of a Markdown table."""
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    for row in rows:
        cells = (str(cell).replace("|", "\\|") for cell in row)
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def markdown_notes(notes: Iterable[str]) -> list[str]:
    """Sentences that must not be overlooked, each a bold paragraph."""
    return [line for note in notes for line in ("", f"**{note}**")]
