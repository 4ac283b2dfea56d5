"""The schema that all data sets share, their tables of cycles, and lazy decoding."""

import glob
import io
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import soundfile

from dataset_scripts.cycles import CLASS_NAMES, Cycle, check_named, decode_cycle, decode_embedded_cycle
from modeling_lung_srad.audio import SAMPLING_RATE
from modeling_lung_srad.errors import InputError, one_line

FEATURES = datasets.Features(
    {
        "audio": datasets.Audio(decode=False),
        "label": datasets.ClassLabel(names=list(CLASS_NAMES)),
        "recording": datasets.Value("string"),
        "patient": datasets.Value("string"),
        "device": datasets.Value("string"),
        "location": datasets.Value("string"),
        "acquisition_mode": datasets.Value("string"),
        "start": datasets.Value("float64"),
        "end": datasets.Value("float64"),
    }
)
AUDIO_KEYS = ("array", "sampling_rate", "path")
SPLIT_ORDER = ("train", "validation", "test")
# A media fragment (W3C, https://www.w3.org/TR/media-frags/): the times stay with the audio whatever columns are kept.
FRAGMENT = "#t="
# Holds the settings of a prepared folder: source, split, validation share and seed.
PREPARED_INFO = "prepared.json"


@dataclass(frozen=True)
class Recording:
    """
    One recording and its annotated cycles.

    Args:
        path (`Path`): its audio file.
        name (`str`): its name, without suffix.
        patient (`str`): number of the patient.
        device (`str`): stethoscope or microphone.
        location (`str`): place on the chest.
        acquisition_mode (`str`): `sc` (one channel at a time) or `mc` (several at once); empty where it is not known.
        cycles (`tuple[Cycle, ...]`): annotated cycles, all with a label.
        extra (`tuple[dict, ...]`): further columns of each cycle; empty where there are none.
    """

    path: Path
    name: str
    patient: str
    device: str
    location: str
    acquisition_mode: str
    cycles: tuple[Cycle, ...]
    extra: tuple[dict[str, str], ...] = ()


class CycleAudio(Mapping):
    """
    Audio of a cycle, decoded when its `array` is first asked for.

    A mapping with `array` (float32 waveform of shape `(samples,)`), `sampling_rate` (16000) and `path` (of the whole
    recording, or name of the embedded cycle). Data sets with a transform hand out all columns of a row together, so
    that reading labels would decode every recording if this were not lazy.

    The default collate of a torch data loader turns it into a plain dictionary.

    Args:
        data (`bytes`, *optional*): an embedded cycle.
        stored_path (`str`, *optional*): its name; without `data`, a place in a recording.
    """

    def __init__(self, data: bytes | None, stored_path: str | None):
        self.data = data
        self.stored_path = stored_path or "embedded cycle"

    @cached_property
    def array(self) -> np.ndarray:
        if self.data is not None:
            return decode_embedded_cycle(self.data, self.path)
        start, end = map(float, self.stored_path.rpartition(FRAGMENT)[2].split(","))
        return decode_cycle(self.path, start, end)

    @property
    def sampling_rate(self) -> int:
        return SAMPLING_RATE

    @property
    def path(self) -> str:
        return self.stored_path if self.data is not None else self.stored_path.rpartition(FRAGMENT)[0]

    def __getitem__(self, key: str) -> Any:
        if key not in AUDIO_KEYS:
            raise KeyError(key)
        return getattr(self, key)

    def __iter__(self) -> Iterator[str]:
        return iter(AUDIO_KEYS)

    def __len__(self) -> int:
        return len(AUDIO_KEYS)

    def __repr__(self) -> str:
        return f"CycleAudio({self.path!r})"


def _cycle_audio(stored: dict[str, Any]) -> CycleAudio:
    return CycleAudio(stored["bytes"], stored["path"])


def cycle_rows(recording: Recording) -> list[dict[str, Any]]:
    """Rows of the table, one a cycle: the columns of `FEATURES` and those in `recording.extra`."""
    rows = []
    for index, cycle in enumerate(recording.cycles):
        path = f"{recording.path}{FRAGMENT}{cycle.start!r},{cycle.end!r}"
        row: dict[str, Any] = {
            "audio": {"bytes": None, "path": path},
            "label": cycle.label,
            "recording": recording.name,
            "patient": recording.patient,
            "device": recording.device,
            "location": recording.location,
            "acquisition_mode": recording.acquisition_mode,
            "start": cycle.start,
            "end": cycle.end,
        }
        rows.append(row | (recording.extra[index] if recording.extra else {}))
    return rows


def embed_cycle(row: dict[str, Any]) -> dict[str, Any]:
    """
    The same row with the cycle itself in it, at 16 kHz, in place of the path of its recording.

    The cycle is resampled, faded with its recording and cut, so that nothing but decoding is left to do.
    """
    data, suffix = encode_cycle(_cycle_audio(row["audio"]).array)
    name = f"{row['recording']}_{round(1000 * row['start']):06d}ms.{suffix}"
    return row | {"audio": {"bytes": data, "path": name}}


def encode_cycle(waveform: np.ndarray) -> tuple[bytes, str]:
    """
    Encodes a cycle at 16 kHz as 24 bit FLAC, or as 32 bit float WAV where its peaks overshoot full scale.

    Rounding to 16 bit would show: it lifts the empty log-mel bands of recordings made at a low rate (by up to 0.5 in
    the network input, against 0.002 for 24 bit). Resampling a clipped recording overshoots by up to a third.

    Returns:
        `tuple[bytes, str]`: content of the file and its suffix, `flac` or `wav`.
    """
    buffer = io.BytesIO()
    scaled = np.rint(waveform.astype(np.float64) * 2**23)
    if scaled.min() < -(2**23) or scaled.max() > 2**23 - 1:
        soundfile.write(buffer, waveform, SAMPLING_RATE, format="WAV", subtype="FLOAT")
        return buffer.getvalue(), "wav"
    # libsndfile takes the upper 24 of 32 bits; from floats it would scale by 2^23 - 1 and read back by 2^23.
    soundfile.write(buffer, scaled.astype(np.int32) << 8, SAMPLING_RATE, format="FLAC", subtype="PCM_24")
    return buffer.getvalue(), "flac"


def decode_batch(batch: dict[str, list]) -> dict[str, list]:
    """Transform of a loaded data set: gives each value of the `audio` column, where it is there, as [`CycleAudio`]."""
    if "audio" not in batch:
        return batch
    return batch | {"audio": [_cycle_audio(audio) for audio in batch["audio"]]}


def check_validation(validation: float) -> None:
    """Raises `InputError` where `validation` is not a share of the training part."""
    if not 0 <= validation < 1:
        raise InputError("validation", f"{validation} is not a fraction", "give 0.0 for none, or a number below 1")


def load_cycles(path: str | os.PathLike, cache_dir: str | os.PathLike | None = None) -> datasets.DatasetDict:
    """
    Loads a folder that `lung-srad prepare` wrote, with the same lazy decoding as the data sets themselves.

    Args:
        path (`str` or `os.PathLike`): folder with `data/SPLIT-00000-of-0000N.parquet`.
        cache_dir (`str` or `os.PathLike`, *optional*): where the data sets library keeps its cache.

    Returns:
        `datasets.DatasetDict`: the splits; `audio` decodes to `array`, `sampling_rate` and `path`.

    Raises:
        InputError: if the folder lacks such files, or naming the one that is damaged or of another kind.
    """
    check_named(path)
    files = parquet_files(path)
    if not files:
        raise InputError(path, "lacks data/*.parquet", "make the folder with `lung-srad prepare`")
    for file in itertools.chain(*files.values()):
        _check_parquet(file)
    patterns = {split: [glob.escape(name) for name in names] for split, names in files.items()}
    try:
        loaded = datasets.load_dataset("parquet", data_files=patterns, cache_dir=cache_dir)
    except OSError as error:  # A disk that is too full or not writable, which the library names in its own words.
        raise InputError(
            path, f"cannot be unpacked ({one_line(error)})", "free space, or set HF_DATASETS_CACHE to another folder"
        ) from error
    return with_decoding(loaded)


def parquet_files(path: str | os.PathLike) -> dict[str, list[str]]:
    """Files of a prepared folder by split; empty where it is not one."""
    files: dict[str, list[str]] = {}
    for file in sorted(Path(path, "data").glob("*-*-of-*.parquet")):
        files.setdefault(file.name.split("-")[0], []).append(str(file))
    return files


def _check_parquet(file: str) -> None:
    try:
        found = pyarrow.parquet.read_schema(file)
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            file, f"is not a whole Parquet file ({error})", "make the folder again with `lung-srad prepare`"
        ) from error
    for column in FEATURES.arrow_schema:
        if column.name not in found.names or found.field(column.name).type != column.type:
            raise InputError(
                file,
                f"lacks the column {column.name} of type {column.type}, so that `lung-srad prepare` did not write it",
                "take it out of the folder",
            )


def cycle_table(
    parts: Mapping[str, Sequence[Recording]], features: datasets.Features = FEATURES
) -> datasets.DatasetDict:
    """
    A table of the cycles of each part, with lazy decoding.

    It holds the place of each cycle in its recording and is made in memory at each load, in a second for a whole
    database, so it is never older than the files.

    Args:
        parts (mapping of `str` to sequence of [`Recording`]): recordings by part.
        features (`datasets.Features`, *optional*): `FEATURES` and the columns in `Recording.extra`.
    """
    schema = features.arrow_schema
    rows = {part: [row for recording in found for row in cycle_rows(recording)] for part, found in parts.items()}
    info = datasets.DatasetInfo(features=features)
    tables = {part: datasets.Dataset(pa.Table.from_pylist(found, schema=schema), info) for part, found in rows.items()}
    return with_decoding(tables)


def with_decoding(parts: Mapping[str, datasets.Dataset]) -> datasets.DatasetDict:
    """The parts in their usual order, with lazy decoding."""
    names = [name for name in SPLIT_ORDER if name in parts] + [name for name in parts if name not in SPLIT_ORDER]
    return datasets.DatasetDict({name: parts[name] for name in names}).with_transform(decode_batch)
