"""The `lung-srad` command.

Only its arguments are imported at first; a subcommand imports what it needs when it runs. Wrong input ends with one
line on standard error and exit code 2, an interruption with 130.
"""

import argparse
import importlib.util
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lung_srad_cli.argument_types import INPUT_ERROR
from lung_srad_cli.arguments import build_parser, check_evaluate_arguments
from lung_srad_cli.errors import UsageError, is_for_users, report

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
    _require_modules(TRAINING_MODULES, extra="train")
    from training.run_training import train as run

    return run(arguments.config, arguments.overrides)


def evaluate(arguments: argparse.Namespace) -> int:
    """`lung-srad evaluate`."""
    _require_modules(TRAINING_MODULES, extra="train")
    check_evaluate_arguments(arguments)
    from training import evaluate_command

    if arguments.compare:
        first, second = arguments.compare
        return evaluate_command.compare(first, second, output=arguments.output)
    if arguments.predictions:
        return evaluate_command.recompute(arguments.predictions, output=arguments.output)
    chosen = {name: getattr(arguments, name) for name in ("split", "part", "batch_size")}
    given = {name: value for name, value in chosen.items() if value is not None}
    return evaluate_command.evaluate(arguments.checkpoints, arguments.data, output=arguments.output, **given)


def convert(arguments: argparse.Namespace) -> int:
    """`lung-srad convert`."""
    from modeling_lung_srad.conversion import convert_checkpoint, convert_feature_extractor

    destination = Path(arguments.destination)
    if destination.is_file() or (destination.is_dir() and any(destination.iterdir())):
        raise UsageError(f"{destination}: holds something already; name a new folder")
    model = convert_checkpoint(arguments.source, num_labels=arguments.num_labels)
    model.save_pretrained(destination)
    convert_feature_extractor(arguments.source).save_pretrained(destination)
    print(f"{destination}: {model.num_parameters() / 1e6:.1f} M parameters, {model.config.num_labels} labels")
    return 0


def prepare(arguments: argparse.Namespace) -> int:
    """`lung-srad prepare`."""
    options = {name: value for name, value in vars(arguments).items() if name not in ("command", "database")}
    if options.pop("layout", "parquet") == "icbhi":
        from dataset_scripts.simulated import write_simulated

        if options.pop("validation"):
            raise UsageError("--validation does not go with --layout icbhi, whose split has two parts; leave it out")
        print(write_simulated(**options))
        return 0
    _require_modules(("datasets",), extra="train")
    from dataset_scripts.prepare import count_prepared, prepare_icbhi, prepare_simulated, prepare_sprsound

    functions = {"icbhi": prepare_icbhi, "sprsound": prepare_sprsound, "simulated": prepare_simulated}
    function: Any = functions[arguments.database]
    folder = function(**options)
    for part, counts in count_prepared(folder).items():
        classes = ", ".join(f"{count} {name}" for name, count in counts.items())
        print(f"{part}: {sum(counts.values())} cycles, {classes}", file=sys.stderr)
    print(folder)
    return 0


def export(arguments: argparse.Namespace) -> int:
    """`lung-srad export`."""
    _require_modules(EXPORT_MODULES, extra="export")
    if arguments.data is not None:
        _require_modules(TRAINING_MODULES, extra="train")
    from lung_srad_cli.export_command import run

    return run(arguments)


def publish(arguments: argparse.Namespace) -> int:
    """`lung-srad publish`."""
    from lung_srad_cli.publish_command import run

    return run(arguments)


def demo(arguments: argparse.Namespace) -> int:
    """`lung-srad demo`."""
    _require_modules(("gradio",), extra="demo")
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


def _require_modules(names: Sequence[str], extra: str) -> None:
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f'{", ".join(missing)} not installed; run pip install "lung-srad[{extra}]"')


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
