"""Kills commands at chosen moments and starts them again until they end."""

import contextlib
import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import datasets
import torch

from tests.faults.commands import Command
from tests.training.conftest import start_process

KILLED = (-signal.SIGKILL, -signal.SIGXFSZ)
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink")
# The answer of a command that was killed after its last write, and writes no second time.
REFUSED = "holds something already"
KINDS = ("time", "operation", "byte")


class Moment(NamedTuple):
    """
    When a process is killed.

    Args:
        kind (`str`): `time`, seconds after its start; `operation`, the number of the file that it opens to write,
            renames or removes, from 1 on; or `byte`, a place in any file, which is written up to there.
        place (`float`): which.
    """

    kind: str
    place: float


@dataclass
class Undisturbed:
    """A run that nothing disturbs: its result, seconds, number of operations and the sizes of its files."""

    result: dict[str, str]
    seconds: float
    operations: int
    sizes: list[int]

    def draw(self, generator: random.Random) -> Moment:
        """A moment of its life, of each kind as often."""
        kind = generator.choice(KINDS)
        if kind == "time":
            return Moment(kind, generator.uniform(0, self.seconds))
        if kind == "operation" and self.operations:
            return Moment(kind, generator.randint(1, self.operations))
        return Moment("byte", generator.randint(1, generator.choice(self.sizes or [1])))


@dataclass
class Tally:
    """Results of the lives of a command: `recovery` is the longest run in seconds that followed a kill and ended,
    `left_over` the most hidden files that were there in the end."""

    kills: int = 0
    lives: int = 0
    identical: int = 0
    recovery: float = 0.0
    left_over: int = 0
    findings: list[str] = field(default_factory=list)


def run_command(
    run: Callable[[Sequence[str]], int], arguments: Sequence[str], folder: Path, moment: Moment | None
) -> int:
    """Runs the command in a process of its own, with its caches in `folder` and one thread, which gives the same sums
    each time. The process writes the sizes of files at its operations beside `folder`."""
    if os.getsid(0) != os.getpid():
        os.setsid()
    os.dup2(2, 1)
    torch.set_num_threads(1)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder.parent)
    datasets.config.HF_DATASETS_CACHE = folder / "datasets"
    sizes = watch_operations(folder, moment.place if moment and moment.kind == "operation" else None)
    if moment and moment.kind == "byte":
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(moment.place), int(moment.place)))
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    exit_code = run(arguments)
    if moment is None:
        folder.with_suffix(".sizes").write_text(json.dumps(sizes))
    return exit_code


def watch_operations(folder: Path, last: float | None) -> list[int]:
    """Kills this process before the operation on files in `folder` that is numbered `last`. The list that it returns
    gets the size of the file at each of them."""
    sizes: list[int] = []

    def hook(event: str, values: tuple) -> None:
        if event == "open":
            if not isinstance(values[2], int) or not values[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
                return
        elif event not in CHANGES:
            return
        path = os.fsdecode(values[0]) if isinstance(values[0], str | bytes | os.PathLike) else ""
        # A path in an open folder, as `shutil.rmtree` gives it, is relative.
        if path.startswith(f"{folder}/") or (path and not os.path.isabs(path)):
            sizes.append(os.stat(path).st_size if os.path.isfile(path) else 0)
            if len(sizes) == last:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    return sizes


def attempt(command: Command, inputs: Path, folder: Path, moment: Moment | None = None) -> tuple[int, str]:
    """Runs a command in a process of its own; the exit code, and the end of what it wrote to standard error."""
    errors = folder.with_suffix(".errors")
    errors.touch()
    process = start_process(run_command, command.run, command.line(inputs, folder), folder, moment, errors=errors)
    process.join(moment.place if moment and moment.kind == "time" else None)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid or 0, signal.SIGKILL)
    process.kill()
    process.join()
    return process.exitcode or 0, errors.read_text(encoding="utf-8", errors="replace")[-1000:]


def run_undisturbed(command: Command, inputs: Path, folder: Path) -> Undisturbed:
    """Runs a command once, for later comparison."""
    folder.mkdir()
    begin = time.monotonic()
    exit_code, errors = attempt(command, inputs, folder)
    seconds = time.monotonic() - begin
    if exit_code:
        raise RuntimeError(f"{command.name}: {errors}")
    before = json.loads(folder.with_suffix(".sizes").read_text())
    at_end = [path.stat().st_size for path in folder.rglob("*") if path.is_file()]
    return Undisturbed(command.read(folder), seconds, len(before), [size for size in before + at_end if size])


def live(
    command: Command, inputs: Path, folder: Path, moments: Sequence[Moment], undisturbed: Undisturbed, tally: Tally
) -> None:
    """Runs a command in a new folder, kills it at each of the moments, lets it end, and adds what came of it."""
    folder.mkdir()
    tally.lives += 1
    name = f"{command.name}, {folder.name}"
    for moment in [*moments, None]:
        begin = time.monotonic()
        exit_code, errors = attempt(command, inputs, folder, moment)
        result = command.read(folder)
        if exit_code in KILLED and moment is not None:
            tally.kills += 1
            if result not in ({}, undisturbed.result):
                tally.findings.append(f"{name}: part of the result is there after a kill at {moment}")
            continue
        if exit_code and not (result == undisturbed.result and REFUSED in errors):
            tally.findings.append(f"{name}: exit code {exit_code} before {moment}: {errors}")
            return
        tally.recovery = max(tally.recovery, time.monotonic() - begin)
        tally.left_over = max(tally.left_over, command.left_over(folder))
        if result == undisturbed.result:
            tally.identical += 1
        else:
            names = [key for key in undisturbed.result | result if undisturbed.result.get(key) != result.get(key)]
            tally.findings.append(f"{name}: differs in {', '.join(names)}")
        return
