"""Writes measurements: JSON with every raw time, Markdown tables, and a plot of cost against length."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from benchmarks.cases import NAMES, Measurement
from benchmarks.goals import evaluate_goals, ratios_to_ours
from benchmarks.sections import FRAMES_A_SECOND
from modeling_lung_srad.files.output_files import replaced_when_complete
from modeling_lung_srad.files.plots import save_figure
from training.report.text import markdown_table

JSON_NAME, MARKDOWN_NAME, PLOT_NAME = "speed.json", "speed.md", "cost_by_length.png"
COLORS = {
    "numba": "#0072b2",
    "torch": "#56b4e9",
    "triton": "#e69f00",
    "mamba_ssm": "#009e73",
    "sequential": "#d55e00",
    "ast": "#5b1a4f",
}
TITLES = {
    "one_clip": "Latency of one clip",
    "batch": "Throughput by batch",
    "training": "Training step: forward, loss, backward",
    "length": "One recording in one pass, by length",
}


def measurements_of(results: dict[str, Any]) -> list[Measurement]:
    """All measurements of `speed.json`."""
    rows = [row for section in results["sections"].values() for row in section.get("measurements", [])]
    return [Measurement.from_json(row) for row in rows]


def to_json(measurement: Measurement) -> dict[str, Any]:
    """A row of `speed.json`: the raw times, with their median where there are any."""
    row = asdict(measurement)
    return row | {"median_seconds": measurement.median} if measurement.seconds else row


def write_report(results: dict[str, Any], folder: Path) -> None:
    """
    Writes the three files; each replaces the one before when it is complete.

    Args:
        results (`dict`): `machine`, `suite`, `device` and `sections`; ratios and goals are added.
        folder (`Path`): where to; it is made if it is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    measurements = measurements_of(results)
    goals = [asdict(goal) | {"is_reached": goal.is_reached} for goal in evaluate_goals(measurements)]
    results = results | {"ratios": ratios_to_ours(measurements), "goals": goals}
    _write(folder / JSON_NAME, json.dumps(results, indent=1) + "\n")
    _write(folder / MARKDOWN_NAME, describe(results))
    if any(x.section == "length" and x.seconds for x in measurements):
        save_figure(plot_cost_by_length(measurements), folder / PLOT_NAME)


def describe(results: dict[str, Any]) -> str:
    """All figures as Markdown: the machine, the goals, a table for each section."""
    machine = results["machine"]
    lines = ["# Speed", ""]
    lines += [f"{', '.join(f'{name}: {value}' for name, value in machine.items())}; suite {results['suite']}.", ""]
    lines += [
        "Times are medians of interleaved calls, ratios medians over rounds. Networks have random weights; "
        + ("float32." if results["device"] == "cpu" else "bfloat16 autocast."),
        "",
    ]
    if results["goals"]:
        lines += [
            "## Goals",
            "",
            *markdown_table(("", "value", "bound", "reached"), map(_goal_row, results["goals"])),
            "",
        ]
    measurements = measurements_of(results)
    for name, title in TITLES.items():
        measured = [x for x in measurements if x.section == name]
        if measured:
            lines += [f"## {title}", "", _date_and_code(results["sections"][name]), ""]
            lines += [*_measurement_table(measured, results["ratios"]), "", *_left_out(measured)]
    return "\n".join(lines).rstrip() + "\n"


def plot_cost_by_length(measurements: Sequence[Measurement], size: str = "medium") -> Figure:
    """Seconds and peak memory of one recording against its length, on logarithmic axes, for one size of network."""
    rows = [x for x in measurements if x.section == "length" and x.seconds]
    threads = max(x.threads for x in rows)
    rows = [x for x in rows if x.threads == threads and x.case.size == size]
    figure = Figure(figsize=(10, 4.5), dpi=120, layout="constrained")
    seconds, memory = figure.subplots(1, 2, sharex=True)
    for contender in dict.fromkeys(x.case.contender for x in rows):
        points = sorted((x for x in rows if x.case.contender == contender), key=lambda x: x.case.frames)
        label = NAMES[contender] + (" (takes 10.24 s only)" if contender == "ast" else "")
        style = {"marker": "o", "color": COLORS.get(contender, "#666666"), "label": label}
        lengths = [x.case.frames / FRAMES_A_SECOND for x in points]
        seconds.plot(lengths, [x.median for x in points], **style)
        sized = [x for x in points if x.peak_bytes]
        memory.plot(
            [x.case.frames / FRAMES_A_SECOND for x in sized], [(x.peak_bytes or 0) / 1e9 for x in sized], **style
        )
    _label(seconds, f"Seconds ({threads} threads)" if rows and rows[0].case.device == "cpu" else "Seconds")
    _label(memory, "Peak memory above the network's (GB)")
    seconds.legend(frameon=False)
    figure.suptitle(f"One recording in one pass, {size}")
    return figure


def _label(axes: Axes, cost: str) -> None:
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("Length of the recording (s)")
    axes.set_ylabel(cost)
    axes.set_xticks([10, 30, 60, 120, 300, 600])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)


def _date_and_code(section: dict[str, Any]) -> str:
    return f"{section['date']}, code {section['code']}"


def _goal_row(goal: dict[str, Any]) -> tuple[str, ...]:
    bound = f"{'at least' if goal['is_lower_bound'] else 'at most'} {goal['bound']:g}"
    return goal["text"], f"{goal['value']:.2f}", bound, "yes" if goal["is_reached"] else "no"


def _measurement_table(measurements: Sequence[Measurement], ratios: Sequence[dict[str, Any]]) -> list[str]:
    about = ("contender", "size", "threads", "batch", "length (s)", "calls")
    header = (*about, "seconds", "clips/s", "times ours", "peak MB")
    rows = []
    for x in measurements:
        if not x.seconds:
            continue
        case = x.case
        own = {"contender": case.contender, "section": x.section, "threads": x.threads, "step": case.step}
        own |= {"batch": case.batch, "frames": case.frames, "size": case.size}
        ratio = next((row["times_ours"] for row in ratios if own.items() <= row.items()), None)
        rows.append(
            (
                NAMES[case.contender],
                "" if case.contender == "ast" else case.size,
                x.threads,
                case.batch,
                f"{case.frames / FRAMES_A_SECOND:g}",
                len(x.seconds),
                f"{x.median:.4g}",
                f"{case.batch / x.median:.4g}",
                "" if ratio is None else f"{ratio:.2f}",
                "" if x.peak_bytes is None else f"{x.peak_bytes / 1e6:.0f}",
            )
        )
    return markdown_table(header, rows)


def _left_out(measurements: Sequence[Measurement]) -> list[str]:
    reasons = dict.fromkeys((NAMES[x.case.contender], x.left_out) for x in measurements if x.left_out)
    return [line for name, reason in reasons for line in (f"Left out: {name}: {reason}.", "")]


def _write(path: Path, text: str) -> None:
    with replaced_when_complete(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
