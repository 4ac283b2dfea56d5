"""ICBHI 2017 Respiratory Sound Database: recordings and annotations as published, to a data set of labelled cycles."""

import hashlib
import json
import os
from pathlib import Path

import datasets
from filelock import FileLock

from dataset_scripts.cycle_dataset import (
    PREPARED_INFO,
    check_validation,
    cycle_table,
    load_cycles,
    parquet_files,
    with_decoding,
)
from dataset_scripts.cycles import check_named
from dataset_scripts.icbhi_download import download_icbhi, extract_zip
from dataset_scripts.icbhi_files import (
    count_annotations,
    describe_missing,
    read_recordings,
    say_once,
    scan_folder,
)
from dataset_scripts.icbhi_splits import TOTAL_CYCLES, TOTAL_RECORDINGS, check_split
from dataset_scripts.patient_split import choose_validation_patients, split_validation
from modeling_lung_srad.errors import InputError


def load_icbhi(
    data_dir: str | os.PathLike,
    split: str = "official",
    validation: float = 0.0,
    seed: int = 0,
    download: bool = False,
    url: str | None = None,
    expected_recordings: int | None = TOTAL_RECORDINGS,
    expected_cycles: int | None = TOTAL_CYCLES,
    cache_dir: str | os.PathLike | None = None,
) -> datasets.DatasetDict:
    """
    Loads ICBHI 2017 as cycles that are decoded when they are asked for.

    A copy with some of the recordings works; missing ones are logged once as a warning.

    The audio is decoded by a transform on the column `audio`, with these limits: renamed, the column is no longer
    decoded. A function given to `map` should return new columns only, since rows cannot be stored with decoded audio;
    `dict(row["audio"])` is a plain dictionary. In place of `save_to_disk`, `lung-srad prepare icbhi` writes a folder
    with the audio in it.

    Args:
        data_dir (`str` or `os.PathLike`):
            folder with the `.wav` and `.txt` files as published (or up to three folders above them), the zip of it,
            or a folder that `lung-srad prepare icbhi` wrote. A file `*train_test*.txt` in it replaces the official
            split that is known here.
        split (`str`, *optional*, defaults to `"official"`):
            `official`; `leak_free`, which is official without the test recordings of patients who are also in the
            training part; or `fold0` to `fold4`, the fold that is the test part.
        validation (`float`, *optional*, defaults to 0.0):
            share of the training cycles to set apart as `validation`, without a common patient.
        seed (`int`, *optional*, defaults to 0): choice of the validation patients.
        download (`bool`, *optional*, defaults to `False`): whether to fetch the database into `data_dir` first.
        url (`str`, *optional*): address to fetch it from, see [`download_icbhi`].
        expected_recordings (`int`, *optional*, defaults to 920): checked after a download; `None` for no check.
        expected_cycles (`int`, *optional*, defaults to 6898): checked after a download; `None` for no check.
        cache_dir (`str` or `os.PathLike`, *optional*): where the data sets library keeps its cache.

    Returns:
        `datasets.DatasetDict`: `train`, `validation` (where asked for) and `test` with the columns `audio` (`array`,
        float32 at 16 kHz, faded and cut as in the published method; `sampling_rate`; `path`), `label` (normal,
        crackle, wheeze, both), `recording`, `patient`, `device`, `location`, `acquisition_mode`, `start` and `end`
        (seconds).

    Raises:
        InputError: where `split` or `validation` is out of range;
            where folder, zip or split file cannot be used;
            naming file, line and field;
            naming the audio file.

    Example (needs the database):

    ```py
    cycles = load_icbhi("ICBHI_final_database", validation=0.2)
    cycles["train"][0]["audio"]["array"].dtype
    ```
    """
    check_named(data_dir)
    check_split(split)
    check_validation(validation)
    if parquet_files(data_dir):
        return _load_prepared(data_dir, split, validation, seed, cache_dir)
    if download:
        download_icbhi(data_dir, url, expected_recordings, expected_cycles)
    folder = scan_folder(_unpacked(data_dir, cache_dir), archive=data_dir)
    recordings = read_recordings(folder, split)
    for sentence in describe_missing(folder, split, recordings):
        say_once(f"{folder.path}: {sentence}")
    train, chosen = split_validation(recordings["train"], validation, seed)
    return cycle_table({"train": train, "test": recordings["test"]} | ({"validation": chosen} if chosen else {}))


def count_cycles(
    data_dir: str | os.PathLike, split: str = "official", cache_dir: str | os.PathLike | None = None
) -> dict[str, dict[str, int]]:
    """
    Counts recordings, cycles and classes from the annotations alone; no audio is needed.

    Args:
        data_dir (`str` or `os.PathLike`): folder with annotation files, or the zip of the database.
        split (`str`, *optional*, defaults to `"official"`): as in [`load_icbhi`].
        cache_dir (`str` or `os.PathLike`, *optional*): where a zip is unpacked.

    Returns:
        `dict[str, dict[str, int]]`: for `train` and `test`: `recordings`, `cycles`, `normal`, `crackle`, `wheeze`,
        `both`.
    """
    check_named(data_dir)
    return count_annotations(scan_folder(_unpacked(data_dir, cache_dir), archive=data_dir), split)


def _unpacked(data_dir: str | os.PathLike, cache_dir: str | os.PathLike | None) -> Path:
    """The folder itself, or the cached folder that a zip was unpacked to."""
    path = Path(data_dir)
    if not path.is_file():
        return path
    status = path.stat()
    key = hashlib.sha256(f"{path.absolute()}\0{status.st_size}\0{status.st_mtime_ns}".encode()).hexdigest()[:16]
    unpacked = Path(cache_dir or datasets.config.HF_DATASETS_CACHE) / "icbhi_unpacked" / f"{path.stem}-{key}"
    unpacked.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{unpacked}.lock"):
        return unpacked if unpacked.is_dir() else extract_zip(path, unpacked)


def _prepared_split(info_file: Path) -> str | None:
    """The split that a prepared folder was made with, where it says."""
    if not info_file.exists():
        return None
    try:
        return json.loads(info_file.read_text(encoding="utf-8")).get("split")
    except (ValueError, AttributeError) as error:
        raise InputError(
            info_file, f"is not a JSON object of settings ({error})", "make the folder again with `lung-srad prepare`"
        ) from error


def _load_prepared(
    data_dir: str | os.PathLike, split: str, validation: float, seed: int, cache_dir: str | os.PathLike | None
) -> datasets.DatasetDict:
    prepared_split = _prepared_split(Path(data_dir, PREPARED_INFO))
    if prepared_split != split:
        raise InputError(
            data_dir,
            f"was prepared with the split {prepared_split!r}",
            f"pass that, or prepare the recordings again with --split {split}",
        )
    loaded = load_cycles(data_dir, cache_dir).with_format(None)
    nothing = next(iter(loaded.values())).select([])
    train = datasets.concatenate_datasets([loaded.get("train", nothing), loaded.get("validation", nothing)])
    parts = {"train": train, "test": loaded.get("test", nothing)}
    if len(train) and validation:
        patients = train["patient"][:]
        chosen = choose_validation_patients(patients, train["device"][:], train["label"][:], validation, seed)
        kept = [index for index, patient in enumerate(patients) if patient not in chosen]
        set_apart = [index for index, patient in enumerate(patients) if patient in chosen]
        parts |= {"train": train.select(kept), "validation": train.select(set_apart)}
    return with_decoding(parts)
