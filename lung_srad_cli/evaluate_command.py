"""`lung-srad evaluate`: checkpoints on data, a report from its predictions alone, and two reports compared."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from training.prediction.classifier_loading import load_classifier
from training.prediction.evaluate_checkpoint import evaluate_checkpoint
from training.report.comparison import compare_reports, markdown_comparison
from training.report.figures import build_report
from training.report.files import (
    PREDICTIONS_CSV,
    REPORT_FILES,
    check_output_folder,
    check_scorable,
    make_output_folder,
    predictions_file,
    read_report,
    write_figures,
    write_json,
    write_report,
    write_text,
)
from training.report.markdown import markdown_report
from training.report.seeds import markdown_seeds, report_names, summarize_seeds

SEEDS_JSON, SEEDS_MARKDOWN = "seeds.json", "seeds.md"
COMPARISON_JSON, COMPARISON_MARKDOWN = "comparison.json", "comparison.md"


def run(arguments: argparse.Namespace) -> int:
    """Evaluates, recomputes or compares, as the arguments say."""
    if arguments.compare:
        first, second = arguments.compare
        compare(first, second, output=arguments.output)
    elif arguments.predictions:
        recompute(arguments.predictions, output=arguments.output)
    else:
        chosen = {name: getattr(arguments, name) for name in ("split", "part", "batch_size")}
        given = {name: value for name, value in chosen.items() if value is not None}
        evaluate(arguments.checkpoints, arguments.data, output=arguments.output, **given)
    return 0


def evaluate(
    checkpoints: Sequence[str],
    data: str,
    split: str = "official",
    part: str = "test",
    output: str | None = None,
    batch_size: int = 16,
) -> None:
    """Evaluates checkpoints, prints the report as Markdown and writes it to a folder.

    The report of one checkpoint is written to `output` itself. With several, each gets a folder of its name there, and
    their table is printed and written as `seeds.md` and `seeds.json`.

    Args:
        checkpoints (sequence of `str`): folders of checkpoints, or ids on the Hub.
        data (`str`): folder or zip of ICBHI 2017, or a folder that `lung-srad prepare` wrote.
        split (`str`, *optional*, defaults to `"official"`): `official`, `leak_free` or `fold0` to `fold4`.
        part (`str`, *optional*, defaults to `"test"`): `test`, `validation` or `train`.
        output (`str`, *optional*): folder for the report.
        batch_size (`int`, *optional*, defaults to 16): cycles per forward pass.
    """
    if output is not None:
        check_output_folder(output)
    if len(checkpoints) > 1:
        _evaluate_several(checkpoints, data, split, part, output, batch_size)
        return
    report, cycles = evaluate_checkpoint(checkpoints[0], data, split, part, batch_size)
    print(markdown_report(report))
    if output is not None:
        write_report(output, report, cycles)
    _say_written(output, REPORT_FILES)


def _evaluate_several(
    checkpoints: Sequence[str], data: str, split: str, part: str, output: str | None, batch_size: int
) -> None:
    # A mistake in the last name should not come to light after hours of the others.
    for checkpoint in checkpoints[1:]:
        load_classifier(checkpoint)
    names, reports, predictions = report_names(checkpoints), [], []
    for name, checkpoint in zip(names, checkpoints, strict=True):
        report, cycles = evaluate_checkpoint(checkpoint, data, split, part, batch_size)
        reports.append(report)
        predictions.append(cycles)
        if output is not None:
            write_report(Path(output) / name, report, cycles)
    summary = summarize_seeds(names, reports, predictions)
    print(markdown_seeds(summary))
    if output is not None:
        folder = make_output_folder(output)
        write_json(folder / SEEDS_JSON, summary)
        write_text(folder / SEEDS_MARKDOWN, markdown_seeds(summary))
    _say_written(output, (SEEDS_JSON, SEEDS_MARKDOWN, *(f"{name}/" for name in names)))


def recompute(predictions: str, output: str | None = None) -> None:
    """Makes the report of an earlier evaluation again from its predictions, without audio and without the model.

    Args:
        predictions (`str`): folder of a report, or its `predictions.csv`.
        output (`str`, *optional*): folder for the report; it may be the same folder.
    """
    if output is not None:
        check_output_folder(output)
    cycles, about = read_report(predictions)
    check_scorable(predictions, cycles, about["part"])
    report = build_report(cycles, about)
    print(markdown_report(report))
    if output is not None:
        # The predictions that were read stay as they are, with whatever columns someone added.
        read_from = predictions_file(predictions)
        is_same = read_from.resolve() == (Path(os.path.expanduser(output)) / PREDICTIONS_CSV).resolve()
        write = write_figures if is_same else write_report
        write(output, report, cycles)
    _say_written(output, REPORT_FILES)


def compare(first: str, second: str, output: str | None = None) -> None:
    """Compares two earlier evaluations of the same cycles, prints the differences and writes them to a folder.

    Args:
        first, second (`str`): folders of reports, or their `predictions.csv`.
        output (`str`, *optional*): folder for `comparison.md` and `comparison.json`.
    """
    if output is not None:
        check_output_folder(output)
    comparison = compare_reports(read_report(first), read_report(second), [first, second])
    print(markdown_comparison(comparison))
    if output is not None:
        folder = make_output_folder(output)
        write_json(folder / COMPARISON_JSON, comparison)
        write_text(folder / COMPARISON_MARKDOWN, markdown_comparison(comparison))
    _say_written(output, (COMPARISON_JSON, COMPARISON_MARKDOWN))


def _say_written(output: str | None, files: Sequence[str]) -> None:
    if output is not None:
        print(f"written to {output}: {', '.join(files)}")
