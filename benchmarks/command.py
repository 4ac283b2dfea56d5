"""The command lines of the benchmarks: help, and figures in a file."""

import argparse
import json
from typing import Any

from modeling_lung_srad.files.output_files import replaced_when_complete


def build_parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """
    A parser whose help keeps the line breaks of the description.

    Args:
        module (`str`): name of the benchmark's file.
        description (`str`, *optional*): its docstring.
    """
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{module}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def write_json(path: str, figures: dict[str, Any]) -> None:
    """Writes figures; a file that is there is replaced when the new one is complete."""
    with replaced_when_complete(path) as temporary:
        temporary.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
