"""The evidence table: rows of runs, a run per patient fold, judged on the patients that each run did not see.

    python -m benchmarks.evidence ROW=RUN,RUN,RUN ... --icbhi FOLDER --sprsound FOLDER [--boosting]

A run is a folder that `lung-srad train` left with `data.validation=0.33 data.sprsound_validation=0.33` and
`data.validation_seed` 0, 1 and 2, so that every training patient of both databases is validated once. Weights are
those of the last step, before anything is fitted to validation patients. The threshold of a fold, one for both sounds,
is fitted to the other folds. Figures are means over folds, intervals 95 % by draws of patients within folds.

Runs of one fold with several seeds have AUROC alone, as there are no other patients for a threshold: mean, interval by
draws of patients, the same for all seeds, and in brackets the lowest and highest of the seeds.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import logit, softmax
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from benchmarks.command import build_parser
from modeling_lung_srad.errors import reports_input_errors
from modeling_lung_srad.modeling_lung_srad import compose_classes
from modeling_lung_srad.timeline import add_context
from training.arguments import DataArguments
from training.baselines import compute_statistics
from training.data.cycle_sources import CycleSource, load_training_sources
from training.metrics.icbhi_score.icbhi_measure import icbhi_score
from training.metrics.sprsound_score.sprsound_measure import sprsound_score
from training.prediction.classifier_loading import load_classifier
from training.prediction.evaluate_checkpoint import predict
from training.record.training_record import TRAINING_SUMMARY

THRESHOLDS = np.arange(0.04, 0.98, 0.02).round(2)
PREDICTIONS = "held_out_predictions.npz"
DRAWS = 1000
COLUMNS = {
    "sprsound": ("auroc", "score"),
    "icbhi": ("auroc", "score", "specificity", "sensitivity"),
}
TITLES = {
    "sprsound auroc": "SPRSound AUROC",
    "sprsound score": "Task 1-1",
    "icbhi auroc": "ICBHI AUROC",
    "icbhi score": "Score",
    "icbhi specificity": "Sp",
    "icbhi sensitivity": "Se",
}


class HeldOut(NamedTuple):
    """Cycles of one database and one fold: probabilities `(cycles, 4)`; classes, patients and recordings `(cycles,)`;
    start and end in seconds `(cycles, 2)`."""

    probabilities: np.ndarray
    labels: np.ndarray
    patients: np.ndarray
    recordings: np.ndarray
    spans: np.ndarray


Fold = dict[str, HeldOut]


def predict_run(run: Path, folders: dict[str, str]) -> Fold:
    """The held-out cycles of a run by database; kept in its folder."""

    def predict_all(data: DataArguments) -> Fold:
        last = max(run.glob("checkpoint-*"), key=lambda folder: int(folder.name.split("-")[1]))
        model, feature_extractor = load_classifier(last)
        sources = load_training_sources(data, "last").calibration
        fold = {}
        for source in sources:
            fold[source.name] = _held_out(source, predict(model, feature_extractor, source))
        return fold

    return _kept(run / PREDICTIONS, predict_all, run, folders)


def predict_boosting(run: Path, folders: dict[str, str]) -> Fold:
    """Gradient boosting on log-mel statistics, fitted to the training cycles of a run."""

    def fit_and_predict(data: DataArguments) -> Fold:
        sources = load_training_sources(data, "last")
        classifier = HistGradientBoostingClassifier(class_weight="balanced", random_state=0)
        classifier.fit(*compute_statistics(sources.training, "statistics, training"))
        fold = {}
        for source in sources.calibration:
            statistics, _ = compute_statistics([source], "statistics, held out")
            fold[source.name] = _held_out(source, classifier.predict_proba(statistics))
        return fold

    return _kept(run / "boosting.npz", fit_and_predict, run, folders)


def _held_out(source: CycleSource, probabilities: np.ndarray) -> HeldOut:
    table = source.table
    spans = np.stack((table["start"], table["end"]), axis=1)
    labels, patients, recordings = (np.array(table[name]) for name in ("label", "patient", "recording"))
    return HeldOut(probabilities, labels, patients, recordings, spans)


def _kept(file: Path, make: Callable[[DataArguments], Fold], run: Path, folders: dict[str, str]) -> Fold:
    """The fold that a file holds; it is made where it is missing."""
    if not file.exists():
        summary = json.loads((run / TRAINING_SUMMARY).read_text(encoding="utf-8"))
        fold = make(DataArguments(**summary["configuration"]["data"] | folders))
        columns = {f"{name} {field}": value for name, part in fold.items() for field, value in part._asdict().items()}
        np.savez(file, **columns)
    with np.load(file) as columns:
        return {name: HeldOut(*(columns[f"{name} {field}"] for field in HeldOut._fields)) for name in COLUMNS}


def always_normal(fold: Fold) -> Fold:
    """The same cycles, all called normal."""
    return {
        name: part._replace(probabilities=np.eye(4)[np.zeros(len(part.labels), dtype=int)])
        for name, part in fold.items()
    }


def with_context(part: HeldOut, weight: float) -> HeldOut:
    """The cycles with their surroundings in the recording taken into account."""
    sounds = (part.probabilities[:, 1:3] + part.probabilities[:, 3:]).clip(1e-6, 1 - 1e-6)
    odds = logit(sounds)
    for recording in np.unique(part.recordings):
        own = part.recordings == recording
        odds[own] = add_context(odds[own], part.spans[own].tolist(), weight)
    return part._replace(probabilities=softmax(compose_classes(torch.from_numpy(odds)).numpy(), axis=1))


def classify(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Classes `(cycles,)`: a sound is named from `threshold` on."""
    sounds = probabilities[:, 1:3] + probabilities[:, 3:]
    return (sounds >= threshold) @ np.array([1, 2])


def rates(part: HeldOut, threshold: float, name: str) -> dict[str, float]:
    """Score and its parts of one database."""
    predicted = classify(part.probabilities, threshold)
    if name == "sprsound":
        return sprsound_score((predicted > 0).astype(int), (part.labels > 0).astype(int), "1-1")
    return icbhi_score(predicted, part.labels)


def fit_threshold(folds: Sequence[Fold]) -> float:
    """The threshold with the best mean Score of both databases."""

    def mean_score(threshold: float) -> float:
        return float(np.mean([rates(part, threshold, name)["score"] for fold in folds for name, part in fold.items()]))

    return max(THRESHOLDS, key=mean_score)


def measure(folds: Sequence[Fold], thresholds: Sequence[float | None]) -> dict[str, list[float]]:
    """All figures of each fold; AUROC alone for those without a threshold."""
    figures: dict[str, list[float]] = {}
    for fold, threshold in zip(folds, thresholds, strict=True):
        for name, wanted in COLUMNS.items():
            part = fold[name]
            found = {} if threshold is None else dict(rates(part, threshold, name))
            found["auroc"] = roc_auc_score(part.labels > 0, 1 - part.probabilities[:, 0])
            for figure in wanted:
                if figure in found:
                    figures.setdefault(f"{name} {figure}", []).append(found[figure])
    return figures


def draw(part: HeldOut, generator: np.random.Generator) -> HeldOut:
    """The cycles of as many patients as there are, drawn with replacement."""
    names, place = np.unique(part.patients, return_inverse=True)
    while True:
        chosen = generator.integers(len(names), size=len(names))
        rows = np.concatenate([np.flatnonzero(place == name) for name in chosen])
        if len(set(part.labels[rows] > 0)) == 2:
            return HeldOut(*(column[rows] for column in part))


def row(name: str, folds: Sequence[Fold]) -> str:
    """A row of the table in percent, with intervals."""
    patients = [tuple(sorted({name for part in fold.values() for name in part.patients})) for fold in folds]
    others = [[fold for fold, theirs in zip(folds, patients, strict=True) if theirs != own] for own in patients]
    thresholds = [fit_threshold(rest) if rest else None for rest in others]
    figures = measure(folds, thresholds)
    draws = []
    for number in range(DRAWS):
        # Runs of one fold get the same patients.
        generators = [np.random.default_rng([number, len(own)]) for own in patients]
        drawn = [
            {key: draw(part, generator) for key, part in fold.items()}
            for fold, generator in zip(folds, generators, strict=True)
        ]
        draws.append(measure(drawn, thresholds))
    cells = []
    for title in TITLES:
        if title not in figures:
            cells.append("")
            continue
        low, high = np.quantile([np.mean(found[title]) for found in draws], (0.025, 0.975))
        cell = f"{100 * np.mean(figures[title]):.1f} ({100 * low:.0f} to {100 * high:.0f})"
        if None in thresholds:
            cell += f" [{100 * min(figures[title]):.1f} to {100 * max(figures[title]):.1f}]"
        cells.append(cell)
    return f"| {name} | {' | '.join(cells)} |"


@reports_input_errors
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = build_parser("evidence", __doc__)
    parser.add_argument("rows", nargs="+", metavar="ROW=RUN,RUN,RUN", help="name of a row, and its runs")
    parser.add_argument("--icbhi", required=True, help="folder of ICBHI 2017")
    parser.add_argument("--sprsound", required=True, help="folder of SPRSound")
    parser.add_argument("--context", type=float, metavar="WEIGHT", help="a second row for each, with context")
    parser.add_argument("--boosting", action="store_true", help="also always normal and gradient boosting")
    options = parser.parse_args(argv)
    data = {"icbhi": options.icbhi, "sprsound": options.sprsound}
    print(f"| | {' | '.join(TITLES.values())} |")
    print("|" + " --- |" * (len(TITLES) + 1))
    for number, given in enumerate(options.rows):
        name, _, runs = given.partition("=")
        folders = [Path(run) for run in runs.split(",")]
        folds = [predict_run(folder, data) for folder in folders]
        if number == 0 and options.boosting:
            print(row("always normal", [always_normal(fold) for fold in folds]), flush=True)
            print(row("gradient boosting", [predict_boosting(folder, data) for folder in folders]), flush=True)
        print(row(name, folds), flush=True)
        if options.context:
            folds = [{key: with_context(part, options.context) for key, part in fold.items()} for fold in folds]
            print(row(f"{name}, context", folds), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
