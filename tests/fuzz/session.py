"""Gives a target one input after another and keeps the ones that it did not survive."""

import contextlib
import hashlib
import resource
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from modeling_lung_srad.errors import InputError

# Inputs whose outcome was new; more would thin out the seeds.
MOST_KEPT = 400
MEMORY_BYTES = 2 * 1024**3


@dataclass(frozen=True)
class Target:
    """
    One way into the project.

    Args:
        seeds (sequence of `bytes`): inputs to begin with.
        mutate (`Callable`): makes an input of one, all kept ones, and a `random.Random`.
        run (`Callable`): takes an input; raises `InputError` where it refuses it. Anything else raised is a finding.
        close (`Callable`): ends what the target started.
    """

    seeds: Sequence[bytes]
    mutate: Callable[[bytes, Sequence[bytes], Random], bytes]
    run: Callable[[bytes], None]
    close: Callable[[], None] = lambda: None


@dataclass
class Session:
    """Counts and findings of one target. The same seed gives the same inputs."""

    target: Target
    seed: int
    tried: int = 0
    accepted: int = 0
    refused: int = 0
    findings: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self):
        self._random = Random(self.seed)
        self._corpus = list(self.target.seeds)
        self._outcomes: set[str] = set()
        _forget_peak()
        self._memory_limit = _peak_memory() + MEMORY_BYTES

    def next_input(self) -> bytes:
        """A seed, one after the other, and then changed ones."""
        if self.tried < len(self.target.seeds):
            return self.target.seeds[self.tried]
        return self.target.mutate(self._random.choice(self._corpus), self._corpus, self._random)

    def step(self, data: bytes) -> str | None:
        """Runs the target on an input; returns the traceback of a new finding."""
        self.tried += 1
        try:
            outcome = self._run(data)
            self._check_memory()
        except Exception as error:
            place = _place_of(error)
            if place in self.findings:
                return None
            self.findings[place] = data
            return "".join(traceback.format_exception(error))
        if outcome not in self._outcomes and len(self._outcomes) < MOST_KEPT:
            self._outcomes.add(outcome)
            self._corpus.append(data)
        return None

    def _run(self, data: bytes) -> str:
        """Runs an input; returns whether it was accepted, or the place that refused it."""
        try:
            with warnings.catch_warnings():
                # A warning of numpy would reach the user's terminal.
                warnings.simplefilter("error", RuntimeWarning)
                self.target.run(data)
        except InputError as error:
            self.refused += 1
            if "\n" in str(error):
                raise AssertionError("a message of more than one line") from error
            return _place_of(error)
        self.accepted += 1
        return "accepted"

    def _check_memory(self) -> None:
        """Raises where the process had more than `MEMORY_BYTES` beside those that it began with."""
        if _peak_memory() > self._memory_limit:
            _forget_peak()
            raise MemoryError(f"took more than {MEMORY_BYTES / 1e9:.1f} GB")


def save_finding(folder: Path, name: str, data: bytes, text: str) -> Path:
    """Writes an input, and beside it what it did."""
    path = folder / name / hashlib.sha256(data).hexdigest()[:16]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    path.with_suffix(".txt").write_text(text, encoding="utf-8", errors="backslashreplace")
    return path


def _peak_memory() -> int:
    """Most bytes so far."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _forget_peak() -> None:
    """Starts again from the memory of now, so that the next input is judged by itself; on Linux."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _place_of(error: BaseException) -> str:
    """Type of an error, and the last three places on its way."""
    places = [f"{frame.f_code.co_filename}:{line}" for frame, line in traceback.walk_tb(error.__traceback__)]
    return " ".join((type(error).__name__, *places[-3:]))
