"""The folder of a report: `evaluation.json`, `evaluation.md`, `evaluation.png`, `predictions.csv`, `patients.csv`."""

import csv
import json
import os
from pathlib import Path
from typing import Any

from dataset_scripts.simulated import DEVICE as SIMULATED_DEVICE
from modeling_lung_srad.errors import InputError
from modeling_lung_srad.files.output_files import replaced_when_complete, writing_to
from modeling_lung_srad.files.plots import save_figure
from training.metrics.icbhi_score.icbhi_measure import RATES
from training.report.figures import ABOUT
from training.report.markdown import markdown_report
from training.report.plots import plot_report
from training.report.predictions import CyclePredictions, read_predictions, write_predictions
from training.report.text import UNDEFINED

REPORT_JSON, REPORT_MARKDOWN, REPORT_PLOT = "evaluation.json", "evaluation.md", "evaluation.png"
PREDICTIONS_CSV, PATIENTS_CSV = "predictions.csv", "patients.csv"
REPORT_FILES = (REPORT_JSON, REPORT_MARKDOWN, REPORT_PLOT, PREDICTIONS_CSV, PATIENTS_CSV)


def check_output_folder(output: str | os.PathLike) -> None:
    """Checks before any work is done that a report can be written to a folder, which need not exist yet.

    Raises:
        InputError: it or a folder above it is a file, or not writable.
    """
    folder = Path(os.path.expanduser(output))
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not existing.is_dir():
        raise InputError(output, f"{existing} is a file", "name a folder for the report")
    if not os.access(existing, os.W_OK):
        raise InputError(output, f"{existing} is not writable", "name another folder for the report")


def make_output_folder(output: str | os.PathLike) -> Path:
    """Makes the folder for a report where it does not exist; raises as `check_output_folder`."""
    check_output_folder(output)
    folder = Path(os.path.expanduser(output))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def write_report(output: str | os.PathLike, report: dict[str, Any], cycles: CyclePredictions) -> None:
    """Writes the five files of a report to a folder, which is made if need be.

    Each file of an earlier report is replaced when the new one is complete.

    Raises:
        InputError: as `make_output_folder`, or a full disk.
    """
    folder = make_output_folder(output)
    with writing_to(folder):
        write_predictions(folder / PREDICTIONS_CSV, cycles)
    write_figures(folder, report, cycles)


def write_figures(output: str | os.PathLike, report: dict[str, Any], cycles: CyclePredictions) -> None:
    """Writes a report like `write_report`, without `predictions.csv`."""
    folder = make_output_folder(output)
    write_json(folder / REPORT_JSON, report)
    write_text(folder / REPORT_MARKDOWN, markdown_report(report))
    with writing_to(folder):
        _write_patients(folder / PATIENTS_CSV, report["subgroups"]["patient"])
        save_figure(plot_report(report, cycles), folder / REPORT_PLOT)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes JSON without NaN like `write_text`."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes text; an existing file is replaced when it is done.

    Raises:
        InputError: naming the file, where it cannot be written, as on a full disk.
    """
    with replaced_when_complete(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def predictions_file(source: str | os.PathLike) -> Path:
    """The predictions of a report: the file itself, or `predictions.csv` in its folder."""
    path = Path(os.path.expanduser(source))
    return path / PREDICTIONS_CSV if path.is_dir() else path


def read_report(source: str | os.PathLike) -> tuple[CyclePredictions, dict[str, Any]]:
    """Reads the predictions of an earlier evaluation, and what `evaluation.json` beside them says about it.

    Args:
        source (`str` or `os.PathLike`): folder of a report, or a file like its `predictions.csv`.

    Returns:
        `tuple[CyclePredictions, dict]`: predictions, and the keys of `training.report.figures.ABOUT`. Without
        `evaluation.json` the notes say that the origin is not known.

    Raises:
        InputError: as `read_predictions`, or an `evaluation.json` that is not one or is about another part.
    """
    file = predictions_file(source)
    cycles = read_predictions(file)
    about = _read_about(file.parent / REPORT_JSON) if file.name == PREDICTIONS_CSV else None
    if about is None:
        about = {**dict.fromkeys(ABOUT), "checkpoint": str(source), "part": _evaluated_part(cycles, file)}
        about["training_patients_known"] = False
        about["data_notes"] = _notes_of_predictions_alone(cycles)
    if not (cycles.part == about["part"]).any():
        raise InputError(
            file,
            f"contains no cycle of the {about['part']} part, which {REPORT_JSON} beside it is about",
            "evaluate again",
        )
    return cycles, about


def check_scorable(source: str | os.PathLike, cycles: CyclePredictions, part: str) -> None:
    """Raises `InputError`, naming the file of `source`, where a part lacks normal or abnormal cycles."""
    labels = cycles.of_part(part).label
    for kind, present in (("normal", (labels == 0).any()), ("abnormal", (labels > 0).any())):
        if not present:
            raise InputError(
                predictions_file(source),
                f"the {part} part contains no {kind} cycle, so it cannot be scored",
                "evaluate more recordings",
            )


def _read_about(file: Path) -> dict[str, Any] | None:
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
        about = {key: report.get(key) for key in ABOUT}
        _check_types(about)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError) as error:
        raise InputError(file, f"is not a report ({error})", "evaluate again, or remove the file") from error
    return about


def _check_types(about: dict[str, Any]) -> None:
    for key, value in about.items():
        if key == "data_notes":
            fits = isinstance(value, list) and all(isinstance(note, str) for note in value)
        elif key in ("validation_cycles", "training_patients_known"):
            fits = value is None or isinstance(value, int)
        else:
            fits = isinstance(value, str) or (value is None and key not in ("part", "checkpoint"))
        if not fits:
            raise TypeError(f"{key}: {value!r:.60}")


def _evaluated_part(cycles: CyclePredictions, file: Path) -> str:
    parts = sorted(set(cycles.part.tolist()) - {"validation"})
    if len(parts) > 1:
        raise InputError(file, f"part: holds {' and '.join(parts)}", "keep one of them, and validation")
    return parts[0] if parts else "validation"


def _notes_of_predictions_alone(cycles: CyclePredictions) -> list[str]:
    notes = ["From predictions alone: which checkpoint and data, and how the epoch was chosen, is not known."]
    if SIMULATED_DEVICE in cycles.device:
        notes.append("Simulated sounds: these figures say nothing about accuracy on recordings of patients.")
    return notes


def _write_patients(path: Path, patients: dict[str, dict[str, Any]]) -> None:
    with replaced_when_complete(path) as temporary, open(temporary, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("patient", "devices", "cycles", "normal", "abnormal", *RATES))
        for name, figures in patients.items():
            rates = (UNDEFINED if figures[rate] is None else f"{figures[rate]:.6f}" for rate in RATES)
            counts = (figures[column] for column in ("cycles", "normal", "abnormal"))
            writer.writerow((name, " ".join(figures["devices"]), *counts, *rates))
