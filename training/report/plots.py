"""The figures of a report as one picture: confusion, ROC, precision-recall, reliability, abstention, devices."""

import textwrap
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import precision_recall_curve, roc_curve

from training.metrics.icbhi_score.icbhi_measure import CLASS_NAMES
from training.report.calibration import scale_probabilities
from training.report.discrimination import TARGETS, target_scores
from training.report.predictions import CyclePredictions
from training.report.risk_coverage import risk_coverage_curve
from training.report.text import UNDEFINED, fraction

TARGET_COLORS = {"abnormal": "#333333", "crackle": "#e69f00", "wheeze": "#0072b2"}
BEFORE_COLOR, AFTER_COLOR = "#d55e00", "#0072b2"
DEVICE_RATES = {
    "specificity": ("Specificity", "#009e73"),
    "sensitivity": ("Sensitivity, 4-class", "#e69f00"),
    "score": ("Score, 4-class", "#333333"),
}
MOST_DEVICES = 8
LINE_LENGTH = 170


def plot_report(report: dict[str, Any], cycles: CyclePredictions) -> Figure:
    """Draws the report of `build_report`.

    Args:
        report (`dict`): the report; its notes stand below the plots.
        cycles (`CyclePredictions`): the predictions that it was made from.

    Returns:
        `matplotlib.figure.Figure`: with six axes.
    """
    evaluated = cycles.of_part(report["part"])
    figure = Figure(figsize=(15, 10), dpi=110, layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    _draw_confusion(axes[0], np.array(report["confusion_matrix"]))
    _draw_roc(axes[1], report, evaluated)
    _draw_precision_recall(axes[2], report, evaluated)
    _draw_reliability(axes[3], report)
    _draw_risk_coverage(axes[4], report, evaluated)
    _draw_devices(axes[5], report)
    counts = f"{report['cycles']} cycles, {report['recordings']} recordings, {report['patients']} patients"
    split = "" if report["split"] is None else f" of the split {report['split']}"
    title = f"{_end_of(report['checkpoint'])}: {report['part']} part{split}, {counts}"
    # Do not parse `$` in paths as math.
    figure.suptitle(title, fontsize=13, parse_math=False)
    notes = [line for note in report["data_notes"] for line in textwrap.wrap(note, LINE_LENGTH)]
    if notes:
        figure.supxlabel("\n".join(notes), fontsize=10, fontweight="bold", color="#a00000", parse_math=False)
    return figure


def _draw_confusion(axes: Axes, counts: np.ndarray) -> None:
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        share = f"{100 * shares[row, column]:.1f} %" if totals[row, 0] else UNDEFINED
        color = "white" if shares[row, column] > 0.5 else "black"
        axes.text(column, row, f"{count}\n{share}", ha="center", va="center", color=color)
    names = [f"{name}\n(n = {total})" for name, total in zip(CLASS_NAMES, totals[:, 0], strict=True)]
    axes.set_xticks(range(len(CLASS_NAMES)), CLASS_NAMES)
    axes.set_yticks(range(len(CLASS_NAMES)), names)
    _name(axes, "Confusion matrix: cycles and % of the true class", "Predicted class", "True class")


def _draw_roc(axes: Axes, report: dict[str, Any], cycles: CyclePredictions) -> None:
    for target in TARGETS:
        area = report["discrimination"][target]["auroc"]
        label = f"{target}: AUROC {fraction(area)}"
        if area is None:
            axes.plot([], [], color=TARGET_COLORS[target], label=label)
            continue
        scores, present = target_scores(target, cycles.probabilities, cycles.label)
        false_positive_rate, true_positive_rate, _ = roc_curve(present, scores)
        axes.plot(false_positive_rate, true_positive_rate, color=TARGET_COLORS[target], label=label)
    axes.plot([0, 1], [0, 1], color="gray", linestyle=":", label="chance")
    _name(axes, "ROC curve by sound", "False positive rate (1 - specificity)", "True positive rate (sensitivity)")
    _frame(axes, "lower right")


def _draw_precision_recall(axes: Axes, report: dict[str, Any], cycles: CyclePredictions) -> None:
    for target in TARGETS:
        figures = report["discrimination"][target]
        color, label = TARGET_COLORS[target], f"{target}: AUPRC {fraction(figures['auprc'])}"
        if figures["auprc"] is None:
            axes.plot([], [], color=color, label=label)
            continue
        scores, present = target_scores(target, cycles.probabilities, cycles.label)
        precision, recall, _ = precision_recall_curve(present, scores)
        axes.plot(recall, precision, color=color, drawstyle="steps-post", label=label)
        axes.axhline(figures["prevalence"], color=color, linestyle=":", linewidth=1)
    axes.plot([], [], color="gray", linestyle=":", label="chance (prevalence)")
    _name(axes, "Precision-recall curve by sound", "Recall", "Precision")
    _frame(axes, "best")


def _draw_reliability(axes: Axes, report: dict[str, Any]) -> None:
    kinds = {"before": ("as given", BEFORE_COLOR, "o"), "after": ("after temperature scaling", AFTER_COLOR, "s")}
    axes.plot([0, 1], [0, 1], color="gray", linestyle=":", label="perfect")
    cycles = max(report["cycles"], 1)
    for kind, (label, color, marker) in kinds.items():
        figures = report["calibration"][kind]
        if figures is None:
            axes.plot([], [], " ", label="not calibrated")
            continue
        filled = [item for item in figures["bins"] if item["cycles"]]
        confidence, accuracy = ([item[name] for item in filled] for name in ("confidence", "accuracy"))
        sizes = [20 + 400 * item["cycles"] / cycles for item in filled]
        axes.plot(confidence, accuracy, color=color, linewidth=1)
        axes.scatter(confidence, accuracy, s=sizes, color=color, marker=marker, alpha=0.6)
        # The markers in the plot grow with the cycles; the legend shows one of fixed size.
        axes.plot([], [], color=color, marker=marker, label=f"{label}: ECE {figures['ece']:.3f}")
    _name(axes, "Reliability (larger marker: more cycles)", "Confidence (largest probability)", "Accuracy")
    _frame(axes, "best")
    axes.set_ylim(-0.03, 1.03)


def _draw_risk_coverage(axes: Axes, report: dict[str, Any], cycles: CyclePredictions) -> None:
    temperature = report["temperature"]
    probabilities = cycles.probabilities
    if temperature is not None:
        probabilities = scale_probabilities(probabilities, temperature)
    wrong = cycles.prediction != cycles.label
    coverage, risk = risk_coverage_curve(probabilities.max(axis=1), wrong)
    area = f"error (area {fraction(report['risk_coverage']['area'])})"
    axes.plot(100 * coverage, 100 * risk, color=AFTER_COLOR, label=area)
    axes.axhline(100 * wrong.mean(), color="gray", linestyle=":", label="all cycles answered")
    axes.set_xlim(0, 100)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    _name(axes, "Abstention: error among the surest cycles", "Coverage (% of cycles answered)", "Error rate (%)")


def _draw_devices(axes: Axes, report: dict[str, Any]) -> None:
    devices = sorted(report["subgroups"]["device"].items(), key=lambda item: -item[1]["cycles"])
    shown = devices[:MOST_DEVICES]
    for index, (rate, (label, color)) in enumerate(DEVICE_RATES.items()):
        offset = 0.2 * (index - 1)
        axes.plot([], [], color=color, marker="o", linestyle="", label=label)
        for place, (_, figures) in enumerate(shown):
            value, bounds = figures[rate], figures["intervals_95"][rate]
            if value is None:
                axes.text(place + offset, 3, UNDEFINED, rotation=90, ha="center", va="bottom", color=color, fontsize=9)
                continue
            if bounds is not None:
                axes.vlines(place + offset, 100 * bounds[0], 100 * bounds[1], color=color, linewidth=2)
            axes.plot(place + offset, 100 * value, color=color, marker="o")
    names = [f"{name}\n{figures['cycles']} cycles\n{figures['patients']} patients" for name, figures in shown]
    axes.set_xticks(range(len(shown)), names)
    axes.set_xlim(-0.6, len(shown) - 0.4)
    axes.set_ylim(-4, 125)
    axes.set_yticks(range(0, 101, 20))
    axes.grid(axis="y", alpha=0.3)
    axes.legend(loc="upper center", ncols=len(DEVICE_RATES), fontsize=9, handletextpad=0.2, columnspacing=1)
    left_out = f" (the {MOST_DEVICES} with most cycles)" if len(devices) > len(shown) else ""
    _name(axes, f"Devices, 95 % intervals over patients{left_out}", "", "Rate (%)")


def _name(axes: Axes, title: str, xlabel: str, ylabel: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)


def _frame(axes: Axes, legend: Literal["lower right", "best"]) -> None:
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_aspect("equal")
    axes.grid(alpha=0.3)
    axes.legend(loc=legend, fontsize=9)


def _end_of(path: str, longest: int = 70) -> str:
    return path if len(path) <= longest else f"…{path[-longest:]}"
