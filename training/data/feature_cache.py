"""Log-mel spectrograms kept on disk between runs, under a key of everything that shapes them.

A file is found by its key alone, the SHA-256 of audio, annotations, settings, code and versions, so that changed ones
can never meet the spectrograms of others.
"""

import hashlib
import inspect
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import soundfile
import torch
from tqdm.auto import tqdm

from dataset_scripts import cycle_dataset, cycles
from dataset_scripts.cycle_dataset import FRAGMENT, CycleAudio
from modeling_lung_srad import LungSradFeatureExtractor, audio, feature_extraction_lung_srad
from modeling_lung_srad.errors import InputError
from training.data.cycle_sources import CycleSource
from training.data.log_mel_dataset import iterate_log_mel, log_mel_shape
from training.data.spectrogram_file import SECONDS_WITHOUT_PROGRESS_BAR, STORED_TYPE, SpectrogramFile

# To be raised when the layout of the files changes.
FORMAT = 1
CACHE_VARIABLE = "LUNG_SRAD_CACHE"
SHAPING_CODE: tuple[ModuleType | Callable, ...] = (
    audio,
    cycles,
    cycle_dataset,
    feature_extraction_lung_srad,
    iterate_log_mel,
)
# Where a class is loaded from, which shapes nothing.
CLASS_SETTINGS = ("auto_map", "feature_extractor_type", "processor_class")
CYCLES_AT_ONCE = 64


def cached_log_mel(
    sources: Sequence[CycleSource],
    feature_extractor: LungSradFeatureExtractor,
    cache_dir: str | os.PathLike | None = None,
    description: str = "log-mel",
) -> torch.Tensor:
    """
    The spectrograms of all cycles of all sources, computed once and then mapped from disk.

    The values are those of `compute_log_mel(sources, feature_extractor, torch.float16)`. Each source has a file, which
    serves any run that uses the source; several of them together are copied to a file of their own, so that the
    result is one mapping whose memory all processes of the machine share. Writing into the tensor changes no file.

    Of several processes that want the same file one computes it and the others wait. A process that is killed leaves
    nothing that would be used, and what it leaves is removed by the next one that computes.

    Args:
        sources (sequence of `CycleSource`): where the cycles come from.
        feature_extractor (`LungSradFeatureExtractor`): each of its settings is part of the key.
        cache_dir (`str` or `os.PathLike`, *optional*): folder of the files; [`default_cache_dir`] when not given.
        description (`str`, *optional*, defaults to `"log-mel"`): what the progress bars are called.

    Returns:
        `torch.Tensor` of shape `(cycles, frames, num_mel_bins)` and type float16.

    Raises:
        InputError: naming the folder, where it cannot be written to or its disk is full. Nothing that was there
            is changed;
            naming the audio file, where it cannot be read, or changed while it was.
    """
    folder = default_cache_dir() if cache_dir is None else Path(os.path.expanduser(cache_dir))
    frames_and_bins = log_mel_shape(feature_extractor)
    sources = [source for source in sources if len(source.cycles)]
    if not sources:
        return torch.empty((0, *frames_and_bins), dtype=torch.float16)
    files, computations = [], []
    for source in sources:
        told = f"{description}, {source.name}"
        digest, states = _hash_cycles(source, told)
        shaping = _shaping(digest, feature_extractor)
        about = {"source": source.name, "recordings": source.count()["recordings"], **shaping}
        shape = (len(source.cycles), *frames_and_bins)
        files.append(SpectrogramFile(_place(folder, source.name, shaping), shape, about))
        computations.append(_compute(source, feature_extractor, states, told))
    if len(files) == 1:
        return files[0].read_or_write(computations[0])
    joined = {"format": FORMAT, "joined": [file.path.name for file in files]}
    shape = (sum(file.shape[0] for file in files), *frames_and_bins)
    path = _place(folder, "+".join(source.name for source in sources), joined)
    return SpectrogramFile(path, shape, joined).read_or_write(_join(files, computations))


def default_cache_dir() -> Path:
    """`$LUNG_SRAD_CACHE/features`, or `~/.cache/lung-srad/features` where the variable is not set."""
    return Path(os.path.expanduser(os.environ.get(CACHE_VARIABLE) or "~/.cache/lung-srad")) / "features"


def _read_code() -> dict[str, str]:
    """SHA-256 of the source of all that shapes a spectrogram, by name."""
    sources = {getattr(part, "__name__", ""): inspect.getsource(part) for part in SHAPING_CODE}
    return {name: hashlib.sha256(source.encode()).hexdigest() for name, source in sources.items()}


# Read together with the code itself: what is edited while this process runs is not what it computes with.
CODE = _read_code()


def _place(folder: Path, name: str, shaping: dict[str, Any]) -> Path:
    key = hashlib.sha256(json.dumps(shaping, sort_keys=True).encode()).hexdigest()
    return folder / f"{name}-{key}.npy"


def _shaping(cycles_digest: str, feature_extractor: LungSradFeatureExtractor) -> dict[str, Any]:
    """All that the spectrograms of a source depend on."""
    settings = {key: value for key, value in feature_extractor.to_dict().items() if key not in CLASS_SETTINGS}
    return {
        "format": FORMAT,
        "audio_and_annotations": cycles_digest,
        "feature_extractor": settings,
        "dtype": STORED_TYPE.name,
        "code": CODE,
        "versions": {
            "torch": torch.__version__,
            "numpy": np.__version__,
            "libsndfile": soundfile.__libsndfile_version__,
        },
    }


def _hash_cycles(source: CycleSource, description: str) -> tuple[str, dict[str, tuple[int, int]]]:
    """SHA-256 of the audio and the times of all cycles in order, and size and time of each audio file before."""
    rows = source.cycles.with_format(None).select_columns(["audio", "start", "end"])
    states: dict[str, tuple[int, int]] = {}
    contents: dict[str, str] = {}
    digest = hashlib.sha256()
    named = f"{description}: looking for changed audio"
    for row in tqdm(rows, named, unit="cycle", delay=SECONDS_WITHOUT_PROGRESS_BAR):
        cycle = CycleAudio(row["audio"]["bytes"], row["audio"]["path"])
        if cycle.data is not None:
            content, place = hashlib.sha256(cycle.data).hexdigest(), ""
        else:
            if cycle.path not in contents:
                states[cycle.path] = _file_state(cycle.path)
                contents[cycle.path] = _hash_file(cycle.path)
            content, place = contents[cycle.path], cycle.stored_path.rpartition(FRAGMENT)[2]
        digest.update(f"{content} {place} {row['start']!r} {row['end']!r}\n".encode())
    return digest.hexdigest(), states


def _hash_file(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(path, error) from error


def _file_state(path: str) -> tuple[int, int]:
    try:
        status = os.stat(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    return status.st_size, status.st_mtime_ns


def _unreadable(path: str, error: OSError) -> InputError:
    return InputError(path, f"cannot be read ({error.strerror})", "check the path and its permissions")


def _compute(
    source: CycleSource,
    feature_extractor: LungSradFeatureExtractor,
    states: dict[str, tuple[int, int]],
    description: str,
) -> Iterator[torch.Tensor]:
    """Batches of spectrograms, and an error at the end if an audio file changed since it was hashed."""
    yield from iterate_log_mel([source], feature_extractor, description)
    for path, state in states.items():
        if _file_state(path) != state:
            raise InputError(path, "changed while its spectrograms were computed", "start again")


def _join(files: Sequence[SpectrogramFile], computations: Sequence[Iterable[torch.Tensor]]) -> Iterator[torch.Tensor]:
    """Batches of the spectrograms of all files, each of them computed where it is missing."""
    for file, batches in zip(files, computations, strict=True):
        yield from file.read_or_write(batches).split(CYCLES_AT_ONCE)
