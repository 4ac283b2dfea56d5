"""The light side of `modeling_lung_srad.errors`, which takes seconds to import: it is imported for an error only."""

import contextlib
import importlib.util
import sys
from collections.abc import Iterator, Sequence

TRAINING_MODULES = ("accelerate", "datasets", "evaluate", "sklearn", "yaml")


def report_text(text: str) -> None:
    """As `modeling_lung_srad.errors.report`, for a text."""
    from tqdm import tqdm

    if not text.isprintable():
        from modeling_lung_srad.errors import printable

        text = printable(text)
    tqdm.write(f"lung-srad: error: {text}", file=sys.stderr)


@contextlib.contextmanager
def reported(failures: list[Exception]) -> Iterator[None]:
    """Reports an error about the input and adds it to `failures`, instead of passing it on."""
    from modeling_lung_srad.errors import is_about_input, report

    try:
        yield
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        if not is_about_input(error):
            raise
        report(error)
        failures.append(error)


def require_modules(names: Sequence[str], extra: str) -> None:
    """Raises `InputError`, which names the extra to install, where a package is missing."""
    missing = [name for name in names if importlib.util.find_spec(name) is None]
    if missing:
        from modeling_lung_srad.errors import InputError

        raise InputError(", ".join(missing), "not installed", f'run pip install "lung-srad[{extra}]"')
