"""The arguments of `lung-srad evaluate`."""

import argparse
from typing import Any

from lung_srad_cli.argument_types import SPLITS, add_batch_size, add_revision, path
from lung_srad_cli.errors import TRAINING_MODULES, require_modules

USAGE = """\
lung-srad evaluate CHECKPOINT [CHECKPOINT ...] DATA [--split SPLIT] [--part PART] [--output DIR] [--batch-size N]
       lung-srad evaluate --predictions REPORT [--output DIR]
       lung-srad evaluate --compare A B [--output DIR]"""
EPILOG = """\
examples:
  lung-srad evaluate runs/first ICBHI_final_database
  lung-srad evaluate runs/first ICBHI_final_database --split leak_free --output report/
  lung-srad evaluate runs/seed1 runs/seed2 runs/seed3 ICBHI_final_database --output seeds/
  lung-srad evaluate --predictions report/ --output again/
  lung-srad evaluate --compare seeds/seed1 seeds/seed2 --output comparison/

The figures are specificity, sensitivity and Score of ICBHI 2017, both as 4-class and as 2-class measure; precision,
recall and F1 by class; AUROC and AUPRC; calibration; abstention; and subgroups; with 95 % intervals over patients.
--output adds evaluation.json, evaluation.md, evaluation.png, predictions.csv and patients.csv. Several checkpoints get
such a folder each and one table, seeds.md, with mean and standard deviation."""


def add(commands: Any) -> None:
    """Adds the subcommand."""
    summary = "measure a checkpoint on labelled cycles"
    parser = commands.add_parser("evaluate", help=summary, description=summary, usage=USAGE, epilog=EPILOG)
    checkpoints = parser.add_argument(
        "checkpoints",
        nargs="+",
        type=path,
        metavar="CHECKPOINT",
        help="folder of a checkpoint, or its id on the Hub; several, such as seeds, make one table",
    )
    data = parser.add_argument(
        "data", metavar="DATA", help="ICBHI 2017 (folder or zip), or a folder that `lung-srad prepare` wrote"
    )

    class InsteadOfCheckpoints(argparse.Action):
        """An option with which checkpoints and data are not asked for."""

        def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
            checkpoints.required = data.required = False
            setattr(namespace, self.dest, values)

    parser.add_argument(
        "--predictions",
        action=InsteadOfCheckpoints,
        type=path,
        metavar="REPORT",
        help="make the report again from the predictions in this folder or .csv, without audio or model",
    )
    parser.add_argument(
        "--compare",
        action=InsteadOfCheckpoints,
        nargs=2,
        type=path,
        metavar=("A", "B"),
        help="paired bootstrap of two reports (folders or predictions.csv) of the same cycles",
    )
    parser.add_argument("--split", choices=SPLITS, help="default: official")
    parser.add_argument("--part", choices=("test", "validation", "train"), help="default: test")
    parser.add_argument("--output", type=path, metavar="DIR", help="folder for the report and the predictions")
    add_revision(parser)
    add_batch_size(parser)
    parser.set_defaults(batch_size=None, run=run)


def check_options(arguments: argparse.Namespace) -> None:
    """Raises `InputError` for options that do not go together."""
    if not arguments.compare and not arguments.predictions:
        return
    mode = "--compare" if arguments.compare else "--predictions"
    others = {
        "--predictions": arguments.predictions if arguments.compare else None,
        "CHECKPOINT": arguments.checkpoints,
        "--split": arguments.split,
        "--part": arguments.part,
        "--batch-size": arguments.batch_size,
    }
    for name, value in others.items():
        if value:
            from modeling_lung_srad.errors import InputError

            raise InputError(
                name, f"does not go with {mode}, which needs no model and no audio", "leave one of them out"
            )


def run(arguments: argparse.Namespace) -> int:
    """Evaluates; returns the exit code."""
    require_modules(TRAINING_MODULES, extra="train")
    check_options(arguments)
    from lung_srad_cli import evaluate_command

    return evaluate_command.run(arguments)
