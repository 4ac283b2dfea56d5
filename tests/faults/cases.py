"""Faults other than kills. Each function runs a command under one of them and says what went wrong; nothing did if the
text is empty."""

import ctypes
import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults.commands import Command
from tests.faults.killing import Undisturbed, run_command
from tests.training.conftest import start_process

ERROR = "lung-srad: error: "
# Flags of `unshare` and `mount` in Linux.
NEW_MOUNTS, NEW_USER = 0x00020000, 0x10000000
READ_ONLY, REMOUNT, PRIVATE_BELOW = 1, 1 << 5, 1 << 14 | 1 << 18
# Shares of the space that a command needs.
SHARES = (0.1, 0.5, 0.9)
YEAR = 365 * 86400.0
JUMPS = (0.0, 2 * YEAR, -3 * YEAR, 0.25, -0.25)
NOT_PERMITTED, NOT_PERMITTED_HERE = 77, "mounts are not permitted here"


def full_disk(command: Command, inputs: Path, folder: Path, undisturbed: Undisturbed) -> str:
    """On a disk that is too small: one sentence and no result; the same command again, with space, ends as ever."""
    wrong = []
    needed = sum(undisturbed.sizes)
    for share in SHARES:
        place = folder / f"{share:.0%}"
        place.mkdir(parents=True)
        wrong.append(_in_process(_run_on_small_disk, command, inputs, place, undisturbed.result, int(share * needed)))
    return " ".join(dict.fromkeys(filter(None, wrong)))


def read_only(command: Command, inputs: Path, folder: Path, undisturbed: Undisturbed) -> str:
    """In a folder that cannot be written to: one sentence."""
    folder.mkdir()
    return _in_process(_run_on_read_only_disk, command, inputs, folder)


def two_at_once(command: Command, inputs: Path, folder: Path, undisturbed: Undisturbed) -> str:
    """Two processes that write to one place: each gives the right result or one sentence, and one gives the result."""
    folder.mkdir()
    files = [folder.with_name(f"{folder.name}.errors{number}") for number in range(2)]
    arguments = (command.run, command.line(inputs, folder), folder, None)
    processes = [start_process(run_command, *arguments, errors=file) for file in files]
    for process in processes:
        process.join()
    endings = [(process.exitcode, file.read_text()) for process, file in zip(processes, files, strict=True)]
    for exit_code, said in endings:
        if exit_code != 0 and not (exit_code == 2 and _is_one_sentence(said)):
            return f"exit code {exit_code}: {said[-1000:]}"
    if all(exit_code for exit_code, _ in endings):
        return f"none gave a result: {' '.join(said for _, said in endings)}"
    return "" if command.read(folder) == undisturbed.result else "the result differs"


def jumping_clock(command: Command, inputs: Path, folder: Path, undisturbed: Undisturbed) -> str:
    """A clock that jumps by years at each look, and files of the past and the future: the right result."""
    folder.mkdir()
    for path, seconds in zip(sorted(inputs.rglob("*.*")), itertools.cycle((-YEAR, 0.0, 200 * YEAR))):
        os.utime(path, (seconds, seconds))
    wrong = _in_process(_run_with_jumping_clock, command, inputs, folder)
    if wrong:
        return wrong
    return "" if command.read(folder) == undisturbed.result else "the result differs"


CASES: dict[str, Callable[[Command, Path, Path, Undisturbed], str]] = {
    "full disk": full_disk,
    "read-only folder": read_only,
    "two at once": two_at_once,
    "jumping clock": jumping_clock,
}


def _in_process(function: Callable[..., int], *arguments: object) -> str:
    """Calls it in a process of its own; what that said where it did not return 0."""
    folder = next(argument for argument in arguments[2:] if isinstance(argument, Path))
    errors = folder.with_name(f"{folder.name}.errors")
    process = start_process(function, *arguments, errors=errors)
    process.join()
    if process.exitcode == NOT_PERMITTED:
        return NOT_PERMITTED_HERE
    return errors.read_text()[-1000:] if process.exitcode else ""


def _run_on_small_disk(command: Command, inputs: Path, folder: Path, result: dict[str, str], size: int) -> int:
    if not _mount(folder, 0, f"size={max(size, 1)}"):
        return NOT_PERMITTED
    log = folder.with_name(f"{folder.name}.said")
    exit_code, said = _run(command, inputs, folder, log)
    if exit_code:
        if exit_code != 2 or not _is_one_sentence(said) or command.read(folder):
            return _fail(f"{size} bytes: exit code {exit_code}, {len(command.read(folder))} files, {said}")
        _mount(folder, REMOUNT, "size=1g")
        exit_code, said = _run(command, inputs, folder, log)
    if exit_code or command.read(folder) != result:
        return _fail(f"with space again: exit code {exit_code}, {said}")
    return 0


def _run_on_read_only_disk(command: Command, inputs: Path, folder: Path) -> int:
    if not (_mount(folder, 0, "size=1m") and _mount(folder, REMOUNT | READ_ONLY, "")):
        return NOT_PERMITTED
    exit_code, said = _run(command, inputs, folder, folder.with_name(f"{folder.name}.said"))
    return 0 if exit_code == 2 and _is_one_sentence(said) else _fail(f"exit code {exit_code}, {said}")


def _run_with_jumping_clock(command: Command, inputs: Path, folder: Path) -> int:
    jumps: Iterator[float] = itertools.cycle(JUMPS)
    now = time.time
    time.time = lambda: now() + next(jumps)
    return run_command(command.run, command.line(inputs, folder), folder, None)


def _run(command: Command, inputs: Path, folder: Path, log: Path) -> tuple[int, str]:
    """Runs it in this process, with what it says in a file."""
    kept = os.dup(2)
    with log.open("w") as file:
        os.dup2(file.fileno(), 2)
    try:
        exit_code = run_command(command.run, command.line(inputs, folder), folder, None)
    finally:
        os.dup2(kept, 2)
    return exit_code, log.read_text()


def _fail(said: str) -> int:
    os.write(2, said.encode())
    return 1


def _is_one_sentence(said: str) -> bool:
    """True for one line about the error, maybe after one about what is kept, and nothing of a traceback."""
    lines = [line for line in said.splitlines() if ERROR in line and "goes on from there" not in line]
    return len(lines) == 1 and "Traceback" not in said


def _mount(folder: Path, flags: int, options: str) -> bool:
    """Mounts a file system in memory that this process alone sees; False where that is not permitted."""
    libc = ctypes.CDLL(None, use_errno=True)
    if not flags and libc.unshare(NEW_MOUNTS) and libc.unshare(NEW_USER | NEW_MOUNTS):
        return False
    if not flags and libc.mount(None, b"/", None, PRIVATE_BELOW, None):
        return False
    return libc.mount(b"tmpfs", bytes(folder), b"tmpfs", flags, options.encode()) == 0
