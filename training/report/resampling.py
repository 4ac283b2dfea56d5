"""Draws of whole patients with replacement, and the 95 % intervals that follow from them.

The cycles of a patient resemble each other, so resampling single cycles would give intervals that are too narrow.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

DRAWS = 2000
DRAWS_AT_ONCE = 250


@dataclass(frozen=True)
class PatientDraws:
    """How often each patient was drawn.

    Args:
        times_drawn (`np.ndarray` of shape `(draws, patients)`): counts; every row sums to the number of patients.
        patient_index (`np.ndarray` of shape `(cycles,)`): column of each cycle's patient.
    """

    times_drawn: np.ndarray
    patient_index: np.ndarray

    def totals(self, values: np.ndarray) -> np.ndarray:
        """Sum of a quantity over the drawn cycles: `(cycles, ...)` to `(draws, ...)`."""
        per_patient = np.zeros((self.times_drawn.shape[1], *values.shape[1:]))
        np.add.at(per_patient, self.patient_index, values)
        return np.tensordot(self.times_drawn.astype(np.float64), per_patient, axes=1)

    def means(self, values: np.ndarray) -> np.ndarray:
        """Mean of a quantity over the drawn cycles: `(cycles,)` to `(draws,)`."""
        return self.totals(values) / self.totals(np.ones(len(self.patient_index)))

    def weighted(self, measure: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Applies a measure of cycle weights, `(some draws, cycles)` to `(some draws,)`, to all draws in pieces."""
        pieces = []
        for first in range(0, len(self.times_drawn), DRAWS_AT_ONCE):
            times = self.times_drawn[first : first + DRAWS_AT_ONCE].astype(np.float64)
            pieces.append(measure(times[:, self.patient_index]))
        return np.concatenate(pieces)

    def interval(self, values: np.ndarray) -> list[float] | None:
        """The 95 % percentile interval of a figure from its values in all draws, `(draws,)`.

        Draws in which the figure is undefined (NaN; no abnormal cycle, for instance) are left out.

        Returns:
            `list[float]` or `None`: `[low, high]`, or `None` with fewer than two patients or no draw that defines it.
        """
        defined = values[np.isfinite(values)]
        if self.times_drawn.shape[1] < 2 or defined.size == 0:
            return None
        return [float(bound) for bound in np.quantile(defined, (0.025, 0.975))]


def draw_patients(patients: Sequence[Any] | np.ndarray, resamples: int = DRAWS, seed: int = 0) -> PatientDraws:
    """Draws as many patients as there are, with replacement, `resamples` times.

    Args:
        patients (sequence): patient of each cycle.
        resamples (`int`, *optional*, defaults to 2000): number of draws.
        seed (`int`, *optional*, defaults to 0): seed of the draws.
    """
    _, patient_index = np.unique(np.asarray(patients), return_inverse=True)
    num_patients = int(patient_index.max()) + 1
    generator = np.random.default_rng(seed)
    chances = np.full(num_patients, 1 / num_patients)
    return PatientDraws(generator.multinomial(num_patients, chances, size=resamples), patient_index)
