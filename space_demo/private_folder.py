"""The folder of this process for uploads: readable by its user alone, swept while it runs, removed when it ends."""

import atexit
import contextlib
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

from space_demo.limits import LEAST_BYTES, MAX_ANSWER_SECONDS, MAX_WAITING

# Unused uploads are removed after this time, the longest that a request can wait.
UNUSED_SECONDS = float(MAX_ANSWER_SECONDS * MAX_WAITING)
SWEEP_SECONDS = 60.0


def make_private_folder() -> Path:
    """Makes the folder. It is removed when the process exits."""
    folder = Path(tempfile.mkdtemp(prefix="lung-srad-")).resolve()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def sweep_in_background(folder: Path) -> None:
    """Removes unused files once a minute, in a thread that ends with the process."""

    def sweep_forever() -> None:
        while True:
            time.sleep(SWEEP_SECONDS)
            # A folder may go while its content is listed.
            with contextlib.suppress(OSError):
                remove_unused(folder, UNUSED_SECONDS)

    threading.Thread(target=sweep_forever, name="sweep", daemon=True).start()


def kept_bytes(folder: Path) -> int:
    """Size of all files of the folder, each at least `LEAST_BYTES`."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            # Gone already.
            with contextlib.suppress(OSError):
                total += max(os.lstat(os.path.join(place, name)).st_size, LEAST_BYTES)
    return total


def remove_unused(folder: Path, seconds: float) -> None:
    """
    Removes files that were written more than `seconds` ago, and folders that are empty for as long.

    Args:
        folder (`Path`): the private folder.
        seconds (`float`): age from which files go.
    """
    latest = time.time() - seconds
    for path in sorted(folder.rglob("*"), reverse=True):
        try:
            if path.lstat().st_mtime > latest:
                continue
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            else:
                path.unlink()
        except OSError:
            # Gone already, or no longer empty.
            continue


def remove_upload(path: Path, folder: Path) -> None:
    """Removes an upload together with the folder that it has for itself; nothing outside the private folder."""
    if path.parent.resolve().is_relative_to(folder):
        path.unlink(missing_ok=True)
        if path.parent.resolve() != folder and path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()
