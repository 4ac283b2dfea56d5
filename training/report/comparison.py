"""Two evaluations of the same cycles side by side: the paired bootstrap of the differences."""

from typing import Any

import numpy as np

from modeling_lung_srad.errors import InputError
from training.evaluation import RATE_TITLES, resampled_counts
from training.metrics.icbhi_score.icbhi_measure import CLASS_NAMES, confusion_counts, rates_from_counts
from training.report.discrimination import MEASURES, TARGETS, areas, resampled_discrimination, target_scores
from training.report.markdown import MEASURE_TITLES, RESEARCH_USE, epoch_kept
from training.report.predictions import CyclePredictions
from training.report.resampling import DRAWS, PatientDraws, draw_patients
from training.report.text import UNDEFINED, fraction, markdown_notes, markdown_table, percent, percent_interval

COMPARED_TITLES = RATE_TITLES | {
    f"{measure}_{target}": f"{MEASURE_TITLES[measure]}, {target}" for measure in MEASURES for target in TARGETS
}


def compare_reports(
    first: tuple[CyclePredictions, dict[str, Any]], second: tuple[CyclePredictions, dict[str, Any]], names: list[str]
) -> dict[str, Any]:
    """The differences B - A of every rate, AUROC and AUPRC, with the same patients drawn for both.

    Args:
        first, second (`tuple`): predictions and what they are about, as `read_report` returns them; A and B.
        names (`list[str]`): what messages call the two.

    Returns:
        `dict`: `a` and `b` (source, checkpoint, selection), `data_notes` of both, `part`, `cycles`, `patients`,
        `draws`, and `measures`: by name `a`, `b`, `difference`, `interval_95`, `share_b_better` (of the draws in
        which B is larger, equal ones counted half) and `p_value`; `None` where undefined.

    Raises:
        InputError: the evaluated cycles are not the same; the first one that differs is named.
    """
    (first_cycles, first_about), (second_cycles, second_about) = first, second
    cycles = [_sorted(first_cycles.of_part(first_about["part"])), _sorted(second_cycles.of_part(second_about["part"]))]
    _check_same_cycles(cycles[0], cycles[1], names)
    draws = draw_patients(cycles[0].patient)
    points = [_measure(one) for one in cycles]
    drawn = [_resample(one, draws) for one in cycles]
    measures = {
        name: _difference(points[0][name], points[1][name], drawn[1][name] - drawn[0][name], draws)
        for name in COMPARED_TITLES
    }
    abouts = (first_about, second_about)
    sides = [
        {"source": name, "checkpoint": about["checkpoint"], "selection": about["selection"]}
        for name, about in zip(names, abouts, strict=True)
    ]
    return {
        "a": sides[0],
        "b": sides[1],
        "data_notes": joined_notes(["A", "B"], [about["data_notes"] for about in abouts]),
        "part": first_about["part"],
        "cycles": len(cycles[0]),
        "patients": len(set(cycles[0].patient.tolist())),
        "draws": DRAWS,
        "measures": measures,
    }


def markdown_comparison(comparison: dict[str, Any]) -> str:
    """The comparison as Markdown; everything in percent or, for areas and p values, as fractions."""
    lines = ["# Comparison of two evaluations", ""]
    for side in ("a", "b"):
        about = comparison[side]
        kept = epoch_kept(about["selection"])
        lines.append(f"- {side.upper()}: {about['source']} (checkpoint {about['checkpoint']}; {kept})")
    lines.append(f"- {comparison['cycles']} cycles of {comparison['patients']} patients, {comparison['part']} part")
    lines += markdown_notes(comparison["data_notes"])
    rows = []
    for name, title in COMPARED_TITLES.items():
        figures = comparison["measures"][name]
        cells = [percent(figures[key]) for key in ("a", "b", "difference")]
        tail = [percent_interval(figures["interval_95"]), percent(figures["share_b_better"], 1)]
        rows.append([title, *cells, *tail, fraction(figures["p_value"])])
    header = ["measure, %", "A", "B", "B - A", "95 % interval", "draws with B better, %", "p"]
    return "\n".join(
        [
            *lines,
            "",
            *markdown_table(header, rows),
            "",
            f"{comparison['draws']:,} draws of the patients with replacement, the same for A and B. Draws in which "
            "both are equal count half. p, two-sided: twice (n + 1) / (draws + 1), at most 1, where n is the smaller "
            "of the numbers of draws with B - A at least 0 and at most 0. It is not corrected for the number of "
            f"measures, and says nothing about other training seeds. {UNDEFINED}: a class is missing, or there are "
            "fewer than two patients.",
            "",
            RESEARCH_USE,
            "",
        ]
    )


def joined_notes(names: list[str], notes: list[list[str]]) -> list[str]:
    """Notes of several evaluations, each once; those that are not of all of them begin with the names of theirs."""
    joined = []
    for note in dict.fromkeys(note for some in notes for note in some):
        holders = [name for name, some in zip(names, notes, strict=True) if note in some]
        joined.append(note if len(holders) == len(names) else f"{', '.join(holders)}: {note}")
    return joined


def _sorted(cycles: CyclePredictions) -> CyclePredictions:
    return cycles.select(np.lexsort((cycles.end, cycles.start, cycles.recording)))


def _check_same_cycles(first: CyclePredictions, second: CyclePredictions, names: list[str]) -> None:
    keys = [
        list(zip(one.recording.tolist(), one.start.tolist(), one.end.tolist(), strict=True)) for one in (first, second)
    ]
    for here, there, where, other in ((keys[0], keys[1], *names), (keys[1], keys[0], *reversed(names))):
        known = set(there)
        for recording, start, end in here:
            if (recording, start, end) not in known:
                raise InputError(
                    other,
                    f"lacks the cycle {recording} {start} to {end} s of {where}",
                    "evaluate both on the same cycles",
                )
    if len(first) != len(second):
        raise InputError(
            names[1],
            f"has {len(second)} cycles where {names[0]} has {len(first)}, so some are there more than once",
            "evaluate both again",
        )
    for column in ("label", "patient"):
        different = np.flatnonzero(getattr(first, column) != getattr(second, column))
        if different.size:
            recording, start, end = keys[0][different[0]]
            values = [getattr(one, column)[different[0]] for one in (first, second)]
            if column == "label":
                values = [CLASS_NAMES[value] for value in values]
            raise InputError(
                names[1],
                f"{column}: the cycle {recording} {start} to {end} s is {values[1]}, but {values[0]} in {names[0]}",
                "evaluate both on the same annotations",
            )


def _measure(cycles: CyclePredictions) -> dict[str, float | None]:
    """Rates and areas of the evaluated cycles; `None` where undefined."""
    rates = rates_from_counts(confusion_counts(cycles.prediction, cycles.label))
    measured = {name: float(rate) if np.isfinite(rate) else None for name, rate in rates.items()}
    for target in TARGETS:
        of_target = areas(*target_scores(target, cycles.probabilities, cycles.label))
        measured |= {f"{name}_{target}": area for name, area in of_target.items()}
    return measured


def _resample(cycles: CyclePredictions, draws: PatientDraws) -> dict[str, np.ndarray]:
    rates = rates_from_counts(resampled_counts(cycles.prediction, cycles.label, draws))
    return rates | resampled_discrimination(cycles.probabilities, cycles.label, draws)


def _difference(
    first: float | None, second: float | None, differences: np.ndarray, draws: PatientDraws
) -> dict[str, Any]:
    undefined = first is None or second is None
    interval = None if undefined else draws.interval(differences)
    defined = differences[np.isfinite(differences)]
    figures: dict[str, Any] = {
        "a": first,
        "b": second,
        "difference": None if first is None or second is None else second - first,
        "interval_95": interval,
        "share_b_better": None,
        "p_value": None,
    }
    if interval is not None:
        figures["share_b_better"] = float((defined > 0).mean() + (defined == 0).mean() / 2)
        smaller = min((defined >= 0).sum(), (defined <= 0).sum())
        figures["p_value"] = float(min(1.0, 2 * (1 + smaller) / (1 + len(defined))))
    return figures
