"""The report of one checkpoint as Markdown."""

from typing import Any

from training.evaluation import CLASS_MEASURES, RATE_TITLES
from training.metrics.icbhi_score.icbhi_measure import CLASS_NAMES, RATES
from training.report.discrimination import MEASURES
from training.report.subgroups import distribution_over_patients
from training.report.text import (
    UNDEFINED,
    fraction,
    fraction_interval,
    markdown_notes,
    markdown_table,
    percent,
    percent_interval,
    with_interval,
)

SHORT_TITLES = {
    "specificity": "Specificity",
    "sensitivity": "Sensitivity, 4-class",
    "score": "Score, 4-class",
    "sensitivity_any_abnormal": "Sensitivity, 2-class",
    "score_any_abnormal": "Score, 2-class",
}
MEASURE_TITLES = {"auroc": "AUROC", "auprc": "AUPRC"}
CALIBRATION_TITLES = {"ece": "ECE", "brier": "Brier score", "negative_log_likelihood": "negative log-likelihood"}
EPOCHS_KEPT = {
    None: "not known which",
    "validation": "the best one on the validation patients",
    "last": "the last one",
    "test": "the best one on the test part",
}
RESEARCH_USE = "Research software, not a medical device."


def markdown_report(report: dict[str, Any]) -> str:
    """The report of `build_report` as Markdown; rates in percent, everything else as fractions."""
    sections = [
        _heading(report),
        _rates(report),
        _classes(report),
        _discrimination(report),
        _calibration(report),
        _risk_coverage(report),
        _subgroups(report),
        [RESEARCH_USE],
    ]
    return "\n\n".join("\n".join(lines) for lines in sections) + "\n"


def epoch_kept(selection: str | None) -> str:
    """Which epoch a checkpoint is, by the `selection` of its training run."""
    return f"epoch kept: {EPOCHS_KEPT.get(selection, selection)}"


def _heading(report: dict[str, Any]) -> list[str]:
    lines = [f"# Evaluation of {report['checkpoint']}", ""]
    known = ("data", "split", "part")
    lines += [f"- {key}: {report[key]}" for key in known if report[key] is not None]
    lines.append(f"- {epoch_kept(report['selection'])}")
    lines.append(f"- {report['cycles']} cycles, {report['recordings']} recordings, {report['patients']} patients")
    return lines + markdown_notes(report["data_notes"])


def _rates(report: dict[str, Any]) -> list[str]:
    leak_free = report.get("leak_free_test", {})
    header = ["measure", "%", "95 % interval"]
    repeated = "score" in leak_free
    if repeated:
        header += [f"{_of_leak_free(report)} test, %", "95 % interval"]
    rows = []
    for name, title in RATE_TITLES.items():
        row = [title, percent(report[name]), percent_interval(report["intervals_95"][name])]
        if repeated:
            row += [percent(leak_free[name]), percent_interval(leak_free["intervals_95"][name])]
        rows.append(row)
    lines = ["## ICBHI measure", "", *markdown_table(header, rows), ""]
    lines.append(
        f"Intervals: {report['bootstrap']['draws']:,} draws of the {report['patients']} patients with replacement. "
        "They show how much the choice of patients matters, not that of the training seed. An interval without width "
        "means that no draw differs, not that the figure is certain."
    )
    lines += _describe_leak_free(report)
    rows = [[name, *row, sum(row)] for name, row in zip(CLASS_NAMES, report["confusion_matrix"], strict=True)]
    return [
        *lines,
        "",
        "True class by row, predicted class by column:",
        "",
        *markdown_table(["", *CLASS_NAMES, "cycles"], rows),
    ]


def _is_leak_unknown(report: dict[str, Any]) -> bool:
    return report.get("training_patients_known") is False


def _of_leak_free(report: dict[str, Any]) -> str:
    return "reduced" if _is_leak_unknown(report) else "leak-free"


def _describe_leak_free(report: dict[str, Any]) -> list[str]:
    leak_free = report.get("leak_free_test", {})
    if not leak_free:
        return []
    name, whose = "Leak-free test", "patients who are also in training"
    if _is_leak_unknown(report):
        name, whose = "Leak-free test: unknown. Reduced test", "patients on both sides of the official split"
    if not leak_free["recordings_left_out"]:
        return ["", f"{name}: no recording of {whose} is here; the same."]
    left_out = f"{leak_free['recordings_left_out']} recordings ({leak_free['cycles_left_out']} cycles)"
    if "undefined" in leak_free:
        return ["", f"{name}: {UNDEFINED}; without {left_out}, {leak_free['undefined']}."]
    return [
        "",
        f"{name}: without {left_out} of {whose}; {leak_free['cycles']} cycles of {leak_free['patients']} patients "
        "remain.",
    ]


def _classes(report: dict[str, Any]) -> list[str]:
    rows = []
    for name, figures in report["classes"].items():
        measures = [
            with_interval(percent(figures[measure], 1), percent_interval(figures["intervals_95"][measure]))
            for measure in CLASS_MEASURES
        ]
        rows.append([name, figures["cycles"], figures["predicted"], *measures])
    header = ["class", "cycles", "predicted", "precision, %", "recall, %", "F1, %"]
    return ["## Classes", "", *markdown_table(header, rows)]


def _discrimination(report: dict[str, Any]) -> list[str]:
    leak_free = report.get("leak_free_test", {}).get("discrimination")
    header = ["sound", "cycles with it", "AUROC", "AUPRC", "AUPRC of chance"]
    if leak_free:
        header += [f"{_of_leak_free(report)} AUROC", f"{_of_leak_free(report)} AUPRC"]
    rows = []
    for name, figures in report["discrimination"].items():
        row = [name, figures["positives"], *_areas(figures), fraction(figures["prevalence"])]
        rows.append(row + (_areas(leak_free[name]) if leak_free else []))
    return [
        "## Detection at every threshold",
        "",
        *markdown_table(header, rows),
        "",
        "Scores: 1 - p(normal) for abnormal, p(crackle) + p(both) for crackle, p(wheeze) + p(both) for wheeze, before "
        "temperature scaling. AUPRC is the average precision.",
    ]


def _areas(figures: dict[str, Any]) -> list[str]:
    return [
        with_interval(fraction(figures[measure]), fraction_interval(figures["intervals_95"][measure]))
        for measure in MEASURES
    ]


def _calibration(report: dict[str, Any]) -> list[str]:
    columns = {"before": report["calibration"]["before"], "after": report["calibration"]["after"]}
    leak_free = report.get("leak_free_test", {}).get("calibration")
    if leak_free:
        name = _of_leak_free(report)
        columns |= {f"{name}, before": leak_free["before"], f"{name}, after": leak_free["after"]}
    shown = {name: figures for name, figures in columns.items() if figures is not None}
    rows = []
    for name, title in CALIBRATION_TITLES.items():
        cells = []
        for figures in shown.values():
            bounds = figures["intervals_95"].get(name)
            value = fraction(figures[name])
            cells.append(value if bounds is None else with_interval(value, fraction_interval(bounds)))
        rows.append([title, *cells])
    return [
        "## Calibration",
        "",
        _describe_fit(report),
        "",
        *markdown_table(["measure", *shown], rows),
        "",
        "ECE: 15 bins of equal width of the largest probability, mean distance between it and the accuracy, weighted "
        "by cycles; resampling makes it larger, so its interval leans upwards. Brier score: squared error summed over "
        "the four classes, 0 to 2. The temperature is the same in all draws.",
    ]


def _describe_fit(report: dict[str, Any]) -> str:
    fit = report["calibration_fit"]
    if report["temperature"] is None:
        return f"Not calibrated: {fit['not_calibrated']}."
    sentence = (
        f"Temperature {report['temperature']:.3f}, fitted on {fit['cycles']} cycles of {fit['patients']} validation "
        "patients by the smallest negative log-likelihood."
    )
    if fit["at_bound"]:
        sentence += " It is at the end of the range that is tried, so the fit cannot be trusted."
    if report["validation_cycles"] not in (None, fit["cycles"]):
        sentence += f" The training run had {report['validation_cycles']} cycles of them."
    if report["part"] == "validation":
        sentence += " These are the evaluated cycles themselves, so the figures after scaling are optimistic."
    elif report["selection"] == "validation":
        sentence += " The same patients chose the epoch."
    return sentence


def _risk_coverage(report: dict[str, Any]) -> list[str]:
    measured = report["risk_coverage"]
    header = ["cycles answered", "confidence from", "error, %", *(f"{title}, %" for title in SHORT_TITLES.values())]
    rows = [
        [
            f"{row['cycles']} ({row['coverage_percent']} %)",
            fraction(row["confidence"]),
            percent(row["error_rate"], 1),
            *(percent(row[name], 1) for name in RATES),
        ]
        for row in measured["table"]
    ]
    kind = "as the network gives it" if report["temperature"] is None else "after temperature scaling"
    area = with_interval(fraction(measured["area"]), fraction_interval(measured["area_interval_95"]))
    return [
        "## Abstention",
        "",
        *markdown_table(header, rows),
        "",
        f"The least sure cycles are left unanswered; confidence is the largest probability, {kind}. Area under the "
        f"risk-coverage curve: {area}; smaller is better.",
    ]


def _subgroups(report: dict[str, Any]) -> list[str]:
    lines = ["## Subgroups"]
    for grouping, title in (("device", "device"), ("location", "chest location")):
        rows = []
        for name, figures in report["subgroups"][grouping].items():
            rates = [
                with_interval(percent(figures[rate], 1), percent_interval(figures["intervals_95"][rate]))
                for rate in RATES
            ]
            rows.append([name, figures["patients"], figures["normal"], figures["abnormal"], *rates])
        header = [title, "patients", "normal", "abnormal", *(f"{name}, %" for name in SHORT_TITLES.values())]
        lines += ["", *markdown_table(header, rows)]
    rows = []
    for rate, title in SHORT_TITLES.items():
        spread = distribution_over_patients(report["subgroups"]["patient"], rate)
        cells = (
            [UNDEFINED] * 5 if spread["quartiles"] is None else [percent(value, 1) for value in spread["quartiles"]]
        )
        rows.append([title, spread["patients"], *cells])
    header = ["by patient, %", "patients with it", "lowest", "lower quartile", "median", "upper quartile", "highest"]
    return [
        *lines,
        "",
        *markdown_table(header, rows),
        "",
        f"{UNDEFINED}: no normal or no abnormal cycle, or for an interval fewer than two patients. Every patient is "
        "in patients.csv.",
    ]
