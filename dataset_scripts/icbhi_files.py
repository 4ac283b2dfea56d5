"""The files of an ICBHI 2017 folder: recordings, annotations, split file, and missing ones."""

import logging
import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from dataset_scripts.cycle_dataset import Recording
from dataset_scripts.cycles import CLASS_NAMES, Cycle, read_annotations
from dataset_scripts.icbhi_splits import (
    PARTS,
    TOTAL_RECORDINGS,
    assign_parts,
    check_split,
    official_part,
    parse_recording_name,
    published_counts,
    read_split_file,
)
from modeling_lung_srad.audio import audio_duration
from modeling_lung_srad.errors import InputError

logger = logging.getLogger(__name__)

AUDIO_SUFFIXES = (".wav", ".flac")
ANNOTATION_SUFFIX = ".txt"
# The published archive has one folder around the files, other copies up to five.
MAX_DEPTH = 5
# Names, in lower case, under which the official split goes round.
SPLIT_NAMES = ("train_test", "official_split")
# Some published annotations end after their recording and are cut there.
END_TOLERANCE_SECONDS = 1.0

_said: set[str] = set()


@dataclass(frozen=True)
class IcbhiFolder:
    """
    The files of one copy of the database.

    Args:
        path (`Path`): the folder that holds them.
        audio (`dict[str, Path]`): audio file by name of the recording.
        annotations (`dict[str, Path]`): annotation file by name of the recording.
        split_file (`Path`, *optional*): file of the official split that lies beside them.
    """

    path: Path
    audio: dict[str, Path]
    annotations: dict[str, Path]
    split_file: Path | None


def scan_folder(data_dir: str | os.PathLike, archive: str | os.PathLike | None = None) -> IcbhiFolder:
    """
    Finds the recordings in a folder or up to three folders below it.

    Args:
        data_dir (`str` or `os.PathLike`): the folder.
        archive (`str` or `os.PathLike`, *optional*): the zip that it was unpacked from, for error messages.

    Raises:
        InputError: where there are none, some are in another folder than the others, or there is more than one
            split file.
    """
    data_dir = Path(data_dir)
    if not data_dir.is_dir():
        raise InputError(
            data_dir,
            "no such folder",
            "check the path, or pass download=True to fetch ICBHI 2017 (on the command line: lung-srad "
            "prepare icbhi FOLDER PREPARED --download)",
        )
    folder = find_folder(data_dir)
    if folder is None:
        raise InputError(
            archive or data_dir,
            "contains no ICBHI recordings such as 101_1b1_Al_sc_Meditron.wav",
            "name the folder of the unpacked database, or its zip",
        )
    return folder


def find_folder(data_dir: Path) -> IcbhiFolder | None:
    """
    Finds the recordings as [`scan_folder`]; `None` where there are none.

    Raises:
        InputError: where some are in another folder than the others, or there is more than one split file.
    """
    found: IcbhiFolder | None = None
    for path in _folders(data_dir):
        audio: dict[str, Path] = {}
        annotations: dict[str, Path] = {}
        for file in sorted(path.iterdir()):
            if parse_recording_name(file.stem) is None:
                continue
            if file.suffix.lower() == ANNOTATION_SUFFIX:
                annotations[file.stem] = file
            elif file.suffix.lower() in AUDIO_SUFFIXES:
                audio[file.stem] = file
        names = audio.keys() | annotations.keys()
        if found is None and names:
            found = IcbhiFolder(path, audio, annotations, _find_split_file(data_dir, path))
        elif found is not None and names - found.audio.keys() - found.annotations.keys():
            raise InputError(
                path, f"has other recordings than {found.path}", "put all into one folder, or name one of the two"
            )
    return found


def read_recordings(folder: IcbhiFolder, split: str) -> dict[str, list[Recording]]:
    """
    Recordings with audio and annotation, by part (`train`, `test`) and in order of their names.

    Raises:
        InputError: naming file and line, where an annotation cannot be used;
            where an audio file is missing or not audio;
            where the split does not fit the recordings.
    """
    names = sorted(folder.audio.keys() & folder.annotations.keys())
    if not names:
        present, missing, suffix = f"{len(folder.annotations)} annotations", "audio", ".wav"
        if not folder.annotations:
            present, missing, suffix = f"{len(folder.audio)} audio files", "annotations", ANNOTATION_SUFFIX
        raise InputError(folder.path, f"{present} but no {missing} to them", f"add the {suffix} files")
    recordings: dict[str, list[Recording]] = {part: [] for part in PARTS}
    for name, part in assign_parts(names, split, folder.split_file).items():
        recordings[part].append(_read_recording(folder, name))
    return recordings


def count_annotations(folder: IcbhiFolder, split: str) -> dict[str, dict[str, int]]:
    """
    Counts from the annotations alone, whether there is audio or not.

    Returns:
        `dict[str, dict[str, int]]`: by part, the number of `recordings`, `cycles`, and of cycles of each class.
    """
    counts = {part: Counter({"recordings": 0, "cycles": 0, **dict.fromkeys(CLASS_NAMES, 0)}) for part in PARTS}
    for name, part in assign_parts(sorted(folder.annotations), split, folder.split_file).items():
        labels = [cycle.label or 0 for cycle in read_annotations(folder.annotations[name])]
        counts[part].update(["recordings", *(CLASS_NAMES[label] for label in labels)])
        counts[part]["cycles"] += len(labels)
    return {part: dict(count) for part, count in counts.items()}


def describe_missing(folder: IcbhiFolder, split: str, recordings: dict[str, list[Recording]]) -> list[str]:
    """Sentences on missing parts of this copy of the database; an empty list where it is complete."""
    expected = _expected_counts(folder, split)
    parts, complete = [], True
    for part, found in recordings.items():
        cycles = sum(len(recording.cycles) for recording in found)
        total_recordings, total_cycles = expected.get(part, (len(found), cycles))
        complete = complete and len(found) >= total_recordings
        of_cycles = f" of {total_cycles:,}" if total_cycles is not None else ""
        parts.append(f"{part} has {len(found)} of {total_recordings} recordings ({cycles:,}{of_cycles} cycles)")
    sentences = []
    if not complete:
        sentences.append(f"incomplete copy, split {split}: {', '.join(parts)}; its figures are not those of the whole")
    without_audio = sorted(folder.annotations.keys() - folder.audio.keys())
    if without_audio:
        sentences.append(f"{len(without_audio)} annotations without audio are left out, {without_audio[0]} first")
    without_annotation = sorted(folder.audio.keys() - folder.annotations.keys())
    if without_annotation:
        sentences.append(
            f"{len(without_annotation)} audio files without annotation are left out, {without_annotation[0]} first"
        )
    return sentences


def say_once(message: str) -> None:
    """Logs a warning the first time that this process has it."""
    if message not in _said:
        _said.add(message)
        logger.warning(message)


def _folders(data_dir: Path) -> list[Path]:
    folders = level = [data_dir]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for folder in level
            for child in sorted(folder.iterdir())
            if child.is_dir() and not child.name.startswith((".", "__"))
        ]
        folders = folders + level
    return folders


def _find_split_file(data_dir: Path, path: Path) -> Path | None:
    """The split file in a folder below `data_dir`, in `data_dir`, or between."""
    between = [folder for folder in (path, *path.parents) if folder.is_relative_to(data_dir)]
    found = {
        file.resolve(): file
        for folder in reversed(between)
        for file in sorted(folder.iterdir())
        if file.suffix.lower() == ".txt"
        and not file.name.startswith(".")
        and any(name in file.name.lower() for name in SPLIT_NAMES)
    }
    splits = [read_split_file(file) for file in found.values()]
    if any(split != splits[0] for split in splits):
        raise InputError(", ".join(map(str, found.values())), "different split files", "keep one of them")
    return next(iter(found.values()), None)


def _read_recording(folder: IcbhiFolder, name: str) -> Recording:
    parsed = parse_recording_name(name)
    if parsed is None:
        raise InputError(name, "is not the name of an ICBHI recording", "rename it")
    annotation, audio = folder.annotations[name], folder.audio[name]
    duration = audio_duration(audio)
    cycles: list[Cycle] = read_annotations(annotation, duration, END_TOLERANCE_SECONDS)
    return Recording(
        path=audio.absolute(),
        name=name,
        patient=parsed.patient,
        device=parsed.device,
        location=parsed.location,
        acquisition_mode=parsed.acquisition_mode,
        cycles=tuple(cycles),
    )


def _expected_counts(folder: IcbhiFolder, split: str) -> dict[str, tuple[int, int | None]]:
    """Recordings and, where known, cycles of each part: of the published database, or of another split file."""
    check_split(split)
    if folder.split_file is not None:
        listed = read_split_file(folder.split_file)
        published = len(listed) == TOTAL_RECORDINGS and all(official_part(name) == listed[name] for name in listed)
        if not published and split.startswith("fold"):
            return {}
        if not published:
            parts = Counter(assign_parts(listed, split, folder.split_file).values())
            return {part: (parts[part], None) for part in PARTS}
    return dict(published_counts(split))
