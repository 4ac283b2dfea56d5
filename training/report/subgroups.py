"""The ICBHI measure by device, chest location and patient."""

from typing import Any

import numpy as np

from training.evaluation import patient_bootstrap
from training.metrics.icbhi_score.icbhi_measure import RATES, confusion_counts, rates_from_counts
from training.report.predictions import CyclePredictions

GROUPINGS = ("device", "location")


def measure_subgroups(cycles: CyclePredictions) -> dict[str, dict[str, Any]]:
    """Rates by `device`, by `location` and by `patient`.

    Returns:
        `dict`: by grouping and group name, the counts and rates of `group_figures`; for devices and locations also
        `intervals_95` over their patients, for patients also their `devices`.
    """
    subgroups: dict[str, dict[str, Any]] = {}
    for grouping in GROUPINGS:
        subgroups[grouping] = {}
        for name, members in _members(cycles, grouping):
            intervals = patient_bootstrap(members.prediction, members.label, members.patient)
            subgroups[grouping][name] = {**group_figures(members), "intervals_95": intervals}
    subgroups["patient"] = {
        name: {"devices": sorted(set(members.device.tolist())), **group_figures(members)}
        for name, members in _members(cycles, "patient")
    }
    return subgroups


def group_figures(cycles: CyclePredictions) -> dict[str, Any]:
    """Numbers of `cycles`, of `normal` and `abnormal` ones and of `patients`, and the five rates.

    A rate is `None` if a group lacks the normal or abnormal cycles that define it.
    """
    rates = rates_from_counts(confusion_counts(cycles.prediction, cycles.label))
    return {
        "cycles": len(cycles),
        "normal": int((cycles.label == 0).sum()),
        "abnormal": int((cycles.label > 0).sum()),
        "patients": len(set(cycles.patient.tolist())),
        **{name: float(rates[name]) if np.isfinite(rates[name]) else None for name in RATES},
    }


def distribution_over_patients(patients: dict[str, dict[str, Any]], rate: str) -> dict[str, Any]:
    """How a rate differs between patients.

    Returns:
        `dict`: number of `patients` for whom the rate is defined and, if there is one, `quartiles`: smallest value,
        lower quartile, median, upper quartile, largest value.
    """
    values = [figures[rate] for figures in patients.values() if figures[rate] is not None]
    quartiles = [float(value) for value in np.quantile(values, (0, 0.25, 0.5, 0.75, 1))] if values else None
    return {"patients": len(values), "quartiles": quartiles}


def _members(cycles: CyclePredictions, grouping: str) -> list[tuple[str, CyclePredictions]]:
    names = getattr(cycles, grouping)
    return [(str(name), cycles.select(names == name)) for name in np.unique(names)]
