"""The whole evaluation report of one checkpoint, as a dictionary ready for JSON, from its predictions alone."""

from typing import Any

import numpy as np

from dataset_scripts.icbhi_splits import LEAKED_RECORDINGS, official_part
from training.evaluation import evaluation_report
from training.report.calibration import calibration_figures, fit_temperature, scale_probabilities
from training.report.discrimination import discrimination
from training.report.predictions import CyclePredictions
from training.report.resampling import DRAWS, draw_patients
from training.report.risk_coverage import risk_coverage
from training.report.subgroups import measure_subgroups

# Known to the evaluation only; all else follows from the predictions.
ABOUT = (
    "checkpoint", "data", "split", "part", "selection", "validation_missing", "validation_cycles",
    "training_patients_known", "data_notes",
)  # fmt: skip


def build_report(cycles: CyclePredictions, about: dict[str, Any]) -> dict[str, Any]:
    """All figures of an evaluation.

    Args:
        cycles (`CyclePredictions`): of the evaluated part, and of the validation part where there is one.
        about (`dict`): the keys of `ABOUT`; `part` says which cycles are evaluated, `data_notes` is a list of
            sentences that must stand beside every figure.

    Returns:
        `dict`: `about`, then the figures of `evaluation_report` and of `_probability_figures` for the evaluated part,
        `temperature` and how it was fitted, `risk_coverage`, `subgroups`, `leak_free_test` where it is the
        published official test part, and `bootstrap`. An undefined figure is `None`.

    Raises:
        ValueError: as `icbhi_score`, for a part without normal or without abnormal cycles.
    """
    evaluated, validation = cycles.of_part(about["part"]), cycles.of_part("validation")
    temperature, calibration = _fit(validation, about)
    report = {
        **{key: about.get(key) for key in ABOUT},
        **_measure(evaluated, temperature),
        "temperature": temperature,
        "calibration_fit": calibration,
    }
    used = (
        evaluated.probabilities if temperature is None else scale_probabilities(evaluated.probabilities, temperature)
    )
    draws = draw_patients(evaluated.patient)
    report["risk_coverage"] = risk_coverage(used.max(axis=1), evaluated.prediction, evaluated.label, draws)
    report["subgroups"] = measure_subgroups(evaluated)
    if _is_official_test(evaluated, about):
        report["leak_free_test"] = _measure_leak_free(evaluated, temperature)
    report["bootstrap"] = {
        "drawn": "patients, with replacement",
        "draws": DRAWS,
        "interval": "percentiles 2.5 and 97.5",
    }
    return report


def _fit(validation: CyclePredictions, about: dict[str, Any]) -> tuple[float | None, dict[str, Any]]:
    """The temperature, and on what it was fitted or why there is none."""
    if len(validation) == 0:
        return None, {"not_calibrated": about.get("validation_missing") or "no validation patients"}
    fitted = fit_temperature(validation.probabilities, validation.label)
    count = {"cycles": len(validation), "patients": len(set(validation.patient.tolist()))}
    return fitted.value, {**count, "at_bound": fitted.at_bound}


def _measure(cycles: CyclePredictions, temperature: float | None) -> dict[str, Any]:
    figures = evaluation_report(cycles.prediction, cycles.label, cycles.recording.tolist(), cycles.patient.tolist())
    return figures | _probability_figures(cycles, temperature)


def _probability_figures(cycles: CyclePredictions, temperature: float | None) -> dict[str, Any]:
    """`discrimination` of the model's probabilities, and `calibration` `before` and `after` temperature scaling."""
    draws = draw_patients(cycles.patient)
    scaled = None if temperature is None else scale_probabilities(cycles.probabilities, temperature)
    return {
        "discrimination": discrimination(cycles.probabilities, cycles.label, draws),
        "calibration": {
            "before": calibration_figures(cycles.probabilities, cycles.label, draws),
            "after": None if scaled is None else calibration_figures(scaled, cycles.label, draws),
        },
    }


def _is_official_test(cycles: CyclePredictions, about: dict[str, Any]) -> bool:
    """True if the cycles are of the published test part; a folder with a split file of its own may have another."""
    if about["part"] != "test" or about.get("split") not in ("official", None):
        return False
    return all(official_part(name) == "test" for name in cycles.recording.tolist())


def _measure_leak_free(cycles: CyclePredictions, temperature: float | None) -> dict[str, Any]:
    """The figures without the recordings of patients who are also in the training part.

    `recordings_left_out` says how many there were. Where there were none, the figures are those of the whole part and
    are not repeated; where nothing scorable remains, `undefined` says so.
    """
    leaked = np.isin(cycles.recording, sorted(LEAKED_RECORDINGS))
    count = {
        "recordings_left_out": len(set(cycles.recording[leaked].tolist())),
        "cycles_left_out": int(leaked.sum()),
    }
    kept = cycles.select(~leaked)
    if not leaked.any():
        return count
    if not (kept.label == 0).any() or not (kept.label > 0).any():
        return {**count, "undefined": "no normal or no abnormal cycle is left"}
    return {**count, **_measure(kept, temperature)}
