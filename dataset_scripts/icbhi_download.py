"""Fetches the published archive of ICBHI 2017 and unpacks it: resumable, checked, and without trust in the archive."""

import http.client
import os
import shutil
import stat
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from tqdm.auto import tqdm

from dataset_scripts.icbhi_files import IcbhiFolder, count_annotations, find_folder
from dataset_scripts.icbhi_splits import TOTAL_CYCLES, TOTAL_RECORDINGS
from modeling_lung_srad.errors import InputError
from modeling_lung_srad.files.output_files import folder_when_complete
from modeling_lung_srad.files.recording_files import BOUNDED_COMPRESSIONS

ICBHI_URL = "https://bhichallenge.med.auth.gr/sites/default/files/ICBHI_final_database/ICBHI_final_database.zip"
URL_VARIABLE = "LUNG_SRAD_ICBHI_URL"
ARCHIVE_NAME = "ICBHI_final_database.zip"
ATTEMPTS = 4
TIMEOUT_SECONDS = 60
BLOCK_BYTES = 1 << 20
# The database unpacks to about 2 GB in some 1,900 files.
MAX_UNPACKED_BYTES = 16 << 30
MAX_MEMBERS = 20_000


def download_icbhi(
    data_dir: str | os.PathLike,
    url: str | None = None,
    expected_recordings: int | None = TOTAL_RECORDINGS,
    expected_cycles: int | None = TOTAL_CYCLES,
) -> Path:
    """
    Fetches the database into a folder, unless it is there already.

    Args:
        data_dir (`str` or `os.PathLike`): folder for the database, made where it does not exist.
        url (`str`, *optional*):
            address of the archive; by default the environment variable `LUNG_SRAD_ICBHI_URL` or the publisher's.
        expected_recordings (`int`, *optional*, defaults to 920): recordings to check for; `None` for no check.
        expected_cycles (`int`, *optional*, defaults to 6898): annotated cycles to check for; `None` for no check.

    Returns:
        `Path`: the folder.

    Raises:
        InputError: where the archive cannot be fetched; the next call continues the download;
            where the archive is damaged, unsafe, or incomplete.
    """
    data_dir = Path(data_dir)
    if data_dir.is_file():
        raise InputError(data_dir, "is a file", "name a folder for the download, or load the file without one")
    data_dir.mkdir(parents=True, exist_ok=True)
    folder = find_folder(data_dir)
    if folder is not None:
        problem = _describe_difference(folder, expected_recordings, expected_cycles)
        if problem is None:
            return data_dir
        raise InputError(folder.path, f"has {problem}", "name an empty folder for the download")
    url = url or os.environ.get(URL_VARIABLE) or ICBHI_URL
    archive, unpacked = data_dir / ARCHIVE_NAME, data_dir / Path(ARCHIVE_NAME).stem
    if not archive.exists():
        download_file(url, archive)
    extract_zip(archive, unpacked)
    folder = find_folder(unpacked)
    problem = "no ICBHI recordings"
    if folder is not None:
        problem = _describe_difference(folder, expected_recordings, expected_cycles) or ""
    if problem:
        shutil.rmtree(unpacked)
        raise InputError(archive, f"has {problem}", f"delete it, or check the address {url}")
    archive.unlink()
    return data_dir


def download_file(url: str, destination: str | os.PathLike) -> Path:
    """
    Fetches a file over HTTP. An interrupted download stays in `destination` + `.part` and is continued from there.

    Args:
        url (`str`): an http or https address.
        destination (`str` or `os.PathLike`): the file to write; it appears only when it is complete.

    Returns:
        `Path`: the destination.

    Raises:
        InputError: where the server refuses, or the connection fails four times in a row without progress.
    """
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise InputError(url, "is not an http or https address", "correct it")
    destination = Path(destination)
    part = destination.with_name(destination.name + ".part")
    failures = 0
    while True:
        before = part.stat().st_size if part.exists() else 0
        try:
            _fetch(url, part)
            break
        except urllib.error.HTTPError as error:
            raise InputError(url, f"the server answered {error.code} {error.reason}", "check the address") from error
        except (OSError, http.client.HTTPException) as error:
            after = part.stat().st_size if part.exists() else 0
            failures = 0 if after > before else failures + 1
            if failures >= ATTEMPTS:
                kept = f"{after / 1e6:.1f} MB are kept in {part}, run it again to continue"
                raise InputError(url, str(getattr(error, "reason", error)), f"check the connection, {kept}") from error
            time.sleep(2.0**failures)
    os.replace(part, destination)
    return destination


def extract_zip(archive: str | os.PathLike, destination: str | os.PathLike) -> Path:
    """
    Unpacks a zip archive into a new folder, which appears only when everything is in it.

    Args:
        archive (`str` or `os.PathLike`): the zip file.
        destination (`str` or `os.PathLike`): folder to make.

    Returns:
        `Path`: the folder.

    Raises:
        InputError: naming the member, where one leads out of the folder, is a link, is encrypted or is
            compressed by anything but deflate; and where the archive is damaged, of an unknown kind or unpacks to
            more than 16 GiB. Nothing is left behind then.
    """
    destination = Path(destination)
    if destination.exists():
        raise InputError(destination, "exists already", "delete it, or name another folder")
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [member for member in opened.infolist() if not member.is_dir()]
            _check_members(archive, members)
            with folder_when_complete(destination) as folder:
                for member in tqdm(members, desc=f"Unpacking {Path(archive).name}", unit="file", leave=False):
                    opened.extract(member, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise InputError(archive, f"is not a whole zip archive ({error})", "delete it and fetch it again") from error
    except NotImplementedError as error:
        raise InputError(
            archive,
            f"is of a kind that Python cannot unpack ({error})",
            "unpack the archive by hand and name the folder",
        ) from error
    return destination


def _fetch(url: str, part: Path) -> None:
    """One connection; appends to `part` where the server can continue, and starts over where it cannot."""
    offset = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={offset}-"} if offset else {})
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code != 416:
            raise
        if error.headers.get("Content-Range", "").endswith(f"/{offset}"):
            return
        part.unlink()
        raise ConnectionError("the file on the server has changed") from error
    with response:
        continued = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")
        start = offset if continued else 0
        length = response.headers.get("Content-Length")
        total = start + int(length) if length else None
        progress = tqdm(total=total, initial=start, desc=part.stem, unit="B", unit_scale=True, leave=False)
        with part.open("ab" if continued else "wb") as file, progress:
            while block := response.read(BLOCK_BYTES):
                file.write(block)
                progress.update(len(block))
    size = part.stat().st_size
    if total is not None and size < total:
        raise ConnectionError(f"the connection ended after {size} of {total} bytes")


def _check_members(archive: str | os.PathLike, members: list[zipfile.ZipInfo]) -> None:
    for member in members:
        # zipfile has turned the separator of the platform into "/" by now, others are kept.
        path = PurePosixPath(member.filename.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in member.filename:
            problem = "leads out of the folder; do not use this archive"
        elif stat.S_ISLNK(member.external_attr >> 16):
            problem = "is a link; do not use this archive"
        elif member.flag_bits & 1:
            problem = "is encrypted; unpack the archive by hand"
        elif member.compress_type not in BOUNDED_COMPRESSIONS:
            problem = "is not compressed by deflate; unpack the archive by hand and name the folder"
        else:
            continue
        raise InputError(archive, f"member {member.filename!r} {problem}")
    unpacked = sum(member.file_size for member in members)
    if unpacked > MAX_UNPACKED_BYTES or len(members) > MAX_MEMBERS:
        raise InputError(
            archive,
            f"unpacks to {unpacked / 1e9:.1f} GB in {len(members)} files, more than ICBHI 2017 has",
            "do not use this file",
        )


def _describe_difference(
    folder: IcbhiFolder, expected_recordings: int | None, expected_cycles: int | None
) -> str | None:
    recordings = len(folder.audio.keys() & folder.annotations.keys())
    if expected_recordings is not None and recordings != expected_recordings:
        return f"{recordings} of {expected_recordings} recordings"
    cycles = sum(part["cycles"] for part in count_annotations(folder, "official").values())
    if expected_cycles is not None and cycles != expected_cycles:
        return f"{cycles} of {expected_cycles} cycles"
    return None
