"""The figures of an evaluation report, for the `model-index` and the text of a model card."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult

from dataset_scripts.simulated import DEVICE as SIMULATED_DEVICE
from lung_srad_cli.publishing.evaluation_fields import wrong_field
from modeling_lung_srad.configuration_lung_srad import CLASS_NAMES
from modeling_lung_srad.errors import InputError
from training.metrics.icbhi_score.icbhi_measure import RATES
from training.report.text import markdown_table, percent, percent_interval

REPORT_JSON = "evaluation.json"
WEIGHTS = "model.safetensors"
METRIC_NAMES = {
    "specificity": "Specificity (%)",
    "sensitivity": "Sensitivity, 4-class: exactly the right abnormal class (%)",
    "score": "Score, 4-class: mean of specificity and 4-class sensitivity (%)",
    "sensitivity_any_abnormal": "Sensitivity, 2-class: any abnormal class (%)",
    "score_any_abnormal": "Score, 2-class: mean of specificity and 2-class sensitivity (%)",
}
EPOCHS = {
    "validation": "The epoch was chosen on validation patients.",
    "last": "The last epoch was kept; nothing was chosen.",
    "test": "The epoch was chosen on the test part.",
}


def read_evaluation(source: str | os.PathLike, checkpoint: Path) -> dict[str, Any]:
    """
    Reads the report of `lung-srad evaluate --output`.

    Args:
        source (`str` or `os.PathLike`): its folder, or `evaluation.json`.
        checkpoint (`Path`): folder of the checkpoint that it should be about.

    Returns:
        `dict`: the report, as `training.report.figures.build_report` makes it.

    Raises:
        InputError: where it cannot be read, is not a report, or is about a checkpoint with other weights.
    """
    path = Path(os.path.expanduser(source))
    file = path / REPORT_JSON if path.is_dir() else path
    try:
        report = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(source, f"lacks {REPORT_JSON}", "write one by `lung-srad evaluate ... --output`") from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(file, f"cannot be read ({error})", "evaluate again") from error
    problem = wrong_field(report)
    if problem is not None:
        raise InputError(file, problem, "evaluate again by `lung-srad evaluate ... --output`")
    evaluated = _named_checkpoint(report)
    if _is_other_checkpoint(evaluated, checkpoint):
        raise InputError(
            file, f"is about {evaluated}, whose weights are others than those of {checkpoint}", "evaluate the latter"
        )
    return report


def is_certainly_about(report: dict[str, Any], checkpoint: Path) -> bool:
    """True where the checkpoint that a report names is here and has the same weights."""
    named = _named_checkpoint(report) / WEIGHTS
    return named.is_file() and (checkpoint / WEIGHTS).is_file() and _hash(named) == _hash(checkpoint / WEIGHTS)


def evaluation_results(report: dict[str, Any]) -> list[EvalResult]:
    """One result a rate, in percent. Limits of the figures are part of the name of the data."""
    arguments = {key: report[key] for key in ("cycles", "recordings", "patients")}
    arguments |= {"cycles_by_device": _cycles_by_device(report), "epoch_chosen_on": report.get("selection")}
    arguments["limits"] = report["data_notes"]
    known = {key: value for key, value in arguments.items() if value}
    return [
        EvalResult(
            task_type="audio-classification",
            task_name="Respiratory sound classification",
            dataset_type="simulated" if is_simulated(report) else "icbhi_2017",
            dataset_name=" ".join([f"{describe_data(report)}.", *report["data_notes"]]),
            dataset_config=report.get("split"),
            dataset_split=report["part"],
            dataset_args=known,
            metric_type=rate,
            metric_name=METRIC_NAMES[rate],
            metric_value=round(100 * report[rate], 2),
        )
        for rate in RATES
        if report[rate] is not None
    ]


def figures_section(report: dict[str, Any]) -> str:
    """The figures as Markdown: what limits them first, then the rates with intervals, then the confusion matrix."""
    rows = [
        [METRIC_NAMES[rate], percent(report[rate]), percent_interval(report["intervals_95"][rate])] for rate in RATES
    ]
    matrix = [[name, *row] for name, row in zip(CLASS_NAMES, report["confusion_matrix"], strict=True)]
    counts = f"{report['cycles']:,} cycles, {report['recordings']} recordings, {report['patients']} patients"
    devices = ", ".join(f"{name} {cycles:,}" for name, cycles in _cycles_by_device(report).items())
    sentences = [f"**{note}**" for note in report["data_notes"]]
    sentences.append(f"{describe_data(report)}: {counts}" + (f"; cycles by device: {devices}." if devices else "."))
    sentences.append(EPOCHS.get(str(report.get("selection")), "How the epoch was chosen is not known."))
    lines = [
        " ".join(sentences),
        "",
        *markdown_table(["measure", "value", "95 % interval over patients"], rows),
        "",
        "Always answering `normal` has a Score of 50. True class by row, predicted class by column:",
        "",
        *markdown_table(["", *CLASS_NAMES], matrix),
    ]
    return "\n".join(lines)


def describe_data(report: dict[str, Any]) -> str:
    """The cycles of a report, in a few words."""
    if is_simulated(report):
        return f"Simulated lung sounds, {report['part']} part"
    split = f", {report['split']} split" if report.get("split") else ""
    return f"ICBHI 2017{split}, {report['part']} part"


def is_simulated(report: dict[str, Any]) -> bool:
    """True for a report on simulated sounds."""
    return SIMULATED_DEVICE in _cycles_by_device(report)


def _cycles_by_device(report: dict[str, Any]) -> dict[str, int]:
    devices = (report.get("subgroups") or {}).get("device") or {}
    return {name: figures["cycles"] for name, figures in devices.items()}


def _named_checkpoint(report: dict[str, Any]) -> Path:
    # Unlike `Path.expanduser`, it leaves the home of an unknown user as it is.
    return Path(os.path.expanduser(str(report.get("checkpoint"))))


def _is_other_checkpoint(evaluated: Path, checkpoint: Path) -> bool:
    """True where the evaluated checkpoint is here and has other weights."""
    named, own = evaluated / WEIGHTS, checkpoint / WEIGHTS
    return named.is_file() and own.is_file() and not named.samefile(own) and _hash(named) != _hash(own)


def _hash(file: Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
