"""Kills commands at random moments and runs them under other faults: `python -m tests.faults --kills 50`."""

import argparse
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

from tests.faults.cases import CASES, NOT_PERMITTED_HERE
from tests.faults.commands import COMMANDS, COMPILING, Command, publish_to, write_inputs
from tests.faults.killing import Tally, Undisturbed, live, run_undisturbed, start_process
from tests.local_hub import WRITE_TOKEN, LocalHub

MOST_KILLS = 4
COLUMNS = ("command", "kills", "runs that ended", "byte-identical", "longest last run", "hidden files", "findings")


def main() -> int:
    """Prints a table of kills and one of other faults, and findings to standard error; returns 1 where there are
    any."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=50, metavar="N", help="of each command (default: 50)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments (default: 0)")
    parser.add_argument("--only", nargs="*", metavar="COMMAND", help="names of rows (default: all)")
    options = parser.parse_args()
    with LocalHub() as hub, tempfile.TemporaryDirectory(prefix="lung-srad-faults-") as root:
        # For the server from which all processes are forked, which starts with the first of them.
        os.environ |= {"HF_ENDPOINT": hub.url, "HF_TOKEN": WRITE_TOKEN, "HF_HOME": root, "HF_HUB_OFFLINE": "0"}
        inputs = Path(root, "inputs")
        start_process(write_inputs, inputs, errors=Path(root, "inputs.errors")).join()
        commands = [
            command
            for command in (*COMMANDS, COMPILING, publish_to(hub))
            if not options.only or command.name in options.only
        ]
        findings: list[str] = []
        undisturbed = {}
        print_row(COLUMNS)
        print_row(["---"] * len(COLUMNS))
        for command in commands:
            undisturbed[command.name], tally = kill(command, inputs, Path(root), options.kills, options.seed)
            seconds = f"{tally.recovery:.1f} s"
            found = len(tally.findings)
            print_row([command.name, tally.kills, tally.lives, tally.identical, seconds, tally.left_over, found])
            findings += report(tally.findings)
        print()
        print_row(["command", *CASES])
        print_row(["---"] * (1 + len(CASES)))
        for command in (command for command in commands if command in COMMANDS):
            said = {
                name: case(command, inputs, Path(root, f"case{number}"), undisturbed[command.name])
                for number, (name, case) in enumerate(CASES.items())
            }
            wrong = {name: text for name, text in said.items() if text not in ("", NOT_PERMITTED_HERE)}
            print_row([command.name, *("finding" if name in wrong else said[name] or "right" for name in CASES)])
            findings += report([f"{command.name}, {name}: {text}" for name, text in wrong.items()])
            remove_all(Path(root), "case*")
    return 1 if findings else 0


def kill(command: Command, inputs: Path, root: Path, kills: int, seed: int) -> tuple[Undisturbed, Tally]:
    """Two undisturbed runs, and as many lives as take that many kills."""
    generator, tally = random.Random(f"{seed} {command.name}"), Tally()
    first, undisturbed = (run_undisturbed(command, inputs, root / f"run{number}") for number in range(2))
    if first.result != undisturbed.result:
        tally.findings.append(f"{command.name}: two runs that nothing disturbed differ")
    while tally.kills < kills:
        number = min(generator.randint(1, MOST_KILLS), kills - tally.kills)
        moments = [undisturbed.draw(generator) for _ in range(number)]
        live(command, inputs, root / f"life{tally.lives}", moments, undisturbed, tally)
        remove_all(root, "life*")
    remove_all(root, "run*")
    return undisturbed, tally


def print_row(cells: list | tuple) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def report(findings: list[str]) -> list[str]:
    """Prints them to standard error and gives them back."""
    print("".join(f"{finding}\n" for finding in findings), file=sys.stderr, end="", flush=True)
    return findings


def remove_all(root: Path, pattern: str) -> None:
    for folder in root.glob(pattern):
        if folder.is_dir():
            shutil.rmtree(folder)


if __name__ == "__main__":
    raise SystemExit(main())
