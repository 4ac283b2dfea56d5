"""The labelled cycles of a run: which data sets, which part of them, and what must be said about them."""

import logging
import os
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import datasets

from dataset_scripts.cycles import CLASS_NAMES
from dataset_scripts.icbhi import load_icbhi
from dataset_scripts.icbhi_splits import published_counts
from dataset_scripts.simulated import DEVICE as SIMULATED_DEVICE
from dataset_scripts.simulated import load_simulated
from dataset_scripts.sprsound import load_sprsound
from modeling_lung_srad.errors import InputError
from training.arguments import DataArguments

PARTS = ("test", "validation", "train")
logger = logging.getLogger(__name__)


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
    def cycle_names(self) -> list[str]:
        """Names of the cycles in messages: recording and seconds."""
        columns = (self.table[name] for name in ("recording", "start", "end"))
        return [f"{recording} {start:.2f} to {end:.2f} s" for recording, start, end in zip(*columns, strict=True)]

    @property
    def is_simulated(self) -> bool:
        return SIMULATED_DEVICE in self.table["device"]

    @property
    def kind(self) -> str:
        """Whose patients these are: `icbhi`, `sprsound` or, also in a folder in ICBHI's layout, `simulated`."""
        return "simulated" if self.is_simulated else self.name

    def count(self) -> dict[str, int]:
        """Number of cycles, of each class, and of recordings and patients."""
        labels = Counter(self.table["label"])
        counts = {name: labels[label] for label, name in enumerate(CLASS_NAMES)}
        recordings, patients = (len(set(self.table[column])) for column in ("recording", "patient"))
        return {"cycles": len(self.cycles), **counts, "recordings": recordings, "patients": patients}


class RunSources(NamedTuple):
    """The cycles of a run.

    Args:
        training (`list[CycleSource]`): one source per data set.
        validation, test (`CycleSource`, *optional*): where they are needed.
        calibration (`list[CycleSource]`): the validation patients of all data sets, to fit temperature and thresholds.
        held_out (`frozenset[str]`): patients of the validation and the test part, needed or not.
        held_out_kind (`str`): `kind` of their source.
    """

    training: list[CycleSource]
    validation: CycleSource | None
    test: CycleSource | None
    calibration: list[CycleSource]
    held_out: frozenset[str]
    held_out_kind: str

    def part(self, name: str) -> CycleSource | None:
        """`validation` or `test` by its name."""
        return self.test if name == "test" else self.validation


def load_training_sources(
    arguments: DataArguments, selection: str = "validation", record_test: bool = False, left_out: Collection[str] = ()
) -> RunSources:
    """Loads the cycles of a run.

    Validation patients come from ICBHI, or without ICBHI from the simulated ones, never from SPRSound. The
    test part is loaded only where the run selects on it or records it.

    Args:
        arguments (`DataArguments`): the data sets and their split.
        selection (`str`, *optional*, defaults to `"validation"`): part that chooses the epoch, or `"last"`.
        record_test (`bool`, *optional*, defaults to `False`): whether the test part is scored as well.
        left_out (collection of `str`, *optional*): sources to leave out, such as those from which no cycle
            is drawn.

    Raises:
        InputError: no data to validate on or to train on, a class without training cycles, a part without normal or
            without abnormal cycles, a patient in the training and the validation part, or what `load_icbhi`,
            `load_sprsound` and `load_simulated` raise for data that they cannot read.
    """
    if not arguments.icbhi and not arguments.simulated:
        raise InputError(
            "data", "give data.icbhi=FOLDER (or data.simulated=12)", "validation patients come from there"
        )
    if not 0 <= arguments.validation < 1 or (selection == "validation" and arguments.validation == 0):
        raise InputError(
            "data.validation",
            f"{arguments.validation} is not a share of the patients between 0 and 1",
            "0, for none, goes with selection=last or selection=test only",
        )
    if arguments.validation_seed < 0:
        raise InputError("data.validation_seed", f"{arguments.validation_seed} should be 0 or more")
    draw: dict[str, Any] = {"validation": arguments.validation, "seed": arguments.validation_seed}
    loaded: dict[str, datasets.DatasetDict] = {}
    if arguments.icbhi:
        loaded["icbhi"] = load_icbhi(Path(os.path.expanduser(arguments.icbhi)), split=arguments.split, **draw)
    if arguments.simulated:
        loaded["simulated"] = load_simulated(patients=arguments.simulated, **draw)
    if arguments.sprsound:
        loaded["sprsound"] = load_sprsound(
            Path(os.path.expanduser(arguments.sprsound)), arguments.sprsound_validation, arguments.validation_seed
        )
    training = [CycleSource(name, parts["train"]) for name, parts in loaded.items() if name not in left_out]
    if not training:
        raise InputError(
            "sampling", f"the weight of {' and '.join(loaded)} is 0, so nothing is drawn", "set one above 0"
        )
    for name in loaded:
        if name in left_out:
            logger.warning("%s: is not trained on, since sampling.%s is 0", name, name)
    selecting = next(iter(loaded))
    parts = {}
    if arguments.validation:
        parts["validation"] = CycleSource(selecting, loaded[selecting]["validation"])
        _check_disjoint(CycleSource(selecting, loaded[selecting]["train"]), parts["validation"])
    if selection == "test" or record_test:
        parts["test"] = CycleSource(selecting, loaded[selecting]["test"])
    labels = [label for source in training for label in source.table["label"]]
    _check_both_kinds(labels, "the training")
    for name, source in parts.items():
        _check_both_kinds(source.table["label"], f"the {name}")
    _check_all_classes(labels)
    apart = [
        CycleSource(selecting, loaded[selecting][name]) for name in ("validation", "test") if name in loaded[selecting]
    ]
    held_out = frozenset(patient for source in apart for patient in source.table["patient"])
    kind = CycleSource(selecting, loaded[selecting]["train"]).kind
    calibration = [CycleSource(name, parts["validation"]) for name, parts in loaded.items() if "validation" in parts]
    return RunSources(training, parts.get("validation"), parts.get("test"), calibration, held_out, kind)


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
        InputError: unknown part, a part without cycles, or without normal or abnormal ones; or what `load_icbhi`
            raises.
    """
    if part not in PARTS:
        raise InputError("part", f"{part!r} is not known", f"choose one of {', '.join(PARTS)}")
    parts = load_icbhi(os.path.expanduser(data), split=split, validation=validation, seed=validation_seed)
    if part not in parts or len(parts[part]) == 0:
        raise InputError(
            data, f"contains no cycles in the {part} part of the split {split!r}", "choose another part or split"
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
            raise InputError(
                f"{part} part", f"contains no {kind} cycle, so it cannot be scored", "use more recordings"
            )


def _check_all_classes(labels: list[int]) -> None:
    for label, name in enumerate(CLASS_NAMES):
        if label not in labels:
            raise InputError(
                "training part",
                f"contains no {name} cycle, so that class cannot be learnt",
                "add recordings that have it, or use another split",
            )


def _check_disjoint(training: CycleSource, validation: CycleSource) -> None:
    shared = sorted(set(training.table["patient"]) & set(validation.table["patient"]))
    if shared:
        raise InputError(
            f"patient {shared[0]}",
            f"is in the training and in the validation part ({len(shared)} in all), so that validation would not be "
            "of unseen patients",
            "prepare the data again, or correct its split file",
        )
