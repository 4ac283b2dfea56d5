"""The `lung-srad` command.

Only its arguments are imported at first; a subcommand imports what it needs when it runs. Wrong input ends with one
line on standard error and exit code 2, an interruption with 130.
"""

import argparse
import io
import os
import sys
from collections.abc import Sequence

from lung_srad_cli.argument_types import INPUT_ERROR
from lung_srad_cli.arguments import build_parser, check_evaluate_arguments
from lung_srad_cli.errors import is_for_users, report, require_modules

INTERRUPTED, BROKEN_PIPE = 130, 141
TRAINING_MODULES = ("accelerate", "datasets", "evaluate", "sklearn", "yaml")
EXPORT_MODULES = ("onnx", "onnxruntime", "onnxscript")


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Runs the command.

    Args:
        arguments (sequence of `str`, *optional*): those of the process by default.

    Returns:
        `int`: the exit code.
    """
    for stream in (sys.stdout, sys.stderr):
        # File names may hold bytes that are no text.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    parsed = build_parser().parse_args(arguments)
    try:
        exit_code = HANDLERS[parsed.command](parsed)
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        report("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output has gone; without this, Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (OSError, ValueError) as error:
        if not is_for_users(error):
            raise
        report(error)
        return INPUT_ERROR
    return exit_code


def classify(arguments: argparse.Namespace) -> int:
    """`lung-srad classify`."""
    from lung_srad_cli.classify_command import run

    return run(arguments)


def train(arguments: argparse.Namespace) -> int:
    """`lung-srad train`."""
    require_modules(TRAINING_MODULES, extra="train")
    from training.run_training import train as run

    return run(arguments.config, arguments.overrides)


def evaluate(arguments: argparse.Namespace) -> int:
    """`lung-srad evaluate`."""
    require_modules(TRAINING_MODULES, extra="train")
    check_evaluate_arguments(arguments)
    from lung_srad_cli.evaluate_command import run

    return run(arguments)


def convert(arguments: argparse.Namespace) -> int:
    """`lung-srad convert`."""
    from lung_srad_cli.convert_command import run

    return run(arguments)


def prepare(arguments: argparse.Namespace) -> int:
    """`lung-srad prepare`."""
    from lung_srad_cli.prepare_command import run

    return run(arguments)


def export(arguments: argparse.Namespace) -> int:
    """`lung-srad export`."""
    require_modules(EXPORT_MODULES, extra="export")
    if arguments.data is not None:
        require_modules(TRAINING_MODULES, extra="train")
    from lung_srad_cli.export_command import run

    return run(arguments)


def publish(arguments: argparse.Namespace) -> int:
    """`lung-srad publish`."""
    from lung_srad_cli.publish_command import run

    return run(arguments)


def demo(arguments: argparse.Namespace) -> int:
    """`lung-srad demo`."""
    require_modules(("gradio",), extra="demo")
    from lung_srad_cli.demo_command import run

    return run(arguments)


def spectrum(arguments: argparse.Namespace) -> int:
    """`lung-srad spectrum`."""
    from lung_srad_cli.spectrum_command import run

    return run(arguments)


def env(arguments: argparse.Namespace) -> int:
    """`lung-srad env`."""
    from lung_srad_cli.env_command import run

    return run(arguments)


HANDLERS = {
    "classify": classify,
    "train": train,
    "evaluate": evaluate,
    "convert": convert,
    "prepare": prepare,
    "export": export,
    "publish": publish,
    "demo": demo,
    "spectrum": spectrum,
    "env": env,
}
