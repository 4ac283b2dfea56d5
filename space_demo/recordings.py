"""Reads an upload after checking its place, size and length."""

import io
import math
from pathlib import Path

import soundfile

from modeling_lung_srad.audio import SAMPLING_RATE, decode_source, resample
from modeling_lung_srad.errors import InputError
from modeling_lung_srad.recording import Recording
from space_demo.limits import MAX_MEGABYTES, MAX_MINUTES, MAX_UPLOAD_BYTES

MAX_SECONDS = 60 * MAX_MINUTES
# 10 minutes at 48 kHz; more would exceed the memory of a free Space.
MAX_FRAMES = MAX_SECONDS * 48000
LONGEST_NAME = 80
FORMULA_SIGNS = "=+-@ "


def load_upload(path: str | None, folder: Path) -> Recording:
    """
    Reads an upload.

    Args:
        path (`str`, *optional*): the file; `None` where nothing was recorded or uploaded.
        folder (`Path`): the private folder; nothing outside it is read.

    Returns:
        [`Recording`]: its `file` is the name without the folder.

    Raises:
        InputError: where there is nothing, or it is gone, too large or too long;
            where it is not audio that can be used.
    """
    if path is None:
        raise InputError("recording", "there is none yet", "record one or choose a file, then ask again")
    file = Path(path)
    name = shown_name(file.name)
    if file.is_symlink() or not file.resolve().is_relative_to(folder):
        raise InputError(name, "is not an upload of this page", "choose the file again")
    if not file.is_file():
        raise InputError(name, "was removed, since nothing is kept", "choose the file again")
    if file.stat().st_size > MAX_UPLOAD_BYTES:
        raise InputError(name, f"is larger than {MAX_MEGABYTES} MB", "cut it, or save it as flac")
    data = file.read_bytes()
    check_length(data, name)
    source = decode_source(data, name, max_samples=MAX_FRAMES)
    if len(source.waveform) > MAX_SECONDS * source.sampling_rate:
        raise too_long(name)
    waveform = resample(source.waveform, source.sampling_rate, SAMPLING_RATE)
    return Recording(waveform, SAMPLING_RATE, source.waveform, source.sampling_rate, name, source.flags)


def too_long(name: str) -> InputError:
    """The error for more than the page takes."""
    return InputError(name, f"is longer than {MAX_MINUTES} minutes", "cut it into parts")


def check_length(data: bytes, name: str) -> None:
    """Raises [`InputError`] for too much audio in a file's content. Other content passes; decoding it raises."""
    try:
        # A false header does no harm, as decoding stops after `MAX_FRAMES`.
        with soundfile.SoundFile(io.BytesIO(data)) as sound:
            frames, rate = sound.frames, sound.samplerate
    except (soundfile.LibsndfileError, TypeError):
        return
    if frames > MAX_SECONDS * rate:
        raise too_long(name)
    if frames > MAX_FRAMES:
        raise InputError(
            name,
            f"has {frames / 1e6:.0f} million samples a channel, more than {math.floor(MAX_FRAMES / 1e6)} million",
            "export it at 48 kHz or less",
        )


def shown_name(name: str) -> str:
    """
    A file name as it is shown and put into tables: of printable signs, short, and no formula for a spreadsheet.

    Example:

    ```python
    >>> shown_name("=left lung\\n.wav")
    'left lung.wav'

    ```"""
    printable = "".join(sign for sign in name if sign.isprintable()).lstrip(FORMULA_SIGNS)
    if len(printable) > LONGEST_NAME:
        half = LONGEST_NAME // 2
        printable = f"{printable[:half]}…{printable[-half:]}"
    return printable or "recording"
