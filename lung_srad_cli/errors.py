"""What the `lung-srad` command says about wrong input: one line an error, on standard error."""

import contextlib
import sys
from collections.abc import Iterator

OWN_PACKAGES = ("lung_srad_cli", "modeling_lung_srad", "dataset_scripts", "training")


class UsageError(ValueError):
    """Arguments that cannot be followed, alone or together; the message names them and the remedy."""


def report(problem: object) -> None:
    """Says in one line what is wrong; a progress bar is kept whole."""
    from tqdm import tqdm

    tqdm.write(f"lung-srad: error: {' '.join(str(problem).splitlines())}", file=sys.stderr)


def is_for_users(error: Exception) -> bool:
    """Whether an error is about the input (a file, an error class of this project) and no mistake in the code."""
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
