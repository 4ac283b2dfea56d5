"""Feeds every entrance of the project with inputs changed at random, and prints what came of it.

python -m tests.fuzz [--minutes M] [--seed S] [TARGET ...]
"""

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from tests.fuzz.session import save_finding
from tests.fuzz.targets import TARGETS
from tests.fuzz.worker import HANG_SECONDS, HEAD, STATE_BYTES

FOLDER = Path("outputs") / "fuzz"
ENDED = {signal.SIGPROF: f"takes more than {HANG_SECONDS} s", signal.SIGALRM: "waits for something that does not come"}


class Counts(NamedTuple):
    """Inputs of a target: tried, accepted, refused with `InputError`, and findings."""

    tried: int = 0
    accepted: int = 0
    refused: int = 0
    findings: int = 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns 1 where something was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.split("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"(default: all) {', '.join(TARGETS)}")
    parser.add_argument("--minutes", type=float, default=1.0, metavar="M", help="for each target (default: 1)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="(default: 0)")
    options = parser.parse_args(argv)
    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"unknown target {', '.join(sorted(unknown))}; known are {', '.join(TARGETS)}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    names = options.targets or list(TARGETS)
    with ThreadPoolExecutor(os.cpu_count()) as processors:
        counts = list(processors.map(lambda name: run_target(name, 60 * options.minutes, options.seed), names))
    print("| target | inputs | accepted | refused | findings |\n| --- | ---: | ---: | ---: | ---: |")
    total = Counts(*map(sum, zip(*counts, strict=True)))
    for name, row in zip((*names, "all"), (*counts, total), strict=True):
        print(f"| {name} | " + " | ".join(f"{number:,}" for number in row) + " |")
    if total.findings:
        print(f"inputs and tracebacks: {FOLDER}")
    return int(total.findings > 0)


def run_target(name: str, seconds: float, seed: int) -> Counts:
    """Runs a target in processes of its own, one after the other where inputs end them, until the time is over."""
    end, total = time.monotonic() + seconds, Counts()
    state = FOLDER / f"{name}.state"
    while (left := end - time.monotonic()) > 0:
        state.write_bytes(bytes(STATE_BYTES))
        with (FOLDER / f"{name}.log").open("w") as log:
            arguments = ["-m", "tests.fuzz.worker", name, str(left), str(seed), str(FOLDER)]
            done = subprocess.run([sys.executable, *arguments], stdout=log, stderr=log, check=False)
        content = state.read_bytes()
        *numbers, size = HEAD.unpack_from(content)
        counts = Counts(*numbers)
        if done.returncode:
            data = content[HEAD.size : HEAD.size + size]
            reason = ENDED.get(-done.returncode, f"ends with {done.returncode}; see {log.name}")
            save_finding(FOLDER, name, data, f"The process {reason}")
            counts = counts._replace(tried=counts.tried + 1, findings=counts.findings + 1)
        total = Counts(*map(sum, zip(total, counts, strict=True)))
        # Another seed, or the next process would end at the same input.
        seed += 1_000_003
        print(f"{name}: {total.tried:,} inputs, {total.findings} findings", file=sys.stderr, flush=True)
    state.unlink()
    return total


if __name__ == "__main__":
    sys.exit(main())
