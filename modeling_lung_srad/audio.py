"""Reads audio files into the mono waveforms that the model works on: soundfile, and PyAV for other formats.

The module is saved with checkpoints, where arrays are classified without soundfile.
"""

import io
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .containers import Content, PieceReader, Pieces, PyavFile, read_streams
from .errors import InputError
from .file_content import FileContent
from .quality import QualityFlag

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
# libsndfile reports this length for a FLAC file whose writer did not know it, and misses the end of such a file.
UNKNOWN_FRAMES = 2**63 - 1
# A file is read in blocks of this many frames: memory grows with what is in it, not with what its header says.
BLOCK_FRAMES = 2**20
FLAC_FRAMES = 2**12
# Less missing at the end of a file is not worth a word, more is an error.
MISSING_SECONDS = (0.05, 1.0)
# A channel this much fainter than the other, in power, holds no sound; a mean this much fainter cancels.
DEAD_CHANNEL, CANCELLED = 1e-3, 0.1
# Lossy formats below take crackles away (`docs/recordings.md`).
LOWEST_LOSSY_BITS = 64000
LOSSY = ("MPEG", "VORBIS", "OPUS")
# Resampling is by a windowed sinc.
ZERO_CROSSINGS, ROLL_OFF = 6, 0.99
# A longer waveform is resampled in pieces of this many samples, which are small beside it.
SAMPLES_AT_ONCE = 2**24


class SourceAudio(NamedTuple):
    """
    Args:
        waveform (`np.ndarray`): float32, mono, shape `(samples,)`.
        sampling_rate (`int`): in Hz, that of the file.
        flags (`tuple[QualityFlag, ...]`): what the file itself gives reason to distrust: `wrong_length`, `lossy` and
            `one_channel`.
    """

    waveform: np.ndarray
    sampling_rate: int
    flags: tuple[QualityFlag, ...]


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
        source = read_source(path, allow_silence)
        return resample(source.waveform, source.sampling_rate, sampling_rate)


def read_source(path: str | os.PathLike, allow_silence: bool = False) -> SourceAudio:
    """
    Reads a file as [`read_audio`], at the sampling rate that it has.

    Returns:
        [`SourceAudio`]

    Raises:
        InputError: as [`read_audio`].
    """
    path = _existing_file(path)
    with memory_checked(path), FileContent(path) as content:
        return _decode(content, path, allow_silence)


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
        source = decode_source(data, name, allow_silence)
        return resample(source.waveform, source.sampling_rate, sampling_rate)


def decode_source(
    data: bytes, name: str = "audio bytes", allow_silence: bool = False, max_samples: float = math.inf
) -> SourceAudio:
    """
    Decodes as [`decode_audio`], at the sampling rate that the content has.

    Args:
        data, name, allow_silence: as there.
        max_samples (`float`, *optional*): number of samples a channel at which decoding stops with an error.

    Returns:
        [`SourceAudio`]

    Raises:
        InputError: as [`read_audio`].
    """
    if not data:
        raise InputError(name, "is empty (0 bytes)", "record or export it again")
    with memory_checked(name):
        return _decode(data, name, allow_silence, max_samples)


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
    Duration of an audio file in seconds, without decoding it.

    Raises:
        InputError: where the file is missing, empty or not audio.
    """
    path = _existing_file(path)
    seconds = 0.0
    with FileContent(path) as content:
        for stream in read_streams(content, path).streams:
            with _open(stream, path) as sound:
                seconds += sound.frames / sound.samplerate
    return seconds


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
    divisor = math.gcd(source_rate, sampling_rate)
    source_step, num_phases = source_rate // divisor, sampling_rate // divisor
    cutoff = min(1.0, num_phases / source_step) * ROLL_OFF
    half_width = math.ceil(ZERO_CROSSINGS / cutoff)
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
            distance = np.clip((taps - remainder / num_phases) * cutoff, -ZERO_CROSSINGS, ZERO_CROSSINGS)
            hann = np.cos(distance * np.pi / (2 * ZERO_CROSSINGS)) ** 2
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


class _Mixer:
    """Mixes blocks of `(frames, channels)` down as they come."""

    def __init__(self) -> None:
        self._mid, self._side = np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.float32)
        self._moments = np.zeros((3, 2))

    def __len__(self) -> int:
        return len(self._mid)

    def add(self, block: np.ndarray) -> None:
        """Takes the next frames. Two huge samples of float32 have a mean, but no sum."""
        samples = block.astype(np.float64) if block.shape[1] > 1 else block
        # In place: to join blocks in the end would take twice the memory of a long recording.
        self._mid.resize(len(self._mid) + len(block), refcheck=False)
        with np.errstate(invalid="ignore"):  # Not a number, an error later.
            self._mid[-len(block) :] = samples.mean(axis=1)
        if block.shape[1] == 1 and not len(self._side):
            return
        self._side.resize(len(self._mid), refcheck=False)
        self._side[-len(block) :] = (samples[:, 0] - samples[:, -1]) / 2
        kinds = np.stack([samples[:, 0], samples[:, -1], samples.mean(axis=1)])
        with np.errstate(invalid="ignore", over="ignore"):  # Infinite samples are an error later.
            self._moments += np.stack([kinds.sum(axis=1), np.square(kinds).sum(axis=1)], axis=1)

    def mix(self) -> tuple[np.ndarray, QualityFlag | None]:
        """The mean of the channels, or the louder one with a flag where they cancel or the other is dead."""
        if not len(self._side):
            return self._mid, None
        means, squares = (self._moments / len(self._mid)).T
        left, right, mid = squares - np.square(means)
        louder, quieter = max(left, right), min(left, right)
        if not np.isfinite(louder) or (mid >= CANCELLED * louder and quieter >= DEAD_CHANNEL * louder):
            return self._mid, None
        self._mid += self._side if left >= right else -self._side
        name, other = ("left", "right") if left >= right else ("right", "left")
        problem = f"The {other} channel holds no sound" if quieter < DEAD_CHANNEL * louder else "The channels cancel"
        message = f"{problem}, so the {name} one was used alone; check the plug of the microphone, or record in mono."
        return self._mid, QualityFlag("one_channel", message, float(quieter / louder))


def _decode(
    content: Content, name: str | os.PathLike, allow_silence: bool, max_samples: float = math.inf
) -> SourceAudio:
    found = read_streams(content, name)
    mixer, rate, missing, is_lossy = _Mixer(), 0, found.missing_seconds, False
    for stream in found.streams:
        with _open(stream, name) as sound:
            if rate not in (0, sound.samplerate):
                raise InputError(name, "has parts of different sampling rates", "cut it into files of one rate each")
            rate, is_lossy = sound.samplerate, is_lossy or any(kind in sound.subtype for kind in LOSSY)
            if sound.channels > MAX_CHANNELS:
                raise InputError(name, f"has {sound.channels} channels", "export one channel (mono) or two (stereo)")
            first = len(mixer)
            damage = _read_blocks(sound, mixer, max_samples)
            if len(mixer) > max_samples:
                raise InputError(name, f"has more than {max_samples / 1e6:.0f} million samples", "cut it into parts")
            missing += max(0, sound.frames - (len(mixer) - first)) / rate
            if damage and missing <= MISSING_SECONDS[0]:
                raise InputError(name, f"is damaged ({damage})", "copy or export the file again")
    seconds = len(mixer) / rate
    flags = [_check_length(name, missing + found.missing * seconds, seconds)]
    if is_lossy and seconds and (bits := 8 * len(content) / seconds) < LOWEST_LOSSY_BITS:
        message = (
            f"The file was compressed to {bits / 1000:.0f} kbit/s, which can take crackles away; record in wav or "
            f"flac, or at {LOWEST_LOSSY_BITS // 1000} kbit/s or more."
        )
        flags.append(QualityFlag("lossy", message, bits))
    waveform, one_channel = mixer.mix()
    check_waveform(waveform, rate, name, allow_silence)
    return SourceAudio(waveform, rate, tuple(flag for flag in (*flags, one_channel) if flag is not None))


def _read_blocks(sound: Any, mixer: _Mixer, max_samples: float) -> str:
    """Reads a stream to its end, or beyond `max_samples`; returns why it stopped before, if it did."""
    try:
        with _quiet("MPEG" in sound.subtype):
            blocks = _flac_blocks(sound) if sound.format == "FLAC" else _blocks(sound, BLOCK_FRAMES)
            for block in blocks:
                mixer.add(block)
                if len(mixer) > max_samples:
                    break
    except soundfile.LibsndfileError as error:
        return error.error_string.strip(" .")
    return ""


def _blocks(sound: Any, frames: int) -> Iterator[np.ndarray]:
    while len(block := sound.read(frames, dtype="float32", always_2d=True)):
        yield block


def _flac_blocks(sound: Any) -> Iterator[np.ndarray]:
    """Blocks that are read in small pieces, as libsndfile loses the whole piece in which a truncated file ends."""
    pieces: list[np.ndarray] = []
    error = None
    try:
        for piece in _blocks(sound, FLAC_FRAMES):
            pieces.append(piece)
            if len(pieces) * FLAC_FRAMES >= BLOCK_FRAMES:
                yield np.concatenate(pieces)
                pieces = []
    except soundfile.LibsndfileError as raised:
        error = raised
    if pieces:
        yield np.concatenate(pieces)
    if error is not None:
        raise error


@contextmanager
def _quiet(is_mpeg: bool) -> Iterator[None]:
    """Keeps the notes of libmpg123 about single frames, which name its own source files, from standard error."""
    if not is_mpeg:
        yield
        return
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _check_length(name: str | os.PathLike, missing: float, seconds: float) -> QualityFlag | None:
    """A flag about what is missing after `seconds`, or lies after the stated end.

    Raises:
        InputError: where more is missing than an answer can do without.
    """
    unnoticed, largest = MISSING_SECONDS
    if missing > largest:
        total = missing + seconds
        problem = f"is truncated, {missing:.2f} of {total:.2f} s are missing"
        raise InputError(name, problem, "copy or export the file again")
    if missing > unnoticed:
        message = f"The last {missing:.2f} s that the file states are missing; copy or export it again."
    elif missing < -unnoticed:
        message = (
            f"The file states {seconds + missing:.2f} s, but {seconds:.2f} s of sound were found and used; save it "
            "again by an audio editor."
        )
    else:
        return None
    return QualityFlag("wrong_length", message, missing)


def _open(stream: Pieces, name: str | os.PathLike) -> Any:
    """A stream as `soundfile.SoundFile`, or as [`PyavFile`] where libsndfile cannot read it to its end."""
    sound = _decoder(stream, name)
    if sound.samplerate <= 0 or sound.channels <= 0:
        raise InputError(name, "states no sampling rate or no channels", "export it again")
    return sound


def _decoder(stream: Pieces, name: str | os.PathLike) -> Any:
    if soundfile is None:
        raise InputError(name, "cannot be read without soundfile", "install it by `pip install soundfile`")
    try:
        with _quiet(bytes(stream[0][:1]) == b"\xff" or bytes(stream[0][:3]) == b"ID3"):
            sound = soundfile.SoundFile(io.BufferedReader(PieceReader(stream), 2**16))
    except soundfile.LibsndfileError as error:
        return PyavFile(stream, name, f"is not readable audio ({error.error_string.strip(' .')})")
    if sound.frames < UNKNOWN_FRAMES:
        return sound
    sound.close()
    return PyavFile(stream, name, "does not state its length")
