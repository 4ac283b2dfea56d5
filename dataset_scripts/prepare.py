"""Writes a data set as Parquet files of single cycles, which plain `datasets.load_dataset` reads by itself."""

import json
import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet
from tqdm.auto import tqdm

from dataset_scripts.cycle_dataset import PREPARED_INFO, embed_cycle
from dataset_scripts.cycles import CLASS_NAMES
from dataset_scripts.icbhi import load_icbhi
from dataset_scripts.simulated import load_simulated
from dataset_scripts.sprsound import load_sprsound
from modeling_lung_srad.files.output_files import check_new_folder, folder_when_complete

CYCLES_PER_FILE = 2000
ROWS_PER_GROUP = 100

CARD = """---
pretty_name: {title}
task_categories:
- audio-classification
tags:
- respiratory-sounds
- auscultation
configs:
- config_name: default
  data_files:
{data_files}
---

# {title}, by breathing cycle

{source}

Made by `lung-srad prepare`: {settings}.

| part | cycles | {class_columns} |
| --- | --- | {class_rules} |
{counts}

## Contents

One row a cycle. `audio` holds the cycle itself, not the recording it is from: the recording was resampled to 16 kHz,
faded in and out over 1/16 s and cut at the annotated times. It is 24 bit FLAC, or 32 bit float WAV where resampling
made it overshoot full scale. `label` is its class; `recording`, `patient`, `device`, `location`, `acquisition_mode`,
`start` and `end` (seconds in the recording) say where it is from.

```python
from datasets import load_dataset
cycles = load_dataset("PATH_OF_THIS_FOLDER")      # cycles["train"][0]["audio"]["bytes"] is a sound file
```

`dataset_scripts.cycle_dataset.load_cycles` of lung-srad reads the same folder and decodes the audio.

## Rights

{rights}
"""

ICBHI_SOURCE = (
    "Source: ICBHI 2017 Respiratory Sound Database (Rocha et al. 2019, An open access database for the evaluation of "
    "respiratory sound classification algorithms, Physiological Measurement 40 035001)."
)
SPRSOUND_SOURCE = (
    "Source: SPRSound, the SJTU paediatric respiratory sound database (Zhang et al. 2022, IEEE Transactions on "
    "Biomedical Circuits and Systems 16(5)). `event` is the original event type; it was mapped to the four classes."
)
SIMULATED_SOURCE = (
    "Source: none. These sounds were **computed**, they are not recordings of patients, and figures on them say "
    "nothing about real lung sounds."
)
RESEARCH_RIGHTS = (
    "The audio and its annotations belong to the publishers of the database, whose terms apply. This folder is a "
    "converted copy for your own use: lung-srad does not distribute it, nor should you without their permission."
)
SIMULATED_RIGHTS = "Computed by lung-srad (Apache-2.0); free to use."


def prepare_icbhi(
    source: str | os.PathLike,
    destination: str | os.PathLike,
    split: str = "official",
    validation: float = 0.0,
    seed: int = 0,
    download: bool = False,
    cache_dir: str | os.PathLike | None = None,
) -> Path:
    """
    Writes ICBHI 2017 as Parquet files of single cycles with a data set card.

    Args:
        source (`str` or `os.PathLike`): folder or zip of the database, see [`load_icbhi`].
        destination (`str` or `os.PathLike`): folder to make; it must not exist or be empty.
        split (`str`, *optional*, defaults to `"official"`): `official`, `leak_free` or `fold0` to `fold4`.
        validation (`float`, *optional*, defaults to 0.0): share of the training cycles to set apart.
        seed (`int`, *optional*, defaults to 0): choice of the validation patients.
        download (`bool`, *optional*, defaults to `False`): whether to fetch the database into `source` first.
        cache_dir (`str` or `os.PathLike`, *optional*): where the data sets library keeps its cache.

    Returns:
        `Path`: the destination.

    Raises:
        InputError: where the source cannot be used or the destination holds something already;
            naming file, line and field;
            naming the audio file.
    """
    check_new_folder(destination)
    cycles = load_icbhi(source, split, validation, seed, download, cache_dir=cache_dir)
    settings = {"source": "icbhi", "split": split, "validation": validation, "seed": seed}
    return write_prepared(cycles, destination, "ICBHI 2017", ICBHI_SOURCE, RESEARCH_RIGHTS, settings)


def prepare_sprsound(
    source: str | os.PathLike, destination: str | os.PathLike, validation: float = 0.0, seed: int = 0
) -> Path:
    """As [`prepare_icbhi`], for the events of SPRSound; `source` is a folder for [`load_sprsound`]."""
    check_new_folder(destination)
    cycles = load_sprsound(source, validation, seed)
    settings = {"source": "sprsound", "validation": validation, "seed": seed}
    return write_prepared(cycles, destination, "SPRSound (BioCAS 2022)", SPRSOUND_SOURCE, RESEARCH_RIGHTS, settings)


def prepare_simulated(
    destination: str | os.PathLike,
    patients: int = 12,
    recordings_per_patient: int = 2,
    cycles_per_recording: int = 6,
    validation: float = 0.0,
    seed: int = 0,
    cache_dir: str | os.PathLike | None = None,
) -> Path:
    """As [`prepare_icbhi`], for the cycles of [`load_simulated`], which takes the other arguments."""
    check_new_folder(destination)
    size = {
        "patients": patients,
        "recordings_per_patient": recordings_per_patient,
        "cycles_per_recording": cycles_per_recording,
    }
    cycles = load_simulated(**size, validation=validation, seed=seed, cache_dir=cache_dir)
    settings = {"source": "simulated", "split": "official", "validation": validation, "seed": seed, **size}
    return write_prepared(cycles, destination, "Simulated lung sounds", SIMULATED_SOURCE, SIMULATED_RIGHTS, settings)


def count_prepared(folder: str | os.PathLike) -> dict[str, dict[str, int]]:
    """
    Counts the cycles of a prepared folder.

    Args:
        folder (`str` or `os.PathLike`): as [`write_prepared`] leaves it.

    Returns:
        `dict[str, dict[str, int]]`: by part, the number of cycles of each class.
    """
    counts: dict[str, dict[str, int]] = {}
    for file in sorted(Path(folder, "data").glob("*.parquet")):
        labels = pyarrow.parquet.read_table(file, columns=["label"])["label"].to_pylist()
        part = counts.setdefault(file.name.split("-")[0], dict.fromkeys(CLASS_NAMES, 0))
        for label, name in enumerate(CLASS_NAMES):
            part[name] += labels.count(label)
    return counts


def write_prepared(
    cycles: datasets.DatasetDict,
    destination: str | os.PathLike,
    title: str,
    source: str,
    rights: str,
    settings: Mapping[str, object],
) -> Path:
    """
    Writes a loaded data set as `data/SPLIT-00000-of-0000N.parquet`, a data set card and its settings.

    Args:
        cycles (`datasets.DatasetDict`): as [`load_icbhi`] and its like return it.
        destination (`str` or `os.PathLike`): folder to make; it appears only when everything is in it.
        title (`str`): name of the data set on its card.
        source (`str`): sentence on its source.
        rights (`str`): sentence on its terms.
        settings (`dict`): its source and options.

    Returns:
        `Path`: the destination.

    Raises:
        InputError: where the destination holds something already or is the current folder.
    """
    destination = Path(destination)
    check_new_folder(destination)
    stored = cycles.with_format(None)
    total = sum(len(part) for part in stored.values())
    with (
        folder_when_complete(destination) as folder,
        tqdm(total=total, desc=f"Writing {destination.name}", unit="cycle") as progress,
    ):
        (folder / "data").mkdir()
        for split, part in stored.items():
            number = math.ceil(len(part) / CYCLES_PER_FILE)
            for index in range(number):
                file = folder / "data" / f"{split}-{index:05d}-of-{number:05d}.parquet"
                _write_file(part.shard(number, index, contiguous=True), file, progress.update)
        (folder / "README.md").write_text(_card(stored, title, source, rights, settings), encoding="utf-8")
        (folder / PREPARED_INFO).write_text(json.dumps(dict(settings), indent=2) + "\n", encoding="utf-8")
    return destination


def _write_file(part: datasets.Dataset, file: Path, count: Callable[[int], object]) -> None:
    schema = part.features.arrow_schema
    with pyarrow.parquet.ParquetWriter(file, schema) as writer:
        for first in range(0, len(part), ROWS_PER_GROUP):
            rows = [embed_cycle(row) for row in part.select(range(first, min(first + ROWS_PER_GROUP, len(part))))]
            writer.write_table(pa.Table.from_pylist(rows, schema=schema))
            count(len(rows))


def _card(cycles: datasets.DatasetDict, title: str, source: str, rights: str, settings: Mapping[str, object]) -> str:
    written = {split: part["label"][:] for split, part in cycles.items() if len(part)}
    rows = []
    for split, labels in written.items():
        counts = [labels.count(label) for label in range(len(CLASS_NAMES))]
        rows.append(f"| {split} | {len(labels)} | {' | '.join(map(str, counts))} |")
    return CARD.format(
        title=title,
        source=source,
        rights=rights,
        settings=", ".join(f"{name} {value}" for name, value in settings.items()),
        data_files="\n".join(f"  - split: {split}\n    path: data/{split}-*.parquet" for split in written),
        class_columns=" | ".join(CLASS_NAMES),
        class_rules=" | ".join("---" for _ in CLASS_NAMES),
        counts="\n".join(rows),
    )
