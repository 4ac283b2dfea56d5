"""Several checkpoints in one table, such as runs that differ in their seed: mean and sample standard deviation."""

import os
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.evaluation import RATE_TITLES, resampled_counts
from training.metrics.icbhi_score.icbhi_measure import rates_from_counts
from training.report.comparison import joined_notes
from training.report.discrimination import MEASURES, TARGETS
from training.report.markdown import MEASURE_TITLES, RESEARCH_USE, epoch_kept
from training.report.predictions import CyclePredictions
from training.report.resampling import DRAWS, draw_patients
from training.report.text import UNDEFINED, markdown_notes, markdown_table, percent, percent_interval

AREA_TITLES = {
    f"{measure}_{target}": f"{MEASURE_TITLES[measure]}, {target}" for target in TARGETS for measure in MEASURES
}
CALIBRATION_TITLES = {
    "ece": "ECE",
    "brier": "Brier score",
    "ece_after": "ECE, calibrated",
    "brier_after": "Brier score, calibrated",
}
TITLES = RATE_TITLES | AREA_TITLES | CALIBRATION_TITLES


def report_names(checkpoints: Sequence[str]) -> list[str]:
    """A name for each checkpoint, that of its folder; the second one of a name gets `_2`, and so on."""
    names: list[str] = []
    for checkpoint in checkpoints:
        base = Path(os.path.expanduser(checkpoint)).resolve().name
        number, name = 1, base
        while name in names:
            number += 1
            name = f"{base}_{number}"
        names.append(name)
    return names


def summarize_seeds(
    names: Sequence[str], reports: Sequence[dict[str, Any]], predictions: Sequence[CyclePredictions]
) -> dict[str, Any]:
    """The figures of several reports, their mean and sample standard deviation (n - 1), and intervals of the means.

    Args:
        names (sequence of `str`): of the checkpoints, all different.
        reports (sequence of `dict`): from `build_report`, on the same part of the same data; two or more.
        predictions (sequence of `CyclePredictions`): what the reports were made from, in the same order.

    Returns:
        `dict`: `part`, `split`, `cycles`, `data_notes`, `checkpoints` (figures by name, `None` where undefined), and
        by figure `mean` and `std`, `None` where any checkpoint has none; `mean_intervals_95` of the five rates, each
        draw of patients being the same for all checkpoints.
    """
    part = reports[0]["part"]
    figures = {name: _figures(report) for name, report in zip(names, reports, strict=True)}
    mean: dict[str, float | None] = {}
    std: dict[str, float | None] = {}
    for measure in TITLES:
        values = [of_one[measure] for of_one in figures.values()]
        defined = [value for value in values if value is not None]
        complete = len(defined) == len(values)
        mean[measure] = statistics.mean(defined) if complete else None
        std[measure] = statistics.stdev(defined) if complete else None
    return {
        "part": part,
        "split": reports[0]["split"],
        "cycles": reports[0]["cycles"],
        "data_notes": joined_notes(list(names), [report["data_notes"] for report in reports]),
        "selection": {name: report["selection"] for name, report in zip(names, reports, strict=True)},
        "checkpoints": figures,
        "mean": mean,
        "std": std,
        "mean_intervals_95": mean_intervals([cycles.of_part(part) for cycles in predictions]),
    }


def mean_intervals(predictions: Sequence[CyclePredictions]) -> dict[str, list[float] | None]:
    """95 % percentile intervals of the mean over checkpoints of each of the five rates, patients resampled together.

    Args:
        predictions (sequence of `CyclePredictions`): of each checkpoint on the same cycles.

    Returns:
        `dict`: `[low, high]` per rate, or `None` where fewer than two patients, or no draw, define it.
    """
    draws = draw_patients(predictions[0].patient)
    rates = [rates_from_counts(resampled_counts(cycles.prediction, cycles.label, draws)) for cycles in predictions]
    return {name: draws.interval(np.mean([of_one[name] for of_one in rates], axis=0)) for name in RATE_TITLES}


def markdown_seeds(summary: dict[str, Any]) -> str:
    """The table of several checkpoints as Markdown, everything times 100."""
    count = len(summary["checkpoints"])
    lines = [f"# {count} checkpoints, {summary['part']} part of the split {summary['split']}", ""]
    lines.append(f"- {summary['cycles']} cycles")
    lines += [f"- {kept}" for kept in sorted({epoch_kept(one) for one in summary["selection"].values()})]
    lines += markdown_notes(summary["data_notes"])
    for titles in (RATE_TITLES, AREA_TITLES, CALIBRATION_TITLES):
        rows = [
            [name, *(percent(figures[measure]) for measure in titles)]
            for name, figures in summary["checkpoints"].items()
        ]
        rows.append(["mean ± std", *(_mean_and_std(summary, measure) for measure in titles)])
        if titles is RATE_TITLES:
            intervals = summary["mean_intervals_95"]
            rows.append(["95 % interval of the mean", *(percent_interval(intervals[rate]) for rate in titles)])
        lines += ["", *markdown_table(["checkpoint, %", *titles.values()], rows)]
    return "\n".join(
        [
            *lines,
            "",
            f"std: sample standard deviation over the {count} checkpoints (divided by n - 1 = {count - 1}). It is the "
            f"spread of training; the interval is that of the choice of patients ({DRAWS:,} draws with replacement, "
            f"the same for all checkpoints). {UNDEFINED}: a class is missing, or a checkpoint is not calibrated.",
            "",
            RESEARCH_USE,
            "",
        ]
    )


def _figures(report: dict[str, Any]) -> dict[str, float | None]:
    areas = {
        f"{measure}_{target}": report["discrimination"][target][measure] for target in TARGETS for measure in MEASURES
    }
    before, after = report["calibration"]["before"], report["calibration"]["after"] or {}
    calibration = {
        "ece": before["ece"],
        "brier": before["brier"],
        "ece_after": after.get("ece"),
        "brier_after": after.get("brier"),
    }
    return {name: report[name] for name in RATE_TITLES} | areas | calibration


def _mean_and_std(summary: dict[str, Any], measure: str) -> str:
    if summary["mean"][measure] is None:
        return UNDEFINED
    return f"{percent(summary['mean'][measure])} ± {percent(summary['std'][measure])}"
