"""What the data sets share: the schema of a cycle, the builder of a cached table of cycles, and lazy decoding."""

import glob
import hashlib
import io
import itertools
import os
from abc import abstractmethod
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
from datasets.builder import Key

from dataset_scripts.cycles import (
    CLASS_NAMES,
    Cycle,
    DataFolderError,
    SettingError,
    check_named,
    decode_cycle,
    decode_embedded_cycle,
)
from modeling_lung_srad.audio import SAMPLING_RATE

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
ROWS_PER_BATCH = 500
# What a prepared folder was made from: source, split, validation share and seed.
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

    The default collate of a torch data loader makes a plain dictionary of it, since a mapping is no argument of it.

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
    """Raises `SettingError` where `validation` is not a share of the training part."""
    if not 0 <= validation < 1:
        raise SettingError(f"validation: {validation} is not a fraction; give 0.0 for none, or a number below 1")


def load_cycles(path: str | os.PathLike, cache_dir: str | os.PathLike | None = None) -> datasets.DatasetDict:
    """
    Loads a folder that `lung-srad prepare` wrote, with the same lazy decoding as the data sets themselves.

    Args:
        path (`str` or `os.PathLike`): folder with `data/SPLIT-00000-of-0000N.parquet`.
        cache_dir (`str` or `os.PathLike`, *optional*): where the data sets library keeps its cache.

    Returns:
        `datasets.DatasetDict`: the splits; `audio` decodes to `array`, `sampling_rate` and `path`.

    Raises:
        DataFolderError: where the folder has no such files, or naming the one that is damaged or of another kind.
    """
    check_named(path)
    files = parquet_files(path)
    if not files:
        raise DataFolderError(f"{path}: has no data/*.parquet; make the folder with `lung-srad prepare`")
    for file in itertools.chain(*files.values()):
        _check_parquet(file)
    patterns = {split: [glob.escape(name) for name in names] for split, names in files.items()}
    loaded = datasets.load_dataset("parquet", data_files=patterns, cache_dir=_optional_text(cache_dir))
    return with_decoding(dict(loaded))


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
        raise DataFolderError(
            f"{file}: is not a whole Parquet file ({error}); make the folder again with `lung-srad prepare`"
        ) from error
    for column in FEATURES.arrow_schema:
        if column.name not in found.names or found.field(column.name).type != column.type:
            raise DataFolderError(
                f"{file}: has no column {column.name} of type {column.type}, so that `lung-srad prepare` did not "
                "write it; take it out of the folder"
            )


def fingerprint(data_dir: str | os.PathLike) -> str:
    """
    A hash that changes with the code of this package and with the name, size or time of any file of the data.

    A builder that is not loaded from the Hub has no such hash and would serve stale tables from the cache.
    """
    digest = hashlib.sha256()
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    data_dir = Path(data_dir)
    for file in [data_dir] if data_dir.is_file() else sorted(file for file in data_dir.rglob("*") if file.is_file()):
        status = file.stat()
        digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


class CycleBuilder(datasets.ArrowBasedBuilder):
    """
    Builder of a table of cycles in the data sets cache; subclasses say which recordings belong to which split.

    The cached table holds the place of each cycle in its recording. Written as Parquet
    (`download_and_prepare(folder, file_format="parquet")`) it holds the cycles themselves.

    Args:
        data_dir (`str` or `os.PathLike`): folder of the data set.
        hash (`str`, *optional*): identifies source and data in the cache, [`fingerprint`] by default.
        kwargs (*optional*): `cache_dir`, fields of the configuration and the other arguments of the base class.
    """

    VERSION = datasets.Version("1.0.0")
    CYCLE_FEATURES = FEATURES

    def __init__(self, data_dir: str | os.PathLike, hash: str | None = None, **kwargs):
        data_dir = os.path.abspath(data_dir)
        if not os.path.exists(data_dir):
            raise DataFolderError(f"{data_dir}: no such folder; check the path")
        super().__init__(data_dir=data_dir, hash=hash or fingerprint(data_dir), **kwargs)

    @abstractmethod
    def recordings_by_split(self) -> dict[str, list[Recording]]:
        """The recordings of each split that has any, in order."""

    def _info(self) -> datasets.DatasetInfo:
        return datasets.DatasetInfo(description=type(self).__doc__ or "", features=self.CYCLE_FEATURES)

    def _split_generators(self, dl_manager) -> list[datasets.SplitGenerator]:
        return [
            datasets.SplitGenerator(name=split, gen_kwargs={"recordings": recordings, "embed": False})
            for split, recordings in self.recordings_by_split().items()
        ]

    def _prepare_split(self, split_generator, file_format="arrow", **kwargs):
        split_generator.gen_kwargs["embed"] = file_format == "parquet"
        super()._prepare_split(split_generator, file_format=file_format, **kwargs)

    def _generate_tables(self, recordings: list[Recording], embed: bool) -> Iterator[tuple[Key, pa.Table]]:
        schema = self.CYCLE_FEATURES.arrow_schema
        batch: list[dict[str, Any]] = []
        number = 0
        for recording in recordings:
            rows = cycle_rows(recording)
            batch += [embed_cycle(row) for row in rows] if embed else rows
            if len(batch) >= ROWS_PER_BATCH:
                yield Key(0, number), pa.Table.from_pylist(batch, schema=schema)
                batch, number = [], number + 1
        if batch:
            yield Key(0, number), pa.Table.from_pylist(batch, schema=schema)


def build(builder: CycleBuilder) -> datasets.DatasetDict:
    """Builds or reads the cached table, and returns its splits with lazy decoding."""
    builder.download_and_prepare()
    return with_decoding(dict(builder.as_dataset()))


def with_decoding(parts: dict[str, datasets.Dataset], required: Sequence[str] = ()) -> datasets.DatasetDict:
    """The parts in their usual order, with lazy decoding. A required part that is missing becomes an empty one."""
    for name in required:
        if name not in parts:
            info = next(iter(parts.values())).info
            parts[name] = datasets.Dataset(info.features.arrow_schema.empty_table(), info=info.copy())
    names = [name for name in SPLIT_ORDER if name in parts] + [name for name in parts if name not in SPLIT_ORDER]
    return datasets.DatasetDict({name: parts[name] for name in names}).with_transform(decode_batch)


def _optional_text(path: str | os.PathLike | None) -> str | None:
    return None if path is None else str(path)
