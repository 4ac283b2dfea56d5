"""The files that `lung-srad spectrum` writes."""

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from modeling_lung_srad.errors import InputError
from modeling_lung_srad.files.output_files import check_output, replaced_when_complete
from modeling_lung_srad.spectral.profile import FIGURES, LayerProfile, spread

SUFFIXES = (".png", ".svg")
DEFAULT_SUFFIX = ".png"


@dataclass
class SpectrumFiles:
    """
    Names of figures and tables.

    Args:
        folder (`Path`): where they go.
        prefix (`str`): beginning of their names.
        suffix (`str`): of the figures.
        written (`list[Path]`): those that were asked for.
    """

    folder: Path
    prefix: str
    suffix: str
    written: list[Path] = field(default_factory=list)

    @classmethod
    def at(cls, target: str) -> "SpectrumFiles":
        """
        In a folder, an existing one or a name without suffix; or beside a figure of that name.

        Raises:
            InputError: where the suffix is another one, or nothing can be written there.
        """
        path = Path(target)
        if path.is_dir() or not path.suffix:
            if path.exists() and not path.is_dir():
                raise InputError(path, "is a file", f"name a folder, or a name that ends in {' or '.join(SUFFIXES)}")
            check_output(path / "summary.csv" if path.is_dir() else path)
            return cls(path, "", DEFAULT_SUFFIX)
        if path.suffix.lower() not in SUFFIXES:
            raise InputError(
                path, f"figures are written as {' and '.join(SUFFIXES)}", "give one of these suffixes, or a folder"
            )
        check_output(path)
        return cls(path.parent, f"{path.stem}_", path.suffix.lower())

    def make_folder(self) -> None:
        """Makes the folder, where it does not exist."""
        self.folder.mkdir(exist_ok=True)

    def figure(self, name: str) -> Path:
        """Path of a figure."""
        return self._path(f"{self.prefix}{name}{self.suffix}")

    def table(self, name: str) -> Path:
        """Path of a table."""
        return self._path(f"{self.prefix}{name}.csv")

    def _path(self, name: str) -> Path:
        self.written.append(self.folder / name)
        return self.written[-1]

    def __str__(self) -> str:
        return f"{self.folder}: {', '.join(path.name for path in self.written)}"


def write_summary(
    path: Path,
    profiles: Mapping[str, Sequence[LayerProfile]],
    first_column: str = "model",
    with_stages: bool = False,
) -> None:
    """
    Writes a row per layer: its place, and mean and standard deviation of each figure over recordings.

    Args:
        path (`Path`): the CSV file.
        profiles (mapping of `str` to sequence of [`LayerProfile`]): by the text of the first column.
        first_column (`str`, *optional*, defaults to `"model"`): its heading.
        with_stages (`bool`, *optional*, defaults to `False`): whether a row with the block `all`, the mean of the
            blocks of a stage in each recording, follows each stage.
    """
    header = [first_column, "stage", "block", "rows", "columns", "recordings"]
    header += [name for figure in FIGURES for name in (figure, f"{figure}_sd")]
    with replaced_when_complete(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for name, layers in profiles.items():
            for stage in dict.fromkeys(found.layer.stage for found in layers):
                of_stage = [found for found in layers if found.layer.stage == stage]
                for found in of_stage:
                    writer.writerow([name, *_place(found, found.layer.block), *_mean_and_spread(found.figures)])
                if with_stages:
                    means = {key: np.mean([found.figures[key] for found in of_stage], axis=0) for key in FIGURES}
                    writer.writerow([name, *_place(of_stage[0], "all"), *_mean_and_spread(means)])


def write_curves(path: Path, profiles: Mapping[str, Sequence[LayerProfile]]) -> None:
    """
    Writes a row per model, layer and frequency: mean and standard deviation over recordings of the magnitude, min-max
    normalised and relative to the largest one.
    """
    header = ["model", "stage", "block", "frequency", "normalized", "normalized_sd", "relative", "relative_sd"]
    with replaced_when_complete(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for name, layers in profiles.items():
            for found in layers:
                stage = "" if found.layer.stage is None else found.layer.stage
                curves = {"normalized": found.normalized, "relative": found.relative}
                columns = zip(found.frequency, *_columns(curves), strict=True)
                for frequency, *values in columns:
                    writer.writerow([name, stage, found.layer.block, f"{frequency:.6g}", *values])


def _place(found: LayerProfile, block: int | str) -> list[object]:
    stage = "" if found.layer.stage is None else found.layer.stage
    return [stage, block, *found.grid, len(found.normalized)]


def _mean_and_spread(figures: Mapping[str, np.ndarray]) -> list[str]:
    texts = []
    for key in FIGURES:
        deviation = spread(figures[key])
        texts += [f"{figures[key].mean():.6g}", "" if deviation is None else f"{deviation:.6g}"]
    return texts


def _columns(curves: Mapping[str, np.ndarray]) -> Iterator[list[str]]:
    for values in curves.values():
        deviation = spread(values)
        yield [f"{value:.6g}" for value in values.mean(0)]
        yield [""] * values.shape[1] if deviation is None else [f"{value:.6g}" for value in deviation]
