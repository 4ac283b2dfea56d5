"""Errors about the input: the one class that all parts raise for them, and the line that a program prints."""

import functools
import sys
from collections.abc import Callable
from typing import Any, ParamSpec

INPUT_ERROR = 2
Arguments = ParamSpec("Arguments")


class InputError(ValueError):
    """
    A file, setting or argument that cannot be used. Every other error of this project is a bug.

    Args:
        name (`object`): the file, setting or argument.
        problem (`str`): what is wrong with it.
        remedy (`str`, *optional*): what the user can do.

    Example:

    ```python
    >>> print(InputError("a.wav", "is empty (0 bytes)", "record it again"))
    a.wav: is empty (0 bytes); record it again

    ```"""

    def __init__(self, name: object, problem: str, remedy: str | None = None):
        self.name, self.problem, self.remedy = str(name), problem, remedy
        message = f"{name}: {problem}" + (f"; {remedy}" if remedy else "")
        super().__init__(" ".join(message.splitlines()))

    def within(self, place: object) -> "InputError":
        """The same error with the place where it was met in front, such as the file of a setting."""
        return InputError(f"{place}: {self.name}", self.problem, self.remedy)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.name, self.problem, self.remedy)


def one_line(error: BaseException, longest: int = 300) -> str:
    """The message of an error without line breaks, cut after `longest` signs; the name of its class if it has none."""
    return " ".join(str(error).split())[:longest] or type(error).__name__


def shortened(text: str, longest: int = 80) -> str:
    """A text from outside in quotes, as messages show it, cut after `longest` signs."""
    text = text.strip()
    return repr(text if len(text) <= longest else f"{text[: longest - 3]}...")


def printable(text: str) -> str:
    """A text with line breaks, signs that control a terminal and bytes that are not text written escaped."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def is_about_input(error: BaseException) -> bool:
    """True for an error of the input or the disk, not a bug: `InputError`, or an error of the system."""
    return isinstance(error, InputError) or (isinstance(error, OSError) and error.strerror is not None)


def report(error: BaseException) -> None:
    """Prints an error as one line on standard error. A progress bar stays whole, and no file name can control the
    terminal."""
    from tqdm import tqdm

    line = " ".join(_describe(error).splitlines())
    tqdm.write(f"lung-srad: error: {printable(line)}", file=sys.stderr)


def reports_input_errors(program: Callable[Arguments, int]) -> Callable[Arguments, int]:
    """Decorates a program, which returns its exit code: it reports wrong input and returns 2. A bug keeps its
    traceback."""

    @functools.wraps(program)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> int:
        try:
            return program(*args, **kwargs)
        except (InputError, OSError) as error:
            if not is_about_input(error):
                raise
            report(error)
            return INPUT_ERROR

    return run


def _describe(error: BaseException) -> str:
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    name = f"{error.filename}: " if error.filename else ""
    return f"{name}{error.strerror}; check the path, its permissions and the space on its disk"
