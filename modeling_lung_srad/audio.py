"""Reads audio files into the mono waveforms that the model works on: soundfile, no torch, no ffmpeg.

The module is saved with checkpoints, where arrays are classified without soundfile.
"""

import io
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from .errors import InputError

try:
    import soundfile
except ImportError:
    soundfile = None

SAMPLING_RATE = 16000
MIN_SOURCE_RATE = 2000
# Twice the rate of the fastest sound cards. Only a broken header says more, and from 100 MHz resampling takes minutes.
MAX_SOURCE_RATE = 768000
MIN_SECONDS = 0.025
MAX_CHANNELS = 2
# A float file may have any scale, but no recording is louder than full scale of 32 bit.
LARGEST_SAMPLE = 2.0**31
# Lengths that writers put into a RIFF header when they stream and cannot know it. libsndfile reads to the end then.
UNKNOWN_RIFF_LENGTHS = (0x7FFFF000, 0x80000000, 0xFFFFFFFF)
# libsndfile reports this length for a FLAC file whose writer did not know it, and misses the end of such a file.
UNKNOWN_FRAMES = 2**63 - 1
LENGTH_REMEDY = "save it again by an audio editor, or by `ffmpeg -i FILE NEW.wav`"
# Writers put a handful of chunks before the audio. A damaged file can have millions of empty ones.
MAX_CHUNKS = 10000
MP3_LENGTH_TOLERANCE_SECONDS = 0.1
# A file is read in blocks of this many frames: memory grows with what is in it, not with what its header says.
BLOCK_FRAMES = 2**20
# A longer waveform is resampled in pieces of this many samples, which are small beside it.
SAMPLES_AT_ONCE = 2**24


@contextmanager
def memory_checked(name: str | os.PathLike) -> Iterator[None]:
    """
    Runs what takes memory for one recording, so that too long a recording does not stop the others.

    Raises:
        InputError: in place of a `MemoryError`.
    """
    try:
        yield
    except MemoryError as error:
        raise InputError(name, "does not fit into memory", "cut it into shorter files") from error


def read_audio(path: str | os.PathLike, sampling_rate: int = SAMPLING_RATE, allow_silence: bool = False) -> np.ndarray:
    """
    Reads a wav, flac, ogg or mp3 file of any bit depth as a mono waveform.

    Args:
        path (`str` or `os.PathLike`): the audio file. Two channels are averaged.
        sampling_rate (`int`, *optional*, defaults to 16000): rate in Hz to resample to.
        allow_silence (`bool`, *optional*, defaults to `False`):
            whether a file of nothing but zeros is accepted.

    Returns:
        `np.ndarray`: float32 waveform of shape `(samples,)`, full scale at -1 and 1.

    Raises:
        InputError: for a file that is missing, empty, truncated, not audio, silent, shorter than 25 ms, under
            2 kHz or above 768 kHz, with more than two channels, with NaN or infinite samples or too long for the
            memory.
    """
    with memory_checked(path):
        return resample(*read_source(path, allow_silence), sampling_rate)


def read_source(path: str | os.PathLike, allow_silence: bool = False) -> tuple[np.ndarray, int]:
    """
    Reads a file as [`read_audio`], at the sampling rate that it has.

    Returns:
        `tuple[np.ndarray, int]`: float32 waveform of shape `(samples,)`, and its rate in Hz.

    Raises:
        InputError: as [`read_audio`].
    """
    path = _existing_file(path)
    with path.open("rb") as file, memory_checked(path):
        _check_complete(file, path)
        file.seek(0)
        # An open file and not its name, since soundfile takes only names that are text.
        return _decode(file, path, allow_silence)


def decode_audio(
    data: bytes, name: str = "audio bytes", sampling_rate: int = SAMPLING_RATE, allow_silence: bool = False
) -> np.ndarray:
    """
    Decodes the content of an audio file held in memory; otherwise as [`read_audio`].

    Args:
        data (`bytes`): content of a wav, flac, ogg or mp3 file.
        name (`str`, *optional*, defaults to `"audio bytes"`): what error messages call it.
        sampling_rate (`int`, *optional*, defaults to 16000): rate in Hz to resample to.
        allow_silence (`bool`, *optional*, defaults to `False`): whether nothing but zeros is accepted.

    Returns:
        `np.ndarray`: float32 waveform of shape `(samples,)`.

    Raises:
        InputError: as [`read_audio`].
    """
    with memory_checked(name):
        return resample(*decode_source(data, name, allow_silence), sampling_rate)


def decode_source(data: bytes, name: str = "audio bytes", allow_silence: bool = False) -> tuple[np.ndarray, int]:
    """
    Decodes as [`decode_audio`], at the sampling rate that the content has.

    Returns:
        `tuple[np.ndarray, int]`: float32 waveform of shape `(samples,)`, and its rate in Hz.

    Raises:
        InputError: as [`read_audio`].
    """
    if not data:
        raise InputError(name, "is empty (0 bytes)", "record or export it again")
    with memory_checked(name):
        _check_complete(io.BytesIO(data), name)
        return _decode(io.BytesIO(data), name, allow_silence)


def check_waveform(waveform: np.ndarray, sampling_rate: int, name: str | os.PathLike, allow_silence: bool) -> None:
    """
    Checks a mono waveform of shape `(samples,)`, wherever it comes from.

    Raises:
        InputError: where its rate is under 2 kHz or above 768 kHz, or it is shorter than 25 ms, not finite, too
            large or silent.
    """
    if sampling_rate > MAX_SOURCE_RATE:
        raise InputError(
            name,
            f"has a sampling rate above {MAX_SOURCE_RATE} Hz",
            "correct the rate that it states, or export it at 44100 Hz",
        )
    if sampling_rate < MIN_SOURCE_RATE:
        raise InputError(
            name,
            f"has a sampling rate of {sampling_rate} Hz",
            f"lung sounds need at least {MIN_SOURCE_RATE} Hz, record or export it at a higher rate",
        )
    if len(waveform) < MIN_SECONDS * sampling_rate:
        raise InputError(
            name,
            f"lasts {1000 * len(waveform) / sampling_rate:.1f} ms",
            f"at least {1000 * MIN_SECONDS:.0f} ms of audio are needed",
        )
    largest = np.abs(waveform).max()
    if not np.isfinite(largest):
        raise InputError(name, "has NaN or infinite samples", "export it again as 16 or 24 bit integers")
    if largest > LARGEST_SAMPLE:
        raise InputError(name, f"has samples of up to {largest:.0e}", "export it again as 16 or 24 bit integers")
    if not allow_silence and not largest:
        raise InputError(name, "is silent (all samples are zero)", "check the microphone and record again")


def audio_duration(path: str | os.PathLike) -> float:
    """
    Duration of an audio file in seconds, from its header alone.

    Raises:
        InputError: where the file is missing, empty or not audio.
    """
    path = _existing_file(path)
    with path.open("rb") as file, _open(file, path) as sound:
        return sound.frames / sound.samplerate


def resample(waveform: np.ndarray, source_rate: int, sampling_rate: int) -> np.ndarray:
    """
    Resamples by windowed-sinc interpolation (Hann window, 6 zero crossings, roll-off 0.99).

    This is the interpolation of `torchaudio.functional.resample` with its defaults, which the published features
    were made with. Sharper filters leave less above the source's Nyquist frequency, and there the logarithm in the
    log-mel turns a difference of 1e-3 in the waveform into whole units.

    Args:
        waveform (`np.ndarray`): float waveform of shape `(samples,)`.
        source_rate (`int`): its rate in Hz.
        sampling_rate (`int`): the wanted rate in Hz.

    Returns:
        `np.ndarray`: float32 waveform of shape `(ceil(samples * sampling_rate / source_rate),)`.

    Example:

    ```python
    >>> import numpy as np
    >>> from modeling_lung_srad.audio import resample

    >>> resample(np.zeros(44100, dtype=np.float32), 44100, 16000).shape
    (16000,)

    ```
    """
    if source_rate <= 0 or sampling_rate <= 0:
        raise ValueError(f"sampling rates must be positive, got {source_rate} and {sampling_rate} Hz")
    waveform = np.asarray(waveform, dtype=np.float32)
    if source_rate == sampling_rate:
        return waveform
    zero_crossings, roll_off = 6, 0.99
    divisor = math.gcd(source_rate, sampling_rate)
    source_step, num_phases = source_rate // divisor, sampling_rate // divisor
    cutoff = min(1.0, num_phases / source_step) * roll_off
    half_width = math.ceil(zero_crossings / cutoff)
    taps = np.arange(-half_width, half_width + 1)

    num_samples = math.ceil(len(waveform) * num_phases / source_step)
    resampled = np.zeros((math.ceil(num_samples / num_phases), num_phases), dtype=np.float32)
    steps_at_once = max(1, SAMPLES_AT_ONCE // source_step)
    for begin in range(0, len(resampled), steps_at_once):
        steps = resampled[begin : begin + steps_at_once]
        # A piece needs half a kernel of its neighbours, or of the silence around the recording.
        low, high = begin * source_step - half_width, (begin + len(steps) + 1) * source_step + half_width
        piece = waveform[max(low, 0) : high]
        padded = np.pad(piece, (max(-low, 0), high - max(low, 0) - len(piece)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, len(taps))
        for phase in range(num_phases):
            first, remainder = divmod(phase * source_step, num_phases)
            distance = np.clip((taps - remainder / num_phases) * cutoff, -zero_crossings, zero_crossings)
            hann = np.cos(distance * np.pi / (2 * zero_crossings)) ** 2
            kernel = (np.sinc(distance) * hann * cutoff).astype(np.float32)
            steps[:, phase] = windows[first::source_step][: len(steps)] @ kernel
    return resampled.reshape(-1)[:num_samples]


def _existing_file(path: str | os.PathLike) -> Path:
    path = Path(path)
    try:
        status = path.stat()
        # To open a named pipe would wait for its writer.
        if stat.S_ISREG(status.st_mode):
            with path.open("rb"):
                pass
    except FileNotFoundError:
        raise InputError(path, "no such file", "check the path") from None
    except OSError as error:
        raise InputError(path, f"cannot be opened ({error.strerror})", "check the path and its permissions") from error
    except ValueError as error:
        raise InputError(path, f"is not a valid file name ({error})", "check the path") from error
    if stat.S_ISDIR(status.st_mode):
        raise InputError(path, "is a folder", "name an audio file")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(path, "is not a regular file", "save the audio to one first")
    if status.st_size == 0:
        raise InputError(path, "is empty (0 bytes)", "record or export it again")
    return path


def _check_complete(file: BinaryIO, name: str | os.PathLike) -> None:
    """libsndfile silently shortens a truncated wav or ogg file to what is there, so that is looked up here."""
    magic = file.read(12)
    size = file.seek(0, os.SEEK_END)
    if magic[:4] in (b"RIFF", b"RF64") and magic[8:12] == b"WAVE":
        _check_complete_wav(file, size, name)
    elif magic[:4] == b"OggS":
        file.seek(max(0, size - 2**17))
        tail = file.read()
        last_page = tail[tail.rfind(b"OggS") :]
        # Bit 4 of a page's sixth byte marks the end of the stream.
        if len(last_page) < 6 or not last_page[5] & 4:
            raise InputError(name, "is truncated (its Ogg stream lacks an end)", "copy or export the file again")


def _check_complete_wav(file: BinaryIO, size: int, name: str | os.PathLike) -> None:
    offset, bytes_per_second, long_length = 12, 0, 0
    for _ in range(MAX_CHUNKS):
        if offset + 8 > size:
            return
        file.seek(offset)
        chunk, length = file.read(4), int.from_bytes(file.read(4), "little")
        if chunk == b"fmt ":
            bytes_per_second = int.from_bytes(file.read(16)[8:12], "little")
        elif chunk == b"ds64":
            # Files over 4 GiB (RF64) have the length of their audio here and a placeholder at its usual place.
            long_length = int.from_bytes(file.read(16)[8:], "little")
        elif chunk == b"data":
            length = long_length or length
            missing = length - (size - offset - 8)
            if length == 0 and missing < 0:
                raise InputError(name, "does not state how long its audio is", LENGTH_REMEDY)
            if length not in UNKNOWN_RIFF_LENGTHS and missing > 0:
                seconds = f" ({missing / bytes_per_second:.2f} s)" if bytes_per_second else ""
                raise InputError(
                    name,
                    f"is truncated, {missing} of {length} audio bytes{seconds} are missing",
                    "copy or export the file again",
                )
            return
        offset += 8 + length + length % 2
    raise InputError(name, f"has {MAX_CHUNKS} chunks and no audio among them", "copy or export the file again")


def _open(file: BinaryIO, name: str | os.PathLike) -> "soundfile.SoundFile":
    if soundfile is None:
        raise InputError(name, "cannot be read without soundfile", "install it by `pip install soundfile`")
    try:
        sound = soundfile.SoundFile(file)
    except soundfile.LibsndfileError as error:
        problem = f"is not readable audio ({error.error_string.strip(' .')})"
    except TypeError:
        # soundfile wants to be told the format of files named .raw.
        problem = "is raw audio without a header"
    else:
        if sound.frames < UNKNOWN_FRAMES:
            return sound
        sound.close()
        raise InputError(name, "does not state how long its audio is", LENGTH_REMEDY)
    raise InputError(name, problem, "convert it to wav, flac, ogg or mp3")


def _decode(file: BinaryIO, name: str | os.PathLike, allow_silence: bool) -> tuple[np.ndarray, int]:
    with _open(file, name) as sound:
        source_rate, frames, file_format = sound.samplerate, sound.frames, sound.format
        if sound.channels > MAX_CHANNELS:
            raise InputError(name, f"has {sound.channels} channels", "export one channel (mono) or two (stereo)")
        try:
            waveform = np.zeros(0, dtype=np.float32)
            while len(block := sound.read(BLOCK_FRAMES, dtype="float32", always_2d=True)):
                # In place: to join blocks in the end would take twice the memory of a long recording.
                waveform.resize(len(waveform) + len(block), refcheck=False)
                # Two huge samples of float32 have a mean, but no sum.
                waveform[-len(block) :] = block.mean(axis=1, dtype=np.float64)
        except soundfile.LibsndfileError as error:
            problem = f"is truncated or damaged ({error.error_string.strip(' .')})"
            raise InputError(name, problem, "copy or export the file again") from error
    # The length of an mp3 file is an estimate where its encoder did not store it.
    tolerance = MP3_LENGTH_TOLERANCE_SECONDS * source_rate if file_format in ("MP3", "MPEG") else 0
    if frames - len(waveform) > tolerance:
        problem = f"is truncated, {frames - len(waveform)} of {frames} samples are missing"
        raise InputError(name, problem, "copy or export the file again")
    check_waveform(waveform, source_rate, name, allow_silence)
    return waveform, source_rate
