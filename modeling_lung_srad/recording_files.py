"""Finds the recordings that a user names, and the annotation files that belong to them."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")


class RecordingsError(ValueError):
    """Paths that lead to no recording or do not go together. The message: `path: what is wrong; remedy`."""


def find_recordings(path: str | os.PathLike) -> list[Path]:
    """
    The recording at a path, or all wav, flac, ogg and mp3 files in a folder and the folders inside it, sorted.

    Hidden files are left out. A path that is not a folder is returned as it is, whatever its name.

    Raises:
        RecordingsError: where a folder holds no recording or cannot be read.
    """
    if not str(path):
        raise RecordingsError("the path of a recording is empty; name a file or a folder")
    path = Path(path)
    if not path.is_dir():
        return [path]
    unreadable: list[OSError] = []
    recordings: list[Path] = []
    for folder, _, names in os.walk(path, onerror=unreadable.append):
        audio_names = (name for name in names if name.lower().endswith(AUDIO_SUFFIXES) and not name.startswith("."))
        recordings.extend(Path(folder, name) for name in audio_names)
    if unreadable:
        raise RecordingsError(f"{unreadable[0].filename}: cannot be read ({unreadable[0].strerror}); allow reading it")
    if not recordings:
        raise RecordingsError(f"{path}: holds no {', '.join(AUDIO_SUFFIXES)} file; check the path")
    return sorted(recordings)


def find_annotations(path: str | os.PathLike, recordings: Sequence[Path]) -> list[Path]:
    """
    The annotation file of each recording, whether it exists or not.

    Args:
        path (`str` or `os.PathLike`): the file of the only recording, or a folder of `.txt` files with their names,
            also in folders inside it.
        recordings (sequence of `Path`): the recordings.

    Returns:
        `list[Path]`: one a recording.

    Raises:
        RecordingsError: where one file is given for several recordings, or a name does not tell which file it is.
    """
    if Path(path).is_dir():
        return _find_by_name(Path(path), recordings)
    if len(recordings) > 1:
        raise RecordingsError(
            f"{path}: is one annotation file for {len(recordings)} recordings; "
            "name the folder that has a .txt for each of them"
        )
    return [Path(path)] * len(recordings)


def _find_by_name(folder: Path, recordings: Sequence[Path]) -> list[Path]:
    by_name: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*.txt")):
        by_name.setdefault(file.stem, []).append(file)
    num_recordings = Counter(recording.stem for recording in recordings)
    annotations = []
    for recording in recordings:
        candidates = by_name.get(recording.stem, [])
        beside = [file for file in candidates if file.resolve().parent == recording.resolve().parent]
        if not beside and (len(candidates) > 1 or (candidates and num_recordings[recording.stem] > 1)):
            raise RecordingsError(
                f"{recording}: several recordings or annotation files have this name; "
                "put each .txt beside its recording"
            )
        annotations.append((beside or candidates or [folder / f"{recording.stem}.txt"])[0])
    return annotations
