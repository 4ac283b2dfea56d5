"""Cycles as log-mel spectrograms in memory, and the torch data set that training and evaluation share."""

import itertools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from modeling_lung_srad import LungSradFeatureExtractor
from modeling_lung_srad.audio import SAMPLING_RATE
from modeling_lung_srad.errors import InputError
from training.arguments import AugmentationArguments
from training.data.augmentation import augment_log_mel, crop_frames, spec_augment
from training.data.cycle_sources import CycleSource
from training.data.sampling import CycleDraw

CYCLES_PER_BATCH = 16


def check_sampling_rate(feature_extractor: LungSradFeatureExtractor, where: str) -> None:
    """Raises `InputError`, beginning with `where`, for features of another rate than that of decoded cycles."""
    if feature_extractor.sampling_rate != SAMPLING_RATE:
        raise InputError(
            where,
            f"{feature_extractor.sampling_rate} Hz is not the rate that cycles are decoded at",
            f"use a feature extractor for {SAMPLING_RATE} Hz",
        )


def iterate_log_mel(
    sources: Sequence[CycleSource], feature_extractor: LungSradFeatureExtractor, description: str = "log-mel"
) -> Iterator[torch.Tensor]:
    """Decodes the cycles of all sources in order and yields their spectrograms in batches, with a progress bar.

    A batch holds cycles of one source only, so that the last bits of a spectrogram do not depend on other sources.

    Yields:
        `torch.Tensor` of shape `(batch, frames, num_mel_bins)`: what `LungSradFeatureExtractor.log_mel` returns, which
        is all that costs time and does not change from epoch to epoch.
    """
    total, is_other = sum(len(source.cycles) for source in sources), os.environ.get("RANK", "0") != "0"
    with tqdm(total=total, desc=description, unit="cycle", disable=is_other) as progress:
        for source in sources:
            waveforms = (row["audio"]["array"] for row in source.cycles)
            while batch := list(itertools.islice(waveforms, CYCLES_PER_BATCH)):
                yield feature_extractor.log_mel(batch)
                progress.update(len(batch))


def log_mel_shape(feature_extractor: LungSradFeatureExtractor) -> tuple[int, int]:
    """`(frames, num_mel_bins)` of the spectrogram of any cycle, before the resize."""
    silence = np.zeros(feature_extractor.sampling_rate, dtype=np.float32)
    _, frames, num_mel_bins = feature_extractor.log_mel(silence).shape
    return frames, num_mel_bins


def compute_log_mel(
    sources: Sequence[CycleSource],
    feature_extractor: LungSradFeatureExtractor,
    dtype: torch.dtype = torch.float32,
    description: str = "log-mel",
) -> torch.Tensor:
    """The spectrograms of all cycles of all sources, `(cycles, frames, num_mel_bins)`.

    A cycle of 8 s takes 0.4 MB in float32 and 0.2 MB in float16, which rounds log energies by at most 0.004.
    """
    total = sum(len(source.cycles) for source in sources)
    log_mel, filled = torch.empty((total, *log_mel_shape(feature_extractor)), dtype=dtype), 0
    for batch in iterate_log_mel(sources, feature_extractor, description):
        log_mel[filled : filled + len(batch)] = batch
        filled += len(batch)
    return log_mel


class LogMelDataset(Dataset):
    """Network inputs and labels from spectrograms in memory.

    Every access normalises, augments where asked to, and resizes: the steps of the feature extractor, in its order.
    A cycle is asked for by its position, and then augmented with draws from torch's global generator, or by a
    [`CycleDraw`], which brings the seed of its augmentation.

    Args:
        log_mel (`torch.Tensor` of shape `(cycles, frames, num_mel_bins)`): from `compute_log_mel`, any float type.
        labels (sequence of `int`): class of each cycle.
        feature_extractor (`LungSradFeatureExtractor`): the one that made `log_mel`.
        augmentation (`AugmentationArguments`, *optional*): for training; none when not given.

    Raises:
        ValueError: another number of labels than of spectrograms.
    """

    def __init__(
        self,
        log_mel: torch.Tensor,
        labels: Sequence[int],
        feature_extractor: LungSradFeatureExtractor,
        augmentation: AugmentationArguments | None = None,
    ):
        if len(log_mel) != len(labels):
            raise ValueError(f"{len(log_mel)} spectrograms for {len(labels)} labels; pass one label per cycle")
        self.log_mel = log_mel
        self.labels = [int(label) for label in labels]
        self.feature_extractor = feature_extractor
        self.augmentation = augmentation

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int | CycleDraw) -> dict[str, Any]:
        """`input_values` of shape `(frames, num_mel_bins)`, `labels`, and `index`, the position of the cycle."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int | CycleDraw]) -> list[dict[str, Any]]:
        """The items at several positions, equal to those of single accesses in that order but resized together. This
        is what a torch data loader calls for a batch."""
        draws = [index if isinstance(index, CycleDraw) else (int(index), None) for index in indices]
        spectrograms, kept_frames = zip(*(self._augmented(position, seed) for position, seed in draws), strict=True)
        resized = self.feature_extractor.resize(torch.stack(spectrograms))
        return [
            {"input_values": input_values[frames], "labels": self.labels[position], "index": position}
            for (position, _), input_values, frames in zip(draws, resized, kept_frames, strict=True)
        ]

    def _augmented(self, position: int, seed: int | None) -> tuple[torch.Tensor, slice]:
        """The normalised and augmented spectrogram before the resize, and the frames to keep after it."""
        log_mel = self.log_mel[position].float()
        if self.augmentation is None:
            return self.feature_extractor.normalize(log_mel.unsqueeze(0)).squeeze(0), slice(None)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        log_mel = augment_log_mel(log_mel, self.augmentation, generator)
        log_mel = self.feature_extractor.normalize(log_mel.unsqueeze(0)).squeeze(0)
        log_mel = spec_augment(log_mel, self.augmentation, generator)
        # Cropping the numbers of the frames makes the draw in its turn, ahead of the resize of the whole batch.
        numbers = torch.arange(self.feature_extractor.num_frames).unsqueeze(1)
        kept = crop_frames(numbers, self.augmentation, generator)
        return log_mel, slice(int(kept[0]), int(kept[-1]) + 1)
