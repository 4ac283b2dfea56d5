"""Measures a checkpoint through the users' pipeline, on patients that it was not trained on.

    python -m benchmarks.hearing CHECKPOINT --icbhi FOLDER --sprsound FOLDER

Cycles of ICBHI are those of the validation patients in `training_summary.json`, events of SPRSound those of patients
outside its training patients. With `--test`, cycles of the ICBHI test part, which fitted nothing, are measured
instead. Whole recordings of SPRSound are classified in windows, without annotations. Then: the same windows softer and
with hum, and simulated recordings with one planted event.
"""

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from sklearn.metrics import roc_auc_score
from tqdm.auto import tqdm

from benchmarks.command import build_parser
from dataset_scripts.cycles import CLASS_NAMES
from dataset_scripts.icbhi import load_icbhi
from dataset_scripts.simulated_events import simulate_event
from dataset_scripts.sprsound import load_sprsound_recordings
from modeling_lung_srad import LungSoundPipeline
from modeling_lung_srad.audio import SAMPLING_RATE, read_audio
from modeling_lung_srad.errors import InputError, reports_input_errors
from training.metrics.icbhi_score.icbhi_measure import icbhi_score
from training.metrics.sprsound_score.sprsound_measure import sprsound_score
from training.record.training_record import TRAINING_SUMMARY, read_training_record
from training.report.calibration import expected_calibration_error

GAINS_DECIBELS = (0, -10, -20, -30, -40)
HUM_HZ, HUM_DECIBELS = 50.0, -30.0
WINDOWS, SIMULATED = 30, 100
# Differs from the seeds of training, 77, and of benchmarks/saliency_localization.py.
SIMULATED_SEED = 2026


def classify(pipeline: LungSoundPipeline, waveform: np.ndarray, **settings: Any) -> list[Any]:
    """The timeline of a waveform at 16 kHz."""
    return pipeline({"raw": waveform, "sampling_rate": SAMPLING_RATE}, min_confidence=0.0, **settings)["timeline"]


def probabilities(segments: Iterable[Any]) -> np.ndarray:
    """`(segments, 4)`, in the order of `CLASS_NAMES`."""
    return np.array([[segment["probabilities"][name] for name in CLASS_NAMES] for segment in segments])


def labels_of(segments: Iterable[Any]) -> np.ndarray:
    """Index of the class that is named, `(segments,)`."""
    return np.array([CLASS_NAMES.index(segment["label"]) for segment in segments])


def measure_icbhi(pipeline: LungSoundPipeline, cycles: Any) -> dict[str, Any]:
    """Rates of ICBHI cycles, AUROC of any abnormal class, crackle and wheeze, and calibration."""
    rows = cycles.with_format(None).remove_columns("audio").to_dict()
    paths = [row["audio"].path for row in cycles]
    segments, truth = [], []
    for path in tqdm(dict.fromkeys(paths), desc="ICBHI", unit="recording"):
        own = [index for index, other in enumerate(paths) if other == path]
        spans = [(rows["start"][index], rows["end"][index]) for index in own]
        segments += pipeline(path, cycles=spans, min_confidence=0.0)["timeline"]
        truth += [rows["label"][index] for index in own]
    labels, found = np.array(truth), probabilities(segments)
    score = icbhi_score(labels_of(segments), labels)
    return {
        "cycles": len(labels),
        "auroc_abnormal": _auroc(labels > 0, 1 - found[:, 0]),
        "auroc_crackle": _auroc(labels & 1, found[:, 1] + found[:, 3]),
        "auroc_wheeze": _auroc(labels >> 1, found[:, 2] + found[:, 3]),
        **score,
        "ece": expected_calibration_error(found, labels),
    }


def measure_sprsound(pipeline: LungSoundPipeline, recordings: Sequence[Any]) -> dict[str, Any]:
    """Task 1-1 on events, and AUROC of the record label by the highest abnormal probability of windows."""
    segments, truth, highest, records = [], [], [], []
    for recording in tqdm(recordings, desc="SPRSound", unit="recording"):
        if recording.record_label != "Poor Quality":
            windows = probabilities(pipeline(str(recording.path), min_confidence=0.0)["timeline"])
            highest.append(float((1 - windows[:, 0]).max()))
            records.append(recording.record_label != "Normal")
        if recording.events:
            spans = [(cycle.start, cycle.end) for cycle, _ in recording.events]
            segments += pipeline(str(recording.path), cycles=spans, min_confidence=0.0)["timeline"]
            truth += [cycle.label for cycle, _ in recording.events]
    labels, found = np.array(truth), probabilities(segments)
    task = sprsound_score((labels_of(segments) > 0).astype(int), (labels > 0).astype(int), "1-1")
    return {
        "events": len(labels),
        "auroc_abnormal": _auroc(labels > 0, 1 - found[:, 0]),
        **{f"task_1_1_{name}": value for name, value in task.items()},
        "ece": expected_calibration_error(found, labels),
        "recordings": len(records),
        "auroc_recordings": _auroc(np.array(records), np.array(highest)),
    }


def measure_robustness(pipeline: LungSoundPipeline, paths: Sequence[str]) -> dict[str, Any]:
    """Changed classes and the largest move of a probability, when windows are softer or hum is added."""
    window = pipeline.choose_window()[0]
    changed: dict[str, int] = {}
    moved: dict[str, float] = {}
    for path in tqdm(paths[:WINDOWS], desc="robustness", unit="window"):
        whole, samples = read_audio(path, SAMPLING_RATE), round(window * SAMPLING_RATE)
        # Around the loudest sample: between annotated cycles some recordings are digital silence.
        start = max(0, min(int(np.abs(whole).argmax()) - samples // 2, len(whole) - samples))
        waveform = whole[start : start + samples]
        waveform = waveform * (0.9 / np.abs(waveform).max())
        hum = np.sin(2 * np.pi * HUM_HZ * np.arange(len(waveform)) / SAMPLING_RATE)
        variants = {f"{gain} dB": waveform * 10 ** (gain / 20) for gain in GAINS_DECIBELS}
        variants["hum"] = waveform + 10 ** (HUM_DECIBELS / 20) * np.abs(waveform).max() * hum
        (reference,) = classify(pipeline, waveform)
        for name, variant in variants.items():
            (segment,) = classify(pipeline, variant.astype(np.float32))
            changed[name] = changed.get(name, 0) + (segment["label"] != reference["label"])
            difference = np.abs(probabilities([segment]) - probabilities([reference])).max()
            moved[name] = max(moved.get(name, 0.0), float(difference))
    return {"windows": min(len(paths), WINDOWS), "classes_changed": changed, "largest_move": moved}


def measure_simulated(pipeline: LungSoundPipeline) -> dict[str, Any]:
    """Counts simulated recordings whose summary names the class of the planted event."""
    named = 0
    for index in tqdm(range(SIMULATED), desc="simulated", unit="recording"):
        label = 1 + index % 2
        waveform, _ = simulate_event(label, 8.0, SAMPLING_RATE, np.random.default_rng([SIMULATED_SEED, index]))
        result = pipeline({"raw": waveform, "sampling_rate": SAMPLING_RATE}, min_confidence=0.0)
        named += result["summary"]["label"] == CLASS_NAMES[label]
    return {"recordings": SIMULATED, "named": named}


def measure(checkpoint: str, icbhi: str, sprsound: str | None, is_test: bool) -> None:
    """Prints a line of JSON for each part."""
    record = read_training_record(checkpoint)
    if record is None:
        raise InputError(
            checkpoint, f"lacks a {TRAINING_SUMMARY} that names its patients", "name a checkpoint of `lung-srad train`"
        )
    pipeline = LungSoundPipeline.from_checkpoint(checkpoint)
    parts = load_icbhi(icbhi, split=record.split)
    if is_test:
        _print("icbhi_test", measure_icbhi(pipeline, parts["test"]))
        return
    patients = parts["train"]["patient"][:]
    kept = [index for index, patient in enumerate(patients) if patient in record.validation_patients]
    if not kept:
        raise InputError(
            checkpoint, f"its validation patients are not in {icbhi}", "name another checkpoint or folder"
        )
    validation = parts["train"].select(kept)
    _print("icbhi", measure_icbhi(pipeline, validation))
    if sprsound is not None:
        trained = (record.training_patients or {}).get("sprsound", ())
        unseen = [x for x in load_sprsound_recordings(sprsound) if x.patient not in trained]
        _print("sprsound", measure_sprsound(pipeline, unseen))
    paths = dict.fromkeys(row["audio"].path for row in validation)
    _print("robustness", measure_robustness(pipeline, list(paths)))
    _print("simulated", measure_simulated(pipeline))


def _auroc(truth: np.ndarray, score: np.ndarray) -> float:
    return float(roc_auc_score(truth.astype(bool), score))


@reports_input_errors
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = build_parser("hearing", __doc__)
    parser.add_argument("checkpoint", help="folder that a training run left, with its training_summary.json")
    parser.add_argument("--icbhi", required=True, help="folder of ICBHI 2017")
    parser.add_argument("--sprsound", help="folder of SPRSound")
    parser.add_argument("--test", action="store_true", help="measure the ICBHI test part instead, and nothing else")
    options = parser.parse_args(argv)
    measure(options.checkpoint, options.icbhi, options.sprsound, options.test)
    return 0


def _print(name: str, figures: dict[str, Any]) -> None:
    """A line of JSON."""
    rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in figures.items()}
    print(json.dumps({name: rounded}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
