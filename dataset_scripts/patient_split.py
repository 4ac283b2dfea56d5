"""A validation part that shares no patient with the rest, balanced by device and class."""

from collections.abc import Sequence

import numpy as np

from dataset_scripts.cycle_dataset import Recording
from modeling_lung_srad.errors import InputError

# Largest distance of folds times fraction from 1: fractions such as 0.33 are meant as folds.
FOLD_TOLERANCE = 0.02


def choose_validation_patients(
    patients: Sequence[str], devices: Sequence[str], labels: Sequence[int], fraction: float, seed: int = 0
) -> set[str]:
    """
    Chooses a fraction of the patients, whose cycles come close to that fraction of every device and class.

    Starts with patients drawn at random and exchanges, as long as that helps, the two whose exchange lowers the
    chi-square distance between the counts and the wanted counts most. With the fraction `1 / n`, the seeds 0 to
    `n - 1` give folds: each patient is chosen once.

    Args:
        patients (`Sequence[str]`): patient of each cycle.
        devices (`Sequence[str]`): device of each cycle.
        labels (`Sequence[int]`): class of each cycle.
        fraction (`float`): wanted share, above 0 and below 1.
        seed (`int`, *optional*, defaults to 0): another seed gives another choice.

    Returns:
        `set[str]`: at least one patient, and not all.

    Raises:
        InputError: where the fraction is out of range or there are fewer than two patients.
    """
    if not 0 < fraction < 1:
        raise InputError("validation", f"{fraction} is not a fraction", "give a number above 0 and below 1")
    names = sorted(set(patients))
    if len(names) < 2:
        raise InputError("validation", f"{len(names)} patient(s) cannot be divided", "use validation=0.0 or more data")
    table = _count_groups(names, patients, devices, labels)
    number = min(max(round(fraction * len(names)), 1), len(names) - 1)
    left, folds = np.arange(len(names)), round(1 / fraction)
    if folds > 1 and abs(folds * fraction - 1) < FOLD_TOLERANCE and (folds - 1) * number < len(names):
        for earlier in range(seed - seed % folds, seed):
            left = left[~_choose_rows(table[left], fraction * table.sum(axis=0), number, earlier)]
        number = len(left) if seed % folds == folds - 1 else number
    chosen = left[_choose_rows(table[left], fraction * table.sum(axis=0), number, seed)]
    return {names[row] for row in chosen}


def _choose_rows(table: np.ndarray, wanted: np.ndarray, number: int, seed: int) -> np.ndarray:
    """Mask of `number` rows whose sum comes close to `wanted`."""
    chosen = np.zeros(len(table), dtype=bool)
    chosen[np.random.default_rng(seed).permutation(len(table))[:number]] = True
    while not chosen.all():
        current = table[chosen].sum(axis=0)
        exchanged = current - table[chosen][:, None] + table[~chosen][None, :]
        distances = ((exchanged - wanted) ** 2 / wanted).sum(axis=-1)
        # The margin keeps rounding errors from exchanging two patients to and fro.
        if distances.min() >= ((current - wanted) ** 2 / wanted).sum() - 1e-9:
            break
        leaves, enters = np.unravel_index(distances.argmin(), distances.shape)
        leaving, entering = np.flatnonzero(chosen)[leaves], np.flatnonzero(~chosen)[enters]
        chosen[leaving], chosen[entering] = False, True
    return chosen


def split_validation(
    recordings: Sequence[Recording], fraction: float, seed: int = 0
) -> tuple[list[Recording], list[Recording]]:
    """
    Divides recordings into a training and a validation part without a common patient.

    Args:
        recordings (`Sequence[Recording]`): recordings to divide.
        fraction (`float`): wanted share of the validation part, at least 0 and below 1.
        seed (`int`, *optional*, defaults to 0): see [`choose_validation_patients`].

    Returns:
        `tuple[list[Recording], list[Recording]]`: training and validation part; the second is empty for fraction 0.
    """
    if fraction == 0:
        return list(recordings), []
    cycles = [(entry.patient, entry.device, cycle.label or 0) for entry in recordings for cycle in entry.cycles]
    patients, devices, labels = zip(*cycles, strict=True) if cycles else ((), (), ())
    chosen = choose_validation_patients(patients, devices, labels, fraction, seed)
    train = [recording for recording in recordings if recording.patient not in chosen]
    return train, [recording for recording in recordings if recording.patient in chosen]


def _count_groups(
    names: Sequence[str], patients: Sequence[str], devices: Sequence[str], labels: Sequence[int]
) -> np.ndarray:
    """Cycles of each patient (row) by device, by class, and by both together (columns)."""
    rows = {patient: row for row, patient in enumerate(names)}
    columns: dict[tuple[str | None, int | None], int] = {}
    for device, label in sorted(set(zip(devices, labels, strict=True))):
        for group in ((device, None), (None, label), (device, label)):
            columns.setdefault(group, len(columns))
    table = np.zeros((len(names), len(columns)))
    for patient, device, label in zip(patients, devices, labels, strict=True):
        for group in ((device, None), (None, label), (device, label)):
            table[rows[patient], columns[group]] += 1
    return table
