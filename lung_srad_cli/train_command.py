"""`lung-srad train`: one run of training, as a configuration file says."""

import argparse
from typing import Any

from lung_srad_cli.argument_types import path
from lung_srad_cli.errors import TRAINING_MODULES, require_modules

EPILOG = """\
examples:
  lung-srad train training/configs/tiny_cpu.yaml data.icbhi=ICBHI_final_database output_dir=runs/first
  lung-srad train training/configs/smoke.yaml                        simulated sounds, under a minute
  accelerate launch training/run_training.py CONFIG.yaml             several devices or machines

The same command again goes on from the last checkpoint of an interrupted run. docs/training.md describes
the settings; a key inside a section is written section.key."""


def add(commands: Any) -> None:
    """Adds the subcommand."""
    summary = "train a model as a configuration file says"
    parser = commands.add_parser("train", help=summary, description=summary, epilog=EPILOG)
    parser.add_argument(
        "config", type=path, metavar="CONFIG.yaml", help="the configuration; training/configs has examples"
    )
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="settings that replace those of the file"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Trains; returns the exit code."""
    require_modules(TRAINING_MODULES, extra="train")
    from training.run_training import train

    return train(arguments.config, arguments.overrides)
