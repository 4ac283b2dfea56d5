"""Finds the recordings that a user names, and the annotation files that belong to them."""

import contextlib
import io
import os
import shutil
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import soundfile

from ..audio import memory_checked
from ..containers import is_for_pyav
from ..errors import InputError, one_line

# A recording inside a zip is decompressed in memory; 24 hours at 4 kHz and 16 bit are 0.7 GB.
LARGEST_ARCHIVED_BYTES = 10**9
# With the others zipfile decompresses some kilobytes at once whatever comes of it: 2 GB out of 1.5 kB of bzip2.
BOUNDED_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
AUDIO_SUFFIXES = (
    ".wav", ".flac", ".ogg", ".mp3", ".oga", ".opus", ".aif", ".aiff", ".aifc", ".au", ".snd", ".caf", ".w64", ".rf64",
    ".m4a", ".mp4", ".3gp", ".3g2", ".webm", ".mka", ".amr", ".aac", ".wma",
)  # fmt: skip
# Usual files beside recordings.
COMPANION_SUFFIXES = (
    ".txt",
    ".json",
    ".csv",
    ".tsv",
    ".xlsx",
    ".md",
    ".pdf",
    ".png",
    ".jpg",
    ".svg",
    ".py",
    ".parquet",
)
# An mp3 file begins with ID3, or else with the eleven set bits of its first frame.
AUDIO_SIGNATURES = (b"RIFF", b"RIFX", b"RF64", b"fLaC", b"OggS", b"ID3", b"FORM", b".snd", b"caff", b"riff")


@dataclass(frozen=True)
class ArchivedRecording:
    """
    A recording inside a zip, which is read without being extracted.

    Args:
        archive (`Path`): the zip.
        member (`str`): its name in there.
    """

    archive: Path
    member: str

    @property
    def stem(self) -> str:
        """File name without folders and suffix."""
        return PurePosixPath(self.member).stem

    def read(self) -> bytes:
        """
        The content of the recording.

        Raises:
            InputError: where the zip or its member is damaged, encrypted, too large, empty, no audio or
                compressed by anything but deflate;
                where it does not fit into memory.
        """
        try:
            with memory_checked(self), zipfile.ZipFile(self.archive) as archive:
                return self._read_member(archive)
        except InputError:
            raise
        except (zipfile.BadZipFile, zlib.error, RuntimeError, KeyError, EOFError, OSError, ValueError) as error:
            raise InputError(
                self, f"cannot be read ({one_line(error)})", "unpack the zip and name its folder"
            ) from error

    def _read_member(self, archive: zipfile.ZipFile) -> bytes:
        member = archive.getinfo(self.member)
        if member.compress_type not in BOUNDED_COMPRESSIONS:
            raise InputError(self, "is not compressed by deflate", "unpack the zip and name its folder")
        # No more than this size is read, even where it is a lie.
        if member.file_size > LARGEST_ARCHIVED_BYTES:
            raise InputError(
                self,
                f"is larger than {LARGEST_ARCHIVED_BYTES / 1e9:g} GB",
                "unpack the zip and name its folder",
            )
        if not member.file_size:
            raise InputError(self, "is empty (0 bytes)", "record or export it again")
        content = io.BytesIO()
        with archive.open(member) as file:
            content.write(file.read(12))
            if not _begins_like_audio(content.getvalue()):
                raise InputError(self, "is not readable audio", "convert it to wav")
            shutil.copyfileobj(file, content)
        return content.getvalue()

    def __str__(self) -> str:
        return f"{self.archive}/{self.member}"

    def __fspath__(self) -> str:
        return str(self)


def sum_durations(recordings: Sequence[Path | ArchivedRecording], enough: float) -> float:
    """
    Seconds that the recordings last, by what their headers say; one that cannot be read counts nothing.

    Args:
        recordings (sequence of `Path` or [`ArchivedRecording`]): files, or recordings inside a zip.
        enough (`float`): sum at which no further one is read.
    """
    total = 0.0
    for recording in recordings:
        if total >= enough:
            break
        with contextlib.suppress(OSError, ValueError, soundfile.SoundFileError):
            source = io.BytesIO(recording.read()) if isinstance(recording, ArchivedRecording) else str(recording)
            total += soundfile.info(source).duration
    return total


def find_recordings(path: str | os.PathLike) -> list[Path] | list[ArchivedRecording]:
    """
    The recording at a path, or all files with `AUDIO_SUFFIXES` in a folder and the folders inside it, or in a zip,
    sorted.

    Hidden files are left out. Any other path is returned as it is, whatever its name.

    Raises:
        InputError: where a folder or zip holds no recording or cannot be read, or a recording in a zip has an
            absolute name, one with `..` or that of another.
    """
    if not str(path):
        raise InputError("recording", "the path is empty", "name a file or a folder")
    path = Path(path)
    if path.suffix.lower() == ".zip" and path.is_file():
        return _find_archived(path)
    if not path.is_dir():
        return [path]
    unreadable: list[OSError] = []
    recordings: list[Path] = []
    for folder, _, names in os.walk(path, onerror=unreadable.append):
        recordings.extend(Path(folder, name) for name in names if _is_audio_name(name))
    if unreadable:
        raise InputError(unreadable[0].filename, f"cannot be read ({unreadable[0].strerror})", "allow reading it")
    if not recordings:
        raise InputError(path, "contains no recordings", f"check the path; known are {', '.join(AUDIO_SUFFIXES)}")
    return sorted(recordings)


def find_left_out(path: str | os.PathLike) -> list[str]:
    """Names of files in a folder and the folders inside it, or in a zip, other than recordings and their usual
    companions."""
    if Path(path).is_dir():
        found = [name for _, _, names in os.walk(str(path)) for name in names]
    elif Path(path).suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            found = [PurePosixPath(name).name for name in archive.namelist() if name[-1:] != "/"]
    else:
        return []
    names = [name for name in found if not name.startswith(".")]
    return sorted(name for name in names if not name.lower().endswith((*AUDIO_SUFFIXES, *COMPANION_SUFFIXES)))


def _find_archived(path: Path) -> list[ArchivedRecording]:
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.namelist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise InputError(path, f"is not a readable zip ({error})", "copy or download it again") from error
    # The names of folders end in a slash.
    names = sorted(name for name in members if name[-1:] != "/" and _is_audio_name(PurePosixPath(name).name))
    if not names:
        raise InputError(path, "contains no recordings", f"check the path; known are {', '.join(AUDIO_SUFFIXES)}")
    for name, count in Counter(names).items():
        if _leads_outside(name):
            raise InputError(f"{path}/{name}", "leads out of the zip", "pack it again with names inside one folder")
        if count > 1:
            raise InputError(f"{path}/{name}", f"is in the zip {count} times", "pack it again with different names")
    return [ArchivedRecording(path, name) for name in names]


def _leads_outside(name: str) -> bool:
    # Of Windows, since its paths are split at both kinds of slashes.
    path = PureWindowsPath(name)
    return bool(path.root) or ".." in path.parts


def _begins_like_audio(content: bytes) -> bool:
    is_mpeg = content[:1] == b"\xff" and content[1:2] >= b"\xe0"
    return content.startswith(AUDIO_SIGNATURES) or is_mpeg or is_for_pyav(content)


def _is_audio_name(name: str) -> bool:
    return name.lower().endswith(AUDIO_SUFFIXES) and not name.startswith(".")


def find_annotations(path: str | os.PathLike, recordings: Sequence[Path | ArchivedRecording]) -> list[Path]:
    """
    The annotation file of each recording, whether it exists or not.

    Args:
        path (`str` or `os.PathLike`): the file of the only recording, or a folder of `.txt` files with their names,
            also in folders inside it.
        recordings (sequence of `Path`): the recordings.

    Returns:
        `list[Path]`: one a recording.

    Raises:
        InputError: where one file is given for several recordings, or a name does not tell which file it is.
    """
    if Path(path).is_dir():
        return _find_by_name(Path(path), recordings)
    if len(recordings) > 1:
        raise InputError(
            path,
            f"is one annotation file for {len(recordings)} recordings",
            "name the folder that has a .txt for each of them",
        )
    return [Path(path)] * len(recordings)


def _find_by_name(folder: Path, recordings: Sequence[Path | ArchivedRecording]) -> list[Path]:
    by_name: dict[str, list[Path]] = {}
    for file in sorted(folder.rglob("*.txt")):
        by_name.setdefault(file.stem, []).append(file)
    num_recordings = Counter(recording.stem for recording in recordings)
    annotations = []
    for recording in recordings:
        candidates = by_name.get(recording.stem, [])
        # Resolve folders only: files of a Hub snapshot are links into one folder.
        own_folder = Path(recording).parent.resolve()
        beside = [file for file in candidates if file.parent.resolve() == own_folder]
        if not beside and (len(candidates) > 1 or (candidates and num_recordings[recording.stem] > 1)):
            raise InputError(
                recording,
                "several recordings or annotation files have this name",
                "put each .txt beside its recording",
            )
        annotations.append((beside or candidates or [folder / f"{recording.stem}.txt"])[0])
    return annotations
