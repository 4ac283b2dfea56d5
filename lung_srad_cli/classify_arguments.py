"""The arguments of `lung-srad classify`."""

import argparse
from typing import Any

from lung_srad_cli.argument_types import PROBABILITY, add_pipeline, path

DESCRIPTION = """\
Gives every window, or every breathing cycle, of recordings its class and the probabilities of the four classes, and
says what makes an answer doubtful: low confidence, silence, clipping, a faint, narrow, short or unfamiliar sound.

Files: wav, flac, ogg, opus, mp3, aiff, au, caf; with PyAV (pip install "lung-srad[formats]") also m4a, mp4, 3gp, webm,
amr, aac and wma. They may have any rate from 2 kHz on; stereo is mixed down. A file that cannot be used is named on
standard error together with the remedy, and the others are done."""
EPILOG = """\
examples:
  lung-srad classify recording.wav                                   windows of 2 s, 1 s apart, as a table
  lung-srad classify recording.wav --annotations recording.txt       the annotated cycles
  lung-srad classify ICBHI/ --annotations ICBHI/ --output out.csv    every recording, with the .txt of its name
  lung-srad classify recordings.zip --output out.parquet             read without unpacking
  lung-srad classify recordings/ --window 4 --hop 1 --format json
  lung-srad classify recordings/ --summary --output summary.csv      one row a recording
  lung-srad classify recording.wav --format audacity --output recording.labels.txt
  lung-srad classify recording.wav --plot timeline.png
  accelerate launch --multi_gpu --num_processes 2 -m lung_srad_cli classify recordings/ --output out.csv

With --output, what is done is kept in FILE.partial: after an interruption the same command goes on from there.

CSV: a row per window or cycle, with the columns file,start,end,label,normal,crackle,wheeze,both (seconds, class name,
the four probabilities), abstained (true where the answer should not be used), flags (names, separated by ;) and, with
--annotations, reference (the annotated class). Parquet has the same columns.
JSON: a list with an object per recording: file, duration, sampling_rate, calibrated, cycles_given, summary, quality
and timeline, as LungSoundPipeline returns it in Python."""


def add(commands: Any) -> None:
    """Adds the subcommand."""
    parser = commands.add_parser("classify", help="classify recordings", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument(
        "paths",
        nargs="+",
        type=path,
        metavar="PATH",
        help="a recording, or a folder or zip of them; @FILE: those that FILE names, a line each; -: that standard "
        "input names",
    )
    parser.add_argument(
        "--annotations",
        type=path,
        metavar="FILE",
        help="classify these cycles: an ICBHI .txt (start, end, crackle, wheeze; tabs), labels of Audacity or a "
        "table of Raven, or a folder of them",
    )
    parser.add_argument(
        "--min-confidence",
        type=PROBABILITY,
        metavar="P",
        help="abstain where the most probable class has less than this probability (default: 0.5; 0: never)",
    )
    parser.add_argument(
        "--format",
        choices=("table", "csv", "json", "parquet", "audacity", "raven"),
        help="default: by the suffix of --output, otherwise table; labels for Audacity (one recording) or Raven",
    )
    parser.add_argument("--summary", action="store_true", help="one row a recording in place of its windows")
    parser.add_argument("--bom", action="store_true", help="begin CSV with a byte order mark, for Excel")
    parser.add_argument(
        "--output", type=path, metavar="FILE", help="write the results there (default: standard output)"
    )
    parser.add_argument(
        "--plot",
        type=path,
        metavar="PNG",
        help="draw spectrogram, classes, quality flags and probabilities over time; .svg and .pdf work too; for "
        "several recordings their names are added, or give a folder",
    )
    add_pipeline(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Runs the subcommand; returns the exit code."""
    from lung_srad_cli import classify_command

    return classify_command.run(arguments)
