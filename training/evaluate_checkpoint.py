"""Measures a checkpoint on one part of a data set: figures as JSON and Markdown, predictions as CSV."""

import csv
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from modeling_lung_srad import LungSradFeatureExtractor, LungSradForAudioClassification
from modeling_lung_srad.checkpoint_loading import load_checkpoint
from training.cycle_sources import CycleSource, describe_limits, load_evaluated_source
from training.evaluation import CLASS_NAMES, evaluation_report, markdown_report
from training.log_mel_dataset import LogMelDataset, check_sampling_rate, compute_log_mel

TRAINING_SUMMARY = "training_summary.json"
REPORT_JSON, REPORT_MARKDOWN, PREDICTIONS_CSV = "evaluation.json", "evaluation.md", "predictions.csv"
COPIED_COLUMNS = ("recording", "start", "end", "patient", "device", "location")
COLUMNS = ("recording", "start", "end", "label", "prediction", *CLASS_NAMES, "patient", "device", "location")


def evaluate(
    checkpoint: str,
    data: str,
    split: str = "official",
    part: str = "test",
    output: str | None = None,
    batch_size: int = 16,
) -> int:
    """Evaluates, prints the report as Markdown and writes it to a folder: the command `lung-srad evaluate`.

    Args:
        checkpoint (`str`): folder of a checkpoint, or its id on the Hub.
        data (`str`): folder or zip of ICBHI 2017, or a folder that `lung-srad prepare` wrote.
        split (`str`, *optional*, defaults to `"official"`): `official`, `leak_free` or `fold0` to `fold4`.
        part (`str`, *optional*, defaults to `"test"`): `test`, `validation` or `train`.
        output (`str`, *optional*): folder to write `evaluation.json`, `evaluation.md` and `predictions.csv` to.
        batch_size (`int`, *optional*, defaults to 16): cycles per forward pass.

    Returns:
        `int`: exit code, 0, or 2 with one line on standard error where checkpoint or data cannot be used.
    """
    try:
        if output is not None and Path(output).exists() and not Path(output).is_dir():
            raise ValueError(f"{output}: is a file; name a folder for the report")
        report, rows = evaluate_checkpoint(checkpoint, data, split, part, batch_size)
        if output is not None:
            write_report(output, report, rows)
    except (ValueError, OSError) as error:
        print(f"lung-srad evaluate: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    print(markdown_report(report))
    if output is not None:
        print(f"written to {output}: {REPORT_JSON}, {REPORT_MARKDOWN}, {PREDICTIONS_CSV}")
    return 0


def evaluate_checkpoint(
    checkpoint: str | os.PathLike,
    data: str | os.PathLike,
    split: str = "official",
    part: str = "test",
    batch_size: int = 16,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Runs a checkpoint over the cycles of one part.

    The validation part is the one of the training run of the checkpoint, read from its `training_summary.json`.

    Returns:
        `tuple[dict, list[dict]]`: the report of `evaluation_report`, and a row per cycle with the columns of
        `predictions.csv`.

    Raises:
        ValueError: a checkpoint that `load_checkpoint` refuses or that is for another sampling rate, data that
            `load_evaluated_source` refuses, or `part="validation"` without a training summary or with another split
            than in training.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size: {batch_size} should be at least 1")
    model, feature_extractor = load_checkpoint(checkpoint)
    check_sampling_rate(feature_extractor, f"{checkpoint}: sampling_rate")
    trained_on = _training_data(checkpoint)
    draw: dict[str, Any] = {}
    if part == "validation":
        if trained_on is None:
            raise ValueError(f"{checkpoint}: has no {TRAINING_SUMMARY} to say which patients were validation patients")
        if trained_on["split"] != split:
            raise ValueError(f"{checkpoint}: was trained with the split {trained_on['split']!r}; evaluate with that")
        draw = {"validation": trained_on["validation"], "validation_seed": trained_on["validation_seed"]}
    source = load_evaluated_source(data, split, part, **draw)
    probabilities = predict(model, feature_extractor, source, batch_size)
    predictions = probabilities.argmax(axis=1)
    table = source.table
    notes = describe_limits(source, split, part) + _leakage(trained_on, split, part)
    report = evaluation_report(
        predictions,
        table["label"],
        table["recording"],
        table["patient"],
        checkpoint=str(checkpoint),
        data=str(data),
        split=split,
        part=part,
        data_notes=notes,
    )
    return report, _rows(table, predictions, probabilities)


def predict(
    model: LungSradForAudioClassification,
    feature_extractor: LungSradFeatureExtractor,
    source: CycleSource,
    batch_size: int = 16,
) -> np.ndarray:
    """Probabilities `(cycles, 4)` in the order of `CLASS_NAMES`, on the model's device, with a progress bar."""
    labels = source.table["label"]
    cycles = LogMelDataset(compute_log_mel([source], feature_extractor), labels, feature_extractor)
    label2id = model.config.label2id or {}
    columns = [int(label2id[name]) for name in CLASS_NAMES]
    model.eval()
    batches = []
    with torch.inference_mode():
        for batch in tqdm(DataLoader(cycles, batch_size=batch_size), desc="classify", unit="batch"):
            logits = model(batch["input_values"].to(model.device, model.dtype)).logits
            batches.append(logits.float().softmax(dim=-1)[:, columns].cpu())
    return torch.cat(batches).numpy()


def write_report(output: str | os.PathLike, report: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """Writes `evaluation.json`, `evaluation.md` and `predictions.csv` to a folder, which is made if need be."""
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / PREDICTIONS_CSV, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    (folder / REPORT_JSON).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (folder / REPORT_MARKDOWN).write_text(markdown_report(report), encoding="utf-8")


def _rows(table: dict[str, list[Any]], predictions: np.ndarray, probabilities: np.ndarray) -> list[dict[str, Any]]:
    rows = []
    for index, (prediction, probability) in enumerate(zip(predictions, probabilities, strict=True)):
        kept = {column: table[column][index] for column in COPIED_COLUMNS}
        classes = {"label": CLASS_NAMES[table["label"][index]], "prediction": CLASS_NAMES[prediction]}
        shares = {name: f"{share:.6f}" for name, share in zip(CLASS_NAMES, probability, strict=True)}
        rows.append(kept | classes | shares)
    return rows


def _training_data(checkpoint: str | os.PathLike) -> dict[str, Any] | None:
    """How the run that made a checkpoint divided its data: `split`, `validation`, `validation_seed`, where known."""
    file = Path(checkpoint).expanduser() / TRAINING_SUMMARY
    if not file.is_file():
        return None
    try:
        data = json.loads(file.read_text(encoding="utf-8"))["configuration"]["data"]
        return {key: data[key] for key in ("split", "validation", "validation_seed")}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file}: is not a training summary ({error}); take the file out of the folder") from error


def _leakage(trained_on: dict[str, Any] | None, split: str, part: str) -> list[str]:
    if part == "train":
        return ["Training part: these are not figures of unseen patients."]
    if trained_on is None or trained_on["split"] == split or part == "validation":
        return []
    if {trained_on["split"], split} == {"official", "leak_free"}:
        return []
    return [f"Trained with the split {trained_on['split']}, whose training patients may be in this part: not unseen."]
