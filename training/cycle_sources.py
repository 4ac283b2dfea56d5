"""The labelled cycles of a run: which data sets, which part of them, and what must be said about them."""

import os
from collections import Counter
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import datasets

from dataset_scripts.cycles import CLASS_NAMES
from dataset_scripts.icbhi import load_icbhi
from dataset_scripts.icbhi_splits import published_counts
from dataset_scripts.simulated import DEVICE as SIMULATED_DEVICE
from dataset_scripts.simulated import load_simulated
from dataset_scripts.sprsound import load_sprsound
from training.arguments import DataArguments

PARTS = ("test", "validation", "train")


@dataclass(frozen=True)
class CycleSource:
    """Cycles of one data set.

    Args:
        name (`str`): `icbhi`, `sprsound` or `simulated`.
        cycles (`datasets.Dataset`): as `load_icbhi` returns them, decoded when `audio` is asked for.
    """

    name: str
    cycles: datasets.Dataset

    @cached_property
    def table(self) -> dict[str, list[Any]]:
        """The columns other than `audio`, as lists."""
        return self.cycles.with_format(None).remove_columns("audio").to_dict()

    @property
    def is_simulated(self) -> bool:
        return SIMULATED_DEVICE in self.table["device"]

    def count(self) -> dict[str, int]:
        """Number of cycles, of each class, and of recordings and patients."""
        labels = Counter(self.table["label"])
        counts = {name: labels[label] for label, name in enumerate(CLASS_NAMES)}
        recordings, patients = (len(set(self.table[column])) for column in ("recording", "patient"))
        return {"cycles": len(self.cycles), **counts, "recordings": recordings, "patients": patients}


def load_training_sources(arguments: DataArguments) -> tuple[list[CycleSource], CycleSource]:
    """Loads the training cycles, one source per data set, and the validation cycles.

    Validation patients come from ICBHI, or from the simulated ones where there is no ICBHI: never from SPRSound.

    Raises:
        ValueError: no data to validate on, a part without normal or without abnormal cycles, or what `load_icbhi`,
            `load_sprsound` and `load_simulated` raise for data that they cannot read.
    """
    if not arguments.icbhi and not arguments.simulated:
        raise ValueError("data: give data.icbhi=FOLDER (or data.simulated=12); validation patients come from there")
    if not 0 < arguments.validation < 1:
        raise ValueError(f"data.validation: {arguments.validation} is not a share of the patients between 0 and 1")
    if arguments.validation_seed < 0:
        raise ValueError(f"data.validation_seed: {arguments.validation_seed} should be 0 or more")
    draw: dict[str, Any] = {"validation": arguments.validation, "seed": arguments.validation_seed}
    loaded: dict[str, datasets.DatasetDict] = {}
    if arguments.icbhi:
        loaded["icbhi"] = load_icbhi(Path(arguments.icbhi).expanduser(), split=arguments.split, **draw)
    if arguments.simulated:
        loaded["simulated"] = load_simulated(patients=arguments.simulated, **draw)
    if arguments.sprsound:
        loaded["sprsound"] = load_sprsound(Path(arguments.sprsound).expanduser())
    training = [CycleSource(name, parts["train"]) for name, parts in loaded.items()]
    selecting = next(iter(loaded))
    validation = CycleSource(selecting, loaded[selecting]["validation"])
    _check_both_kinds([label for source in training for label in source.table["label"]], "the training")
    _check_both_kinds(validation.table["label"], "the validation")
    return training, validation


def load_evaluated_source(
    data: str | os.PathLike, split: str, part: str, validation: float = 0.0, validation_seed: int = 0
) -> CycleSource:
    """Loads one part of a data set in ICBHI's layout.

    Args:
        data (`str` or `os.PathLike`): folder, zip or prepared folder, as for `load_icbhi`.
        split (`str`): as for `load_icbhi`.
        part (`str`): `test`, `validation` or `train`.
        validation (`float`, *optional*, defaults to 0.0): share of the training patients that are validation.
        validation_seed (`int`, *optional*, defaults to 0): draw of those patients.

    Raises:
        ValueError: unknown part, a part without cycles, or without normal or abnormal ones; or what `load_icbhi`
            raises.
    """
    if part not in PARTS:
        raise ValueError(f"part: {part!r} is not known; choose one of {', '.join(PARTS)}")
    parts = load_icbhi(os.path.expanduser(data), split=split, validation=validation, seed=validation_seed)
    if part not in parts or len(parts[part]) == 0:
        raise ValueError(
            f"{data}: has no cycles in the {part} part of the split {split!r}; choose another part or split"
        )
    source = CycleSource("icbhi", parts[part])
    _check_both_kinds(source.table["label"], f"{data}: the {part}")
    return source


def describe_limits(source: CycleSource, split: str, part: str) -> list[str]:
    """Sentences that must stand beside every figure measured on these cycles; none for a complete test part."""
    if source.is_simulated:
        return ["Simulated sounds: these figures say nothing about accuracy on recordings of patients."]
    if part == "validation":
        return ["Validation patients of the training part: not comparable with published ICBHI scores."]
    recordings, cycles = published_counts(split)[part]
    counts = source.count()
    if (counts["recordings"], counts["cycles"]) == (recordings, cycles):
        return []
    return [
        f"Incomplete ICBHI 2017: {counts['recordings']} of {recordings} recordings and {counts['cycles']:,} of "
        f"{cycles:,} cycles of the {part} part (split {split}); not comparable with published ICBHI scores."
    ]


def _check_both_kinds(labels: list[int], part: str) -> None:
    for kind, present in (("normal", 0 in labels), ("abnormal", any(label > 0 for label in labels))):
        if not present:
            raise ValueError(f"{part} part has no {kind} cycle, so it cannot be scored; use more recordings")
