"""Types of arguments that subcommands share; only the standard library is imported."""

import argparse
import contextlib
import math
from typing import Any, NoReturn

from lung_srad_cli.errors import report_text

INPUT_ERROR = 2
SPLITS = ("official", "leak_free", "fold0", "fold1", "fold2", "fold3", "fold4")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line and whose help keeps the line breaks of the texts above."""

    def __init__(self, **kwargs: Any):
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **kwargs)

    def error(self, message: str) -> NoReturn:
        report_text(f"{message}; see `{self.prog} --help`")
        raise SystemExit(INPUT_ERROR)


def number(kind: Any, lowest: float, below: float, wanted: str) -> Any:
    """A `type` for arguments: a number of that kind, from `lowest` on and under `below`."""

    def convert_text(text: str) -> Any:
        with contextlib.suppress(ValueError):
            if lowest <= kind(text) < below:
                return kind(text)
        raise argparse.ArgumentTypeError(f"{text!r} is not {wanted}")

    return convert_text


def path(text: str) -> str:
    """A `type` for arguments: a path or name. An empty one, as of an unset shell variable, is a mistake."""
    if not text:
        raise argparse.ArgumentTypeError("the path is empty")
    return text


SECONDS = number(float, 1e-9, math.inf, "a positive number of seconds")
COUNT = number(int, 1, math.inf, "a whole number from 1 on")
PATIENTS = number(int, 2, math.inf, "a whole number from 2 on, for a training and a test part")
SEED = number(int, 0, 2**32, "a whole number from 0 on")
PROBABILITY = number(float, 0, math.nextafter(1, 2), "a probability from 0 to 1")
SHARE = number(float, 0, 1, "a share from 0 up to, but not including, 1")


def add_revision(parser: Parser) -> None:
    """Adds `--revision`; [`at_revision`] joins it with the names of checkpoints."""
    parser.add_argument(
        "--revision", type=path, metavar="REV", help="branch, tag or commit of a checkpoint on the Hub"
    )


def at_revision(arguments: argparse.Namespace) -> None:
    """Puts `--revision` behind the names of checkpoints, as `USER/NAME@REVISION`."""
    revision = getattr(arguments, "revision", None)
    if not revision:
        return
    if getattr(arguments, "checkpoint", None):
        arguments.checkpoint = f"{arguments.checkpoint}@{revision}"
    if getattr(arguments, "checkpoints", None):
        arguments.checkpoints = [f"{name}@{revision}" for name in arguments.checkpoints]


def check_revision(arguments: argparse.Namespace) -> None:
    """Raises `InputError` for `--revision` without a checkpoint that it could be of."""
    named = getattr(arguments, "checkpoint", None) or getattr(arguments, "checkpoints", None)
    if getattr(arguments, "revision", None) and not named:
        from modeling_lung_srad.errors import InputError

        raise InputError("--revision", "is of a checkpoint on the Hub", "name that as well, or leave it out")


def add_pipeline(parser: Parser) -> None:
    """Adds the options of all that runs the pipeline on recordings: checkpoint, windows and batch size."""
    parser.add_argument(
        "--checkpoint",
        type=path,
        metavar="DIR_OR_HUB_ID",
        help="the model (default: lung-srad-tiny, part of the package)",
    )
    parser.add_argument("--window", type=SECONDS, metavar="S", help="seconds of a window (default: the model's)")
    parser.add_argument("--hop", type=SECONDS, metavar="S", help="seconds between windows (default: half a window)")
    add_revision(parser)
    add_batch_size(parser)


def add_batch_size(parser: Parser) -> None:
    """Adds `--batch-size`."""
    parser.add_argument("--batch-size", type=COUNT, default=16, metavar="N", help="cycles at once (default: 16)")
