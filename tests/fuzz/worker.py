"""Runs one target for a while, in a process that may die of an input; its counts and input outlive it in a file.

python -m tests.fuzz.worker TARGET SECONDS SEED FOLDER
"""

import mmap
import os
import signal
import struct
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.session import Session, save_finding
from tests.fuzz.targets import TARGETS

# The first of processor time. On a busy machine, a process may wait long for a processor.
HANG_SECONDS, WAIT_SECONDS = 10, 600
# Some thousand files a second, which a disk would slow down.
MEMORY = Path("/dev/shm")
HEAD = struct.Struct("<5Q")
STATE_BYTES = 1 << 20


def main(name: str, seconds: float, seed: int, folder: Path) -> None:
    """Gives inputs to a target; counts and the input at hand go to `FOLDER/NAME.state`."""
    place = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=place) as scratch, (folder / f"{name}.state").open("r+b") as file:
        state = mmap.mmap(file.fileno(), STATE_BYTES)
        target = TARGETS[name](Path(scratch))
        session = Session(target, seed)
        # The system ends the process: Python's handlers wait for the call that hangs.
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            data = session.next_input()
            state[HEAD.size : HEAD.size + len(data)] = data
            HEAD.pack_into(
                state, 0, session.tried, session.accepted, session.refused, len(session.findings), len(data)
            )
            signal.setitimer(signal.ITIMER_PROF, HANG_SECONDS)
            signal.setitimer(signal.ITIMER_REAL, WAIT_SECONDS)
            text = session.step(data)
            if text is not None:
                save_finding(folder, name, data, text)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        HEAD.pack_into(state, 0, session.tried, session.accepted, session.refused, len(session.findings), 0)
        target.close()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
    # Libraries leave threads behind, which may not survive the end of Python.
    sys.stdout.flush()
    os._exit(0)
