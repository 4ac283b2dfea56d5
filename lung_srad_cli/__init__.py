"""The `lung-srad` command.

A file for each subcommand: `add` adds its arguments; `run` runs it and imports what it needs, so help is immediate.
Wrong input ends with one line on standard error and exit code 2, an interruption with 130.
"""

import importlib.metadata
import io
import os
import sys
from collections.abc import Sequence

from lung_srad_cli import (
    classify_arguments,
    convert_command,
    demo_command,
    embed_command,
    env_command,
    evaluate_arguments,
    export_command,
    prepare_command,
    publish_command,
    spectrum_arguments,
    train_command,
)
from lung_srad_cli.argument_types import INPUT_ERROR, Parser, at_revision, check_revision
from lung_srad_cli.errors import report_text

INTERRUPTED, BROKEN_PIPE = 130, 141
COMMANDS = (
    classify_arguments,
    embed_command,
    train_command,
    evaluate_arguments,
    convert_command,
    prepare_command,
    export_command,
    publish_command,
    demo_command,
    spectrum_arguments,
    env_command,
)
DESCRIPTION = """\
Classifies respiratory sounds (normal, crackle, wheeze, both) with the Lung-SRAD model, and trains it.

Research software, not a medical device: its answers must not be used for diagnosis or treatment."""
EPILOG = """\
examples:
  lung-srad classify recording.wav
  lung-srad classify recordings/ --output results.csv --plot plots/
  lung-srad COMMAND --help

exit codes: 0 all done; 2 some input was wrong, with one line about it on standard error; 130 interrupted"""


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Runs the command.

    Args:
        arguments (sequence of `str`, *optional*): by default the arguments of the process.

    Returns:
        `int`: the exit code.
    """
    # For what imports torch before `modeling_lung_srad`, which does the same.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):
        # File names may hold bytes that are not text.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    parsed = build_parser().parse_args(arguments)
    at_revision(parsed)
    try:
        check_revision(parsed)
        exit_code = parsed.run(parsed)
        if sys.stdout is not None:
            sys.stdout.flush()
    except KeyboardInterrupt:
        report_text("interrupted")
        return INTERRUPTED
    except BrokenPipeError:
        # The reader of the output has gone; without this, Python would complain when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (OSError, ValueError) as error:
        from modeling_lung_srad.errors import is_about_input, report

        if not is_about_input(error):
            raise
        report(error)
        return INPUT_ERROR
    return exit_code


def build_parser() -> Parser:
    """The parser of the command line; `command` and `run` of its result are name and function of the subcommand."""
    parser = Parser(prog="lung-srad", description=DESCRIPTION, epilog=EPILOG)
    parser.add_argument("--version", action="version", version=f"lung-srad {importlib.metadata.version('lung-srad')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for command in COMMANDS:
        command.add(commands)
    return parser
