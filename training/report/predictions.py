"""The predictions of a checkpoint, a row per cycle, and the CSV file from which every figure can be recomputed."""

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from modeling_lung_srad.errors import InputError
from modeling_lung_srad.files.output_files import replaced_when_complete
from training.data.cycle_sources import PARTS
from training.metrics.icbhi_score.icbhi_measure import CLASS_NAMES

CYCLE_COLUMNS = ("recording", "start", "end", "label", "prediction", *CLASS_NAMES)
PATIENT_COLUMNS = ("patient", "device", "location")
COLUMNS = (*CYCLE_COLUMNS, *PATIENT_COLUMNS, "part")
SIGNIFICANT_DIGITS = 9
# Nine digits of each of four probabilities lose less than this of their sum.
SUM_TOLERANCE = 1e-6


@dataclass(frozen=True)
class CyclePredictions:
    """Cycles with their true and predicted class; all fields are arrays with an entry per cycle.

    Args:
        recording, patient, device, location (`np.ndarray` of `str`): where the cycle is from.
        start, end (`np.ndarray` of `float`): in seconds.
        label, prediction (`np.ndarray` of `int`): true and predicted class, indices into `CLASS_NAMES`.
        probabilities (`np.ndarray` of shape `(cycles, 4)`): in the order of `CLASS_NAMES`.
        part (`np.ndarray` of `str`): `test`, `validation` or `train`.
    """

    recording: np.ndarray
    start: np.ndarray
    end: np.ndarray
    label: np.ndarray
    prediction: np.ndarray
    probabilities: np.ndarray
    patient: np.ndarray
    device: np.ndarray
    location: np.ndarray
    part: np.ndarray

    def __len__(self) -> int:
        return len(self.label)

    def select(self, chosen: np.ndarray) -> "CyclePredictions":
        """The cycles that a mask or an array of indices chooses."""
        return CyclePredictions(**{field.name: getattr(self, field.name)[chosen] for field in fields(self)})

    def of_part(self, part: str) -> "CyclePredictions":
        """The cycles of one part; possibly none."""
        return self.select(self.part == part)

    @classmethod
    def from_table(
        cls, table: Mapping[str, Sequence[Any]], probabilities: np.ndarray, part: str
    ) -> "CyclePredictions":
        """Cycles of a part with what the model says about them.

        The probabilities are rounded to the digits of the CSV file, so that figures from either are the same.

        Args:
            table (mapping): the columns of `CycleSource.table`.
            probabilities (`np.ndarray` of shape `(cycles, 4)`): of the model.
            part (`str`): name of the part.
        """
        texts = ((f"{value:.{SIGNIFICANT_DIGITS}g}" for value in row) for row in probabilities)
        rounded = np.array([[float(text) for text in row] for row in texts]).reshape(-1, len(CLASS_NAMES))
        place = {column: np.array([str(value or "unknown") for value in table[column]]) for column in PATIENT_COLUMNS}
        return cls(
            recording=np.array(table["recording"]),
            start=np.array(table["start"], dtype=np.float64),
            end=np.array(table["end"], dtype=np.float64),
            label=np.array(table["label"], dtype=np.int64),
            prediction=rounded.argmax(axis=1),
            probabilities=rounded,
            part=np.full(len(rounded), part),
            **place,
        )


def concatenate(parts: Sequence[CyclePredictions]) -> CyclePredictions:
    """The cycles of several parts, one after the other."""
    joined = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(CyclePredictions)
    }
    return CyclePredictions(**joined)


def write_predictions(path: str | os.PathLike, cycles: CyclePredictions) -> None:
    """Writes `predictions.csv`; an existing file is replaced when it is done."""
    with replaced_when_complete(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for index in range(len(cycles)):
            classes = (CLASS_NAMES[label[index]] for label in (cycles.label, cycles.prediction))
            shares = (f"{value:.{SIGNIFICANT_DIGITS}g}" for value in cycles.probabilities[index])
            place = (getattr(cycles, column)[index] for column in (*PATIENT_COLUMNS, "part"))
            writer.writerow(
                (cycles.recording[index], cycles.start[index], cycles.end[index], *classes, *shares, *place)
            )


def read_predictions(path: str | os.PathLike) -> CyclePredictions:
    """Reads `predictions.csv`. Further columns are ignored.

    Raises:
        InputError: naming file, line and field, where it is not such a file: a column is missing, a class or part is
            unknown, a number is none, probabilities do not add up to 1, the prediction is not the most probable
            class, times are not in order, or a cycle is there twice.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise InputError(
                    path,
                    f"lacks the column {', '.join(missing)}",
                    "name the predictions.csv of `lung-srad evaluate`, or evaluate again",
                )
            rows: list[dict[str, Any]] = []
            lines: dict[tuple[Any, ...], int] = {}
            for row in reader:
                rows.append(_read_row(row, f"{path}: line {reader.line_num}"))
                cycle = tuple(rows[-1][name] for name in ("recording", "start", "end", "part"))
                if cycle in lines:
                    raise InputError(
                        path,
                        f"line {reader.line_num}: is the cycle of line {lines[cycle]} once more",
                        "remove one, or evaluate again",
                    )
                lines[cycle] = reader.line_num
    except FileNotFoundError:
        raise InputError(path, "no such file", "name a report folder or its predictions.csv") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(path, f"is not a CSV file in UTF-8 ({error})", "evaluate again") from error
    except OSError as error:
        raise InputError(path, f"cannot be read ({error.strerror})", "check the path and its permissions") from error
    if not rows:
        raise InputError(path, "contains no cycles", "evaluate again")
    columns = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return CyclePredictions(**columns)


def _read_row(row: dict[str, str | None], where: str) -> dict[str, Any]:
    label, prediction = (_choice(row, column, CLASS_NAMES, where) for column in ("label", "prediction"))
    probabilities = [_number(row, name, where) for name in CLASS_NAMES]
    if abs(sum(probabilities) - 1) > SUM_TOLERANCE or min(probabilities) < 0:
        raise InputError(where, f"the probabilities {probabilities} do not add up to 1", "evaluate again")
    if prediction != probabilities.index(max(probabilities)):
        raise InputError(
            where,
            f"prediction: {CLASS_NAMES[prediction]!r} is not the class of the largest probability",
            "evaluate again",
        )
    start, end = (_number(row, column, where) for column in ("start", "end"))
    if not 0 <= start < end:
        raise InputError(where, f"end: {end} s is not after start, {start} s, or start is below 0", "evaluate again")
    if not row["recording"]:
        raise InputError(where, "recording: is empty", "evaluate again")
    places = {column: row[column] or "unknown" for column in PATIENT_COLUMNS}
    texts = {"recording": row["recording"], **places}
    part = PARTS[_choice(row, "part", PARTS, where)]
    times = {"start": start, "end": end}
    return {**texts, **times, "label": label, "prediction": prediction, "probabilities": probabilities, "part": part}


def _choice(row: dict[str, str | None], column: str, choices: Sequence[str], where: str) -> int:
    if row[column] not in choices:
        raise InputError(where, f"{column}: {row[column]!r} is not one of {', '.join(choices)}", "evaluate again")
    return choices.index(str(row[column]))


def _number(row: dict[str, str | None], column: str, where: str) -> float:
    try:
        value = float(row[column] or "")
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise InputError(where, f"{column}: {row[column]!r} is not a finite number", "evaluate again")
    return value


__all__ = ["COLUMNS", "CyclePredictions", "concatenate", "read_predictions", "write_predictions"]
