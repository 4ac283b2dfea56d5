"""Kills commands at random moments and prints what came of it: `python -m tests.faults --kills 50`."""

import argparse
import os
import random
import shutil
import sys
import tempfile
from pathlib import Path

MOST_KILLS = 4
COLUMNS = ("command", "kills", "runs that ended", "byte-identical", "longest last run", "hidden files", "findings")


def main() -> int:
    """Prints a row for each command, and the findings to standard error; returns 1 where there are any."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, metavar="N", help="of each command (default: 50)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the moments (default: 0)")
    parser.add_argument("--only", nargs="*", metavar="COMMAND", help="names of rows (default: all)")
    options = parser.parse_args()
    from tests.local_hub import WRITE_TOKEN, LocalHub

    with LocalHub() as hub, tempfile.TemporaryDirectory(prefix="lung-srad-faults-") as root:
        # For all processes that are started below.
        os.environ |= {
            "HF_ENDPOINT": hub.url,
            "HF_TOKEN": WRITE_TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": f"{root}/hub",
        }
        from tests.faults.commands import COMMANDS, COMPILING, publish_to, write_inputs
        from tests.faults.killing import Tally, live, run_undisturbed, start_process

        inputs, findings = Path(root, "inputs"), 0
        start_process(write_inputs, inputs, errors=Path(root, "inputs.errors")).join()
        print(f"| {' | '.join(COLUMNS)} |\n|{' --- |' * len(COLUMNS)}", flush=True)
        for command in (*COMMANDS, COMPILING, publish_to(hub)):
            if options.only and command.name not in options.only:
                continue
            generator, tally = random.Random(f"{options.seed} {command.name}"), Tally()
            first, undisturbed = (run_undisturbed(command, inputs, Path(root, f"run{number}")) for number in range(2))
            if first.result != undisturbed.result:
                tally.findings.append(f"{command.name}: two runs that nothing disturbed differ")
            while tally.kills < options.kills:
                number = min(generator.randint(1, MOST_KILLS), options.kills - tally.kills)
                folder = Path(root, f"life{tally.lives}")
                live(command, inputs, folder, [undisturbed.draw(generator) for _ in range(number)], undisturbed, tally)
                shutil.rmtree(folder)
            for name in ("run0", "run1"):
                shutil.rmtree(Path(root, name))
            seconds = f"{tally.recovery:.1f} s"
            figures = (tally.kills, tally.lives, tally.identical, seconds, tally.left_over, len(tally.findings))
            print(f"| {command.name} | {' | '.join(map(str, figures))} |", flush=True)
            print("".join(f"{finding}\n" for finding in tally.findings), file=sys.stderr, end="")
            findings += len(tally.findings)
    return 1 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main())
