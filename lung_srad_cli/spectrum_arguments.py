"""The arguments of `lung-srad spectrum`."""

import argparse
import contextlib
import math
from typing import Any

from lung_srad_cli.argument_types import COUNT, SECONDS, add_revision, number, path

DESCRIPTION = """\
Shows which spatial frequencies the layers of a model keep: the effective attention of SS2D blocks and the attention of
AST as matrices between the patches of the mel-time grid, and their spectral response |F M F^-1| (arXiv 2606.11922).

Measures are averaged over the windows of a recording first; mean and standard deviation are over
recordings. The dense matrices take memory: 3 GB in all where a grid has 8192 patches, as the first stage of the
large models."""
EPILOG = """\
examples:
  lung-srad spectrum modeling_lung_srad/checkpoints/lung-srad-tiny recordings/
  lung-srad spectrum runs/first --compare runs/ast recordings/ --output spectrum/
  lung-srad spectrum runs/first recording.wav --stage 2 --blocks 2,8,12 --position 3.5 400
  lung-srad spectrum runs/first recordings/ --regularization --output figures.svg

--output DIR gets responses.png (the curves of the chosen blocks, beside those of --compare), depth.png (the figures of
all blocks), attention.png (what one position of the first recording reads), summary.csv (a row per block: share of the
response at frequency 0 and above half Nyquist, -3 dB point in cycles per patch, high-to-low ratio, each with its
standard deviation) and curves.csv. --output NAME.svg or NAME.png gives NAME_responses.svg, NAME_summary.csv and so on.
--regularization adds regularization.png and regularization.csv: the response with the Gaussian convolution, of the
scan alone, and of the network with the convolution switched off.

Frequencies are those of the flattened grid, row after row: what repeats from row to row is at multiples of 1/columns.
docs/spectral.md says what the figures show and what they do not. Research software, not a medical device."""

STAGE = number(int, 0, math.inf, "a whole number from 0 on")


def indices(text: str) -> list[int]:
    """A `type` for arguments: whole numbers from 0 on, separated by commas."""
    with contextlib.suppress(ValueError):
        values = [int(part) for part in text.split(",")]
        if min(values) >= 0:
            return values
    raise argparse.ArgumentTypeError(f"{text!r} is not whole numbers from 0 on, separated by commas, such as 2,8,12")


def add(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser(
        "spectrum", help="show which spatial frequencies layers keep", description=DESCRIPTION, epilog=EPILOG
    )
    parser.add_argument("checkpoint", type=path, metavar="CHECKPOINT", help="its folder, or its id on the Hub")
    parser.add_argument(
        "recordings", nargs="+", type=path, metavar="RECORDING", help="a recording, or a folder or zip of them"
    )
    parser.add_argument(
        "--compare", type=path, metavar="CHECKPOINT_OR_AST", help="a second model: Lung-SRAD, or an AST trained here"
    )
    parser.add_argument(
        "--output",
        type=path,
        default="spectrum",
        metavar="DIR",
        help="folder for figures and tables, or a name ending in .png or .svg that theirs begin with "
        "(default: spectrum)",
    )
    parser.add_argument("--stage", type=STAGE, metavar="N", help="stage of the curves and maps (default: 2)")
    parser.add_argument(
        "--blocks",
        type=indices,
        metavar="N,N,...",
        help="its blocks to draw, from 0 (default: 2,8,12 as published; where there are fewer, three evenly spaced)",
    )
    parser.add_argument(
        "--compare-stage", type=STAGE, metavar="N", help="the same for a Lung-SRAD --compare (default: --stage)"
    )
    parser.add_argument(
        "--compare-blocks",
        type=indices,
        metavar="N,N,...",
        help="blocks or AST layers of --compare to draw (default: 1,6,9 of AST as published, otherwise as --blocks)",
    )
    parser.add_argument(
        "--position",
        nargs=2,
        type=number(float, 0, math.inf, "a number from 0 on"),
        metavar=("SECONDS", "HZ"),
        help="of the attention maps, in the first recording (default: the middle of its first window, 400 Hz)",
    )
    parser.add_argument(
        "--definition",
        choices=("exact", "published"),
        default="exact",
        help="of effective attention: exact, the Jacobian of the scan for its input; published, as the reference code "
        "computes it, without the step sizes and min-max normalised (default: exact)",
    )
    parser.add_argument(
        "--regularization", action="store_true", help="also show what the Gaussian convolution of CHECKPOINT does"
    )
    parser.add_argument("--window", type=SECONDS, metavar="S", help="seconds of a window (default: 8)")
    parser.add_argument("--hop", type=SECONDS, metavar="S", help="seconds between windows (default: --window)")
    parser.add_argument(
        "--windows",
        type=COUNT,
        default=3,
        metavar="N",
        help="at most so many windows of a recording, evenly spaced (default: 3)",
    )
    add_revision(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the subcommand; returns the exit code."""
    from lung_srad_cli import spectrum_command

    return spectrum_command.run(arguments)
