"""A recording as the model takes it: from a file, bytes or an array to a waveform, and from there to clips.

The steps are those of the authors: the whole recording is resampled and faded, then cycles or windows are cut.
The module is saved with checkpoints.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .audio import SAMPLING_RATE, SourceAudio, check_waveform, decode_source, memory_checked, read_source, resample
from .errors import InputError, one_line
from .quality import QualityFlag

FADE_SECONDS = 1 / 16
ADDRESS_PREFIXES = ("http://", "https://")


@dataclass(frozen=True)
class Recording:
    """
    A recording, mixed down, at its own rate and at that of the model.

    Args:
        waveform (`np.ndarray`): float32, shape `(samples,)`.
        sampling_rate (`int`): rate of `waveform` in Hz.
        source_waveform (`np.ndarray`): float32, shape `(source_samples,)`: before resampling, as quality is judged on.
        source_rate (`int`): rate of `source_waveform` in Hz.
        file (`str`, *optional*): where it comes from.
        flags (`tuple[QualityFlag, ...]`, *optional*): of the file, see [`SourceAudio`].
    """

    waveform: np.ndarray
    sampling_rate: int
    source_waveform: np.ndarray
    source_rate: int
    file: str | None = None
    flags: tuple[QualityFlag, ...] = ()

    @property
    def duration(self) -> float:
        """Seconds."""
        return len(self.waveform) / self.sampling_rate


def load_recording(source: Any, sampling_rate: int = SAMPLING_RATE, allow_silence: bool = False) -> Recording:
    """
    Loads a recording from whatever holds one.

    Args:
        source (`str`, `os.PathLike`, `bytes`, `np.ndarray`, `torch.Tensor`, `dict` or [`Recording`]):
            An audio file; its content; a mono waveform of shape `(samples,)` at `sampling_rate`; or a mapping with
            `"raw"` or `"array"` (a waveform) and `"sampling_rate"`, or with `"bytes"` or `"path"`, as `datasets` has.
            Integer waveforms of 8, 16 or 32 bit are scaled to [-1, 1] by the range of their type.
        sampling_rate (`int`, *optional*, defaults to 16000): rate in Hz to resample to.
        allow_silence (`bool`, *optional*, defaults to `False`): whether nothing but zeros is accepted.

    Returns:
        [`Recording`]

    Raises:
        InputError: where it cannot be used, see [`read_audio`].
    """
    if isinstance(source, Recording):
        return source
    if isinstance(source, Mapping):
        return _load_mapping(source, sampling_rate, allow_silence)
    if isinstance(source, bytes | bytearray | memoryview):
        return _resampled(decode_source(bytes(source), allow_silence=allow_silence), sampling_rate)
    if isinstance(source, str | os.PathLike):
        path = os.fsdecode(source)
        if path.lower().startswith(ADDRESS_PREFIXES):
            raise InputError(path, "is an address, and nothing is downloaded here", "download it and name the file")
        return _resampled(read_source(path, allow_silence), sampling_rate, path)
    return _load_array(source, sampling_rate, sampling_rate, allow_silence)


def fade_recording(waveform: np.ndarray, sampling_rate: int = SAMPLING_RATE) -> np.ndarray:
    """
    Fades a whole recording in and out, linearly over 1/16 s, as the published features were made.

    Args:
        waveform (`np.ndarray`): shape `(samples,)`; shorter than 1/16 s is faded over its length.
        sampling_rate (`int`, *optional*, defaults to 16000): its rate in Hz.

    Returns:
        `np.ndarray`: float32 copy of shape `(samples,)`.
    """
    faded = np.array(waveform, dtype=np.float32)
    length = min(int(sampling_rate * FADE_SECONDS), len(faded))
    if length:
        ramp = np.linspace(0.0, 1.0, length, dtype=np.float32)
        faded[:length] *= ramp
        faded[-length:] *= ramp[::-1]
    return faded


def cut_cycle(waveform: np.ndarray, sampling_rate: int, start: float, end: float) -> np.ndarray:
    """
    Cuts the samples `[int(start * sampling_rate), int(end * sampling_rate))` out of a recording.

    Args:
        waveform (`np.ndarray`): shape `(samples,)`.
        sampling_rate (`int`): its rate in Hz.
        start (`float`): seconds.
        end (`float`): seconds; what lies beyond the recording is left out.

    Returns:
        `np.ndarray`: copy of shape `(cycle_samples,)`, never empty.

    Raises:
        InputError: where no sample lies between the two times.
    """
    first, last = int(start * sampling_rate), int(end * sampling_rate)
    cycle = waveform[max(first, 0) : max(last, 0)].copy()
    if first < 0 or not len(cycle):
        duration = len(waveform) / sampling_rate
        raise InputError(
            "cycle", f"no audio between {start} s and {end} s of a recording of {duration:.3f} s", "correct its times"
        )
    return cycle


def _load_mapping(source: Mapping[str, Any], sampling_rate: int, allow_silence: bool) -> Recording:
    path = _first_given(source, "path", "file")
    if not isinstance(path, str | os.PathLike | None):
        raise InputError("audio", f"has a path of type {type(path).__name__}", "give the name of a file as text")
    file = os.fsdecode(path) if path else None
    name = file or "audio array"
    array, content = _first_given(source, "raw", "array"), source.get("bytes")
    if array is not None:
        return _load_array(array, _whole_rate(source.get("sampling_rate"), name), sampling_rate, allow_silence, file)
    if content is not None:
        if not isinstance(content, bytes | bytearray | memoryview):
            raise InputError(
                name, f'has "bytes" of type {type(content).__name__}', "give the content of an audio file"
            )
        return _resampled(decode_source(bytes(content), file or "audio bytes", allow_silence), sampling_rate, file)
    if file:
        return load_recording(file, sampling_rate, allow_silence)
    raise InputError(
        "audio",
        f"is a mapping with the keys {', '.join(map(str, source)) or 'none'}",
        'give "raw" and "sampling_rate", or "bytes", or "path"',
    )


def _first_given(source: Mapping[str, Any], *keys: str) -> Any:
    return next((source[key] for key in keys if source.get(key) is not None), None)


def _whole_rate(rate: Any, name: str) -> int:
    is_whole = isinstance(rate, int | np.integer) or (
        isinstance(rate, float | np.floating) and float(rate).is_integer()
    )
    if not is_whole or isinstance(rate, bool):
        raise InputError(name, f"has the sampling_rate {rate!r}", 'give its whole rate in Hz as "sampling_rate"')
    return int(rate)


def _load_array(
    array: Any, source_rate: int, sampling_rate: int, allow_silence: bool, file: str | None = None
) -> Recording:
    name = file or "audio array"
    with memory_checked(name):
        waveform = _float_waveform(array, name)
        check_waveform(waveform, source_rate, name, allow_silence)
    return _resampled(SourceAudio(waveform, source_rate, ()), sampling_rate, file)


def _float_waveform(array: Any, name: str) -> np.ndarray:
    try:
        waveform = array.detach().cpu().numpy() if isinstance(array, torch.Tensor) else np.asarray(array)
    except (TypeError, ValueError, RuntimeError) as error:
        # Ragged lists, and tensors that numpy cannot hold: bfloat16, sparse or without data.
        raise InputError(
            name, f"is not readable as an array ({one_line(error, 100)})", "give one mono waveform of float32 or int16"
        ) from error
    if waveform.ndim == 0:
        raise InputError(name, f"is of type {type(array).__name__}", "give a file, its bytes or a mono waveform")
    if waveform.ndim > 1:
        raise InputError(name, f"has the shape {waveform.shape}", "give one mono waveform of shape (samples,)")
    if np.issubdtype(waveform.dtype, np.signedinteger):
        # Whole numbers become 64 bit without anyone asking, and then their type does not tell their full scale.
        if waveform.dtype.itemsize > 4:
            raise InputError(name, "has 64-bit integers", "give int16 or int32, or floats in [-1, 1]")
        waveform = waveform / -float(np.iinfo(waveform.dtype).min)
    elif not np.issubdtype(waveform.dtype, np.floating):
        raise InputError(name, f"has samples of type {waveform.dtype}", "give floats in [-1, 1] or signed integers")
    # Values too large for float32 become infinite; a later check finds them.
    with np.errstate(over="ignore"):
        return waveform.astype(np.float32)


def _resampled(source: SourceAudio, sampling_rate: int, file: str | None = None) -> Recording:
    with memory_checked(file or "audio"):
        resampled = resample(source.waveform, source.sampling_rate, sampling_rate)
    return Recording(resampled, sampling_rate, source.waveform, source.sampling_rate, file, source.flags)
