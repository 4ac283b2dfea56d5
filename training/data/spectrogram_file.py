"""A file of spectrograms that is written once, by one process, and mapped from disk by all.

It appears under its name when it is complete, and is checked whenever it is read. A process that is killed leaves a
partial file under another name, which the next one that writes removes.
"""

import errno
import hashlib
import importlib.metadata
import io
import json
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from filelock import FileLock, Timeout
from tqdm.auto import tqdm

from modeling_lung_srad.errors import InputError

logger = logging.getLogger(__name__)

STORED_TYPE = np.dtype(np.float16)
PARTIAL = ".partial"
BYTES_AT_ONCE = 2**26
SECONDS_WITHOUT_PROGRESS_BAR = 2


@dataclass(frozen=True)
class SpectrogramFile:
    """
    Spectrograms in a `.npy` file, present or to be written, with a `.json` beside it.

    Args:
        path (`Path`): the `.npy` file. Its name must change whenever what belongs in it does.
        shape (`tuple[int, int, int]`): `(cycles, frames, num_mel_bins)`, none of them 0.
        description (`dict`): what the `.json` tells people about the file.
    """

    path: Path
    shape: tuple[int, int, int]
    description: dict[str, Any]

    def read_or_write(self, batches: Iterable[torch.Tensor]) -> torch.Tensor:
        """
        The spectrograms, from disk or, where they are missing or damaged there, written first.

        Of several processes one writes, and the others wait for it and read.

        Args:
            batches (iterable of `torch.Tensor` of shape `(batch, frames, num_mel_bins)`):
                asked for only if there is something to write.

        Returns:
            `torch.Tensor` of shape `(cycles, frames, num_mel_bins)` and type float16, mapped from disk; writing into
            it does not change the file.

        Raises:
            InputError: naming the folder, where it cannot be written to or its disk is full. What was there
                stays as it was.
        """
        spectrograms = self._read()
        if spectrograms is not None:
            return spectrograms
        with _explained(self.path.parent):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(self.path.parent)
        with _locked(self.path):
            # Another process may have written it while this one waited.
            spectrograms = self._read()
            if spectrograms is None:
                if self.path.exists():
                    logger.warning("%s: is damaged; it is computed again", self.path)
                self._check_space()
                self._write(batches)
                spectrograms = self._read()
        if spectrograms is None:
            raise InputError(self.path, "does not hold what was written to it", "check its disk")
        return spectrograms

    @property
    def _header(self) -> bytes:
        header = io.BytesIO()
        descr = np.lib.format.dtype_to_descr(STORED_TYPE)
        np.lib.format.write_array_header_1_0(header, {"descr": descr, "fortran_order": False, "shape": self.shape})
        return header.getvalue()

    @property
    def _size(self) -> int:
        return len(self._header) + int(np.prod(self.shape)) * STORED_TYPE.itemsize

    def _read(self) -> torch.Tensor | None:
        """The spectrograms mapped from disk, or `None` where the file is missing or not as it was written."""
        try:
            if self.path.stat().st_size != self._size:
                return None
            written = json.loads(self.path.with_suffix(".json").read_text(encoding="utf-8"))["sha256"]
            # Copy on write: torch wants memory that it may write to.
            content = np.memmap(self.path, mode="c")
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if _hash_bytes(content, f"checking {self.path.name}") != written:
            return None
        return torch.from_numpy(content[len(self._header) :].view(STORED_TYPE).reshape(self.shape))

    def _check_space(self) -> None:
        free = shutil.disk_usage(self.path.parent).free
        if free < self._size:
            raise InputError(
                self.path.parent,
                f"its disk is too full for {self._size / 1e6:,.1f} MB of spectrograms ({free / 1e6:,.1f} MB are left)",
                "free space, or set data.feature_cache=FOLDER to another one",
            )

    def _write(self, batches: Iterable[torch.Tensor]) -> None:
        """Writes both files beside their places, and moves them there when they are complete."""
        folder, json_file = self.path.parent, self.path.with_suffix(".json")
        partial, partial_json = (path.with_name(path.name + PARTIAL) for path in (self.path, json_file))
        digest = hashlib.sha256()
        try:
            with _explained(folder):
                for path in (partial, partial_json):
                    path.unlink(missing_ok=True)
            for content in self._contents(batches):
                digest.update(content)
                # Each write by itself, since errors of the batches are about audio and not about this folder.
                with _explained(folder):
                    _append(partial, content)
            with _explained(folder):
                _append(partial_json, self._json(digest.hexdigest()))
                for path in (partial, partial_json):
                    _flush_to_disk(path)
                partial_json.replace(json_file)
                partial.replace(self.path)
        finally:
            for path in (partial, partial_json):
                path.unlink(missing_ok=True)

    def _contents(self, batches: Iterable[torch.Tensor]) -> Iterator[bytes]:
        yield self._header
        for batch in batches:
            yield batch.to(torch.float16).numpy().tobytes()

    def _json(self, sha256: str) -> bytes:
        written = {
            "shape": self.shape,
            "sha256": sha256,
            "lung_srad": importlib.metadata.version("lung-srad"),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        return (json.dumps(self.description | written, indent=2) + "\n").encode()


def _append(path: Path, content: bytes) -> None:
    with open(path, "ab") as file:
        file.write(content)


def _flush_to_disk(path: Path) -> None:
    """So that a file cannot have its final name and lack content after a power cut."""
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _hash_bytes(content: np.ndarray, description: str) -> str:
    digest = hashlib.sha256()
    parts = np.split(content, range(BYTES_AT_ONCE, len(content), BYTES_AT_ONCE))
    for part in tqdm(parts, description, unit="part", delay=SECONDS_WITHOUT_PROGRESS_BAR):
        digest.update(part.data)
    return digest.hexdigest()


def _remove_leftovers(folder: Path) -> None:
    """Removes what killed processes left half written: the partial files whose lock nobody holds."""
    for partial in folder.glob(f"*{PARTIAL}"):
        try:
            with FileLock(_lock_path(Path(str(partial).removesuffix(PARTIAL)))).acquire(timeout=0):
                partial.unlink(missing_ok=True)
        except Timeout:
            logger.info("%s: is being written by a process that is alive", partial)


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Holds the lock of a file, after a wait for another process that does."""
    lock = FileLock(_lock_path(path))
    with _explained(path.parent):
        try:
            lock.acquire(timeout=0)
        except Timeout:
            logger.warning("%s: another process computes these spectrograms; waiting for it", path)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Turns errors of the file system into a [`InputError`] that names the folder and the remedy."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            problem, remedy = "its disk is full", "free space"
        else:
            problem, remedy = f"cannot be written to ({error.strerror or error})", "make it a writable folder"
        raise InputError(
            folder,
            f"{problem}, so that spectrograms cannot be kept there",
            f"{remedy}, or set data.feature_cache=FOLDER to another one",
        ) from error
