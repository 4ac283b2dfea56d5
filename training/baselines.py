"""Baselines beside the network, on the same cycles: always normal, and gradient boosting on log-mel statistics.

`python -m training.baselines ICBHI_FOLDER [--split official] [--output baselines.json]` prints the table for the test
part. Class weights or none are chosen on the validation patients.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.ensemble import HistGradientBoostingClassifier

from modeling_lung_srad import LungSradFeatureExtractor
from modeling_lung_srad.errors import InputError, reports_input_errors
from modeling_lung_srad.files.output_files import check_output
from training.arguments import DataArguments
from training.data.cycle_sources import CycleSource, describe_limits, load_evaluated_source, load_training_sources
from training.data.log_mel_dataset import iterate_log_mel
from training.evaluation import evaluation_report, icbhi_score
from training.report.files import write_json

PERCENTILES = (0.1, 0.5, 0.9)
BINS_PER_BAND = 4
CLASS_WEIGHTS = (None, "balanced")


def log_mel_statistics(log_mel: torch.Tensor) -> np.ndarray:
    """Mean, standard deviation and percentiles 10, 50 and 90 over time of every band of four neighbouring mel bins.

    Args:
        log_mel (`torch.Tensor` of shape `(batch, frames, num_mel_bins)`): normalised spectrograms.

    Returns:
        `np.ndarray` of shape `(batch, 5 * num_mel_bins / 4)`.
    """
    log_mel = log_mel.unflatten(-1, (-1, BINS_PER_BAND)).mean(dim=-1)
    quantiles = torch.quantile(log_mel, torch.tensor(PERCENTILES), dim=1)
    return torch.cat([log_mel.mean(dim=1), log_mel.std(dim=1), *quantiles], dim=-1).numpy()


def compute_statistics(sources: Sequence[CycleSource], description: str) -> tuple[np.ndarray, np.ndarray]:
    """Statistics `(cycles, features)` and labels `(cycles,)` of all cycles, normalised as for the network."""
    extractor = LungSradFeatureExtractor()
    batches = iterate_log_mel(sources, extractor, description)
    statistics = np.concatenate([log_mel_statistics(extractor.normalize(batch)) for batch in batches])
    return statistics, np.array([label for source in sources for label in source.table["label"]])


def fit_gradient_boosting(
    training: tuple[np.ndarray, np.ndarray], validation: tuple[np.ndarray, np.ndarray], seed: int = 0
) -> tuple[HistGradientBoostingClassifier, str | None]:
    """Gradient boosting with the defaults of scikit-learn; class weights are used if they help on validation.

    Args:
        training (`tuple`): statistics and labels to fit.
        validation (`tuple`): statistics and labels of validation patients, to choose the class weights by Score.
        seed (`int`, *optional*, defaults to 0): seed of the boosting.

    Returns:
        `tuple[HistGradientBoostingClassifier, str | None]`: the better classifier and its class weights.
    """
    fitted = []
    for class_weight in CLASS_WEIGHTS:
        classifier = HistGradientBoostingClassifier(class_weight=class_weight, random_state=seed).fit(*training)
        score = icbhi_score(classifier.predict(validation[0]), validation[1])["score"]
        fitted.append((score, classifier, class_weight))
    _, classifier, class_weight = max(fitted, key=lambda candidate: candidate[0])
    return classifier, class_weight


def evaluate_baselines(data: DataArguments) -> dict[str, dict[str, Any]]:
    """Reports of the baselines on the test part, by name, as `evaluation_report` returns them.

    Raises:
        InputError: data that cannot be read, or without normal or abnormal cycles in a part.
    """
    sources = load_training_sources(data)
    if sources.validation is None:
        raise InputError("data.validation", f"{data.validation} leaves no patients to choose the class weights on")
    test = load_evaluated_source(str(data.icbhi), data.split, "test")
    classifier, class_weight = fit_gradient_boosting(
        compute_statistics(sources.training, "statistics, training"),
        compute_statistics([sources.validation], "statistics, validation"),
    )
    statistics, references = compute_statistics([test], "statistics, test")
    predictions = {
        "always normal": np.zeros_like(references),
        f"gradient boosting on log-mel statistics (class weights: {class_weight or 'none'})": classifier.predict(
            statistics
        ),
    }
    about: dict[str, Any] = {"data": str(data.icbhi), "split": data.split, "part": "test"}
    notes = describe_limits(test, data.split, "test")
    columns = (references.tolist(), test.table["recording"], test.table["patient"])
    return {
        name: evaluation_report(predicted, *columns, checkpoint=name, data_notes=notes, **about)
        for name, predicted in predictions.items()
    }


def baselines_table(reports: dict[str, dict[str, Any]]) -> str:
    """The reports as one Markdown table, rates in percent, with the limits of the data below it."""
    lines = [
        "| baseline | Specificity | Sensitivity (4-class) | Score (4-class) | Score (2-class) |",
        "|" + " --- |" * 5,
    ]
    shown = ("specificity", "sensitivity", "score", "score_any_abnormal")
    for name, report in reports.items():
        lines.append(f"| {name} | " + " | ".join(f"{100 * report[rate]:.2f}" for rate in shown) + " |")
    report = next(iter(reports.values()))
    lines += ["", f"{report['cycles']} cycles, {report['recordings']} recordings, {report['patients']} patients."]
    return "\n".join(lines + report["data_notes"]) + "\n"


@reports_input_errors
def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.baselines", description=__doc__)
    parser.add_argument("icbhi", help="folder or zip of ICBHI 2017")
    parser.add_argument("--sprsound", help="folder of SPRSound, as further training data")
    parser.add_argument("--split", default="official", help="official (default), leak_free or fold0 to fold4")
    parser.add_argument("--validation", type=float, default=0.2, help="share of training patients for validation")
    parser.add_argument("--validation-seed", type=int, default=0, help="draw of those patients")
    parser.add_argument("--output", help="JSON file for the reports")
    options = vars(parser.parse_args(argv))
    output = options.pop("output")
    if output is not None:
        check_output(output)
    reports = evaluate_baselines(DataArguments(**options))
    print(baselines_table(reports))
    if output is not None:
        write_json(Path(output), reports)
    return 0


if __name__ == "__main__":
    sys.exit(main())
