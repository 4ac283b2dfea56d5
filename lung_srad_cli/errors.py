"""Errors about wrong input: one line each, on standard error."""

import contextlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence

TRAINING_MODULES = ("accelerate", "datasets", "evaluate", "sklearn", "yaml")
OWN_PACKAGES = ("lung_srad_cli", "modeling_lung_srad", "dataset_scripts", "training")


class UsageError(ValueError):
    """Arguments that cannot be followed, alone or together; the message names them and the remedy."""


def report(problem: object) -> None:
    """Prints a problem as one line; a progress bar is kept whole, and no file name can control the terminal."""
    from tqdm import tqdm

    line = " ".join(_describe(problem).splitlines())
    tqdm.write(f"lung-srad: error: {printable(line)}", file=sys.stderr)


def printable(line: str) -> str:
    """`modeling_lung_srad.files.result_formats.printable` without its imports."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in line)


def _describe(problem: object) -> str:
    if not isinstance(problem, OSError) or problem.strerror is None:
        return str(problem)
    name = f"{problem.filename}: " if problem.filename else ""
    return f"{name}{problem.strerror}; check the path, its permissions and the space on its disk"


def is_for_users(error: Exception) -> bool:
    """True for an error about the input (a file, an error class of this project), not a mistake in the code."""
    own = type(error).__module__.partition(".")[0] in OWN_PACKAGES
    return isinstance(error, OSError) or (isinstance(error, ValueError) and own)


@contextlib.contextmanager
def reported(failures: list[Exception]) -> Iterator[None]:
    """Reports an error about the input and adds it to `failures`, instead of passing it on."""
    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        if not is_for_users(error):
            raise
        report(error)
        failures.append(error)


def require_modules(names: Sequence[str], extra: str) -> None:
    """Raises `UsageError`, which names the extra to install, where a package is missing."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(f'{", ".join(missing)} not installed; run pip install "lung-srad[{extra}]"')
