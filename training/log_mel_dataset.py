"""Cycles as log-mel spectrograms in memory, and the torch data set that training and evaluation share."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from modeling_lung_srad import LungSradFeatureExtractor
from modeling_lung_srad.audio import SAMPLING_RATE
from training.arguments import AugmentationArguments
from training.augmentation import augment_log_mel, crop_frames, spec_augment
from training.cycle_sources import CycleSource

CYCLES_PER_BATCH = 16


def check_sampling_rate(feature_extractor: LungSradFeatureExtractor, where: str) -> None:
    """Raises `ValueError`, beginning with `where`, for features of another rate than that of decoded cycles."""
    if feature_extractor.sampling_rate != SAMPLING_RATE:
        raise ValueError(
            f"{where}: {feature_extractor.sampling_rate} Hz is not the rate that cycles are decoded at; "
            f"use a feature extractor for {SAMPLING_RATE} Hz"
        )


def iterate_log_mel(
    sources: Sequence[CycleSource], feature_extractor: LungSradFeatureExtractor, description: str = "log-mel"
) -> Iterator[torch.Tensor]:
    """Decodes the cycles of all sources in order and yields their spectrograms in batches, with a progress bar.

    Yields:
        `torch.Tensor` of shape `(batch, frames, num_mel_bins)`: what `LungSradFeatureExtractor.log_mel` returns, which
        is all that costs time and does not change from epoch to epoch.
    """
    waveforms: list[np.ndarray] = []
    with tqdm(total=sum(len(source.cycles) for source in sources), desc=description, unit="cycle") as progress:
        for source in sources:
            for row in source.cycles:
                waveforms.append(row["audio"]["array"])
                if len(waveforms) == CYCLES_PER_BATCH:
                    yield feature_extractor.log_mel(waveforms)
                    progress.update(len(waveforms))
                    waveforms = []
        if waveforms:
            yield feature_extractor.log_mel(waveforms)
            progress.update(len(waveforms))


def compute_log_mel(
    sources: Sequence[CycleSource],
    feature_extractor: LungSradFeatureExtractor,
    dtype: torch.dtype = torch.float32,
    description: str = "log-mel",
) -> torch.Tensor:
    """The spectrograms of all cycles of all sources, `(cycles, frames, num_mel_bins)`.

    A cycle of 8 s takes 0.4 MB in float32 and 0.2 MB in float16, which rounds log energies by at most 0.004.
    """
    batches: Iterable[torch.Tensor] = iterate_log_mel(sources, feature_extractor, description)
    total = sum(len(source.cycles) for source in sources)
    log_mel, filled = torch.empty(0, dtype=dtype), 0
    for batch in batches:
        if filled == 0:
            log_mel = torch.empty((total, *batch.shape[1:]), dtype=dtype)
        log_mel[filled : filled + len(batch)] = batch
        filled += len(batch)
    return log_mel


class LogMelDataset(Dataset):
    """Network inputs and labels from spectrograms in memory.

    Every access normalises, augments where asked to, and resizes: the steps of the feature extractor, in its order.

    Args:
        log_mel (`torch.Tensor` of shape `(cycles, frames, num_mel_bins)`): from `compute_log_mel`, any float type.
        labels (sequence of `int`): class of each cycle.
        feature_extractor (`LungSradFeatureExtractor`): the one that made `log_mel`.
        augmentation (`AugmentationArguments`, *optional*): for training; none when not given.
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

    def __getitem__(self, index: int) -> dict[str, Any]:
        log_mel = self.log_mel[index].float()
        if self.augmentation is not None:
            log_mel = augment_log_mel(log_mel, self.augmentation)
        log_mel = self.feature_extractor.normalize(log_mel.unsqueeze(0)).squeeze(0)
        if self.augmentation is not None:
            log_mel = spec_augment(log_mel, self.augmentation)
        input_values = self.feature_extractor.resize(log_mel.unsqueeze(0)).squeeze(0)
        if self.augmentation is not None:
            input_values = crop_frames(input_values, self.augmentation)
        return {"input_values": input_values, "labels": self.labels[index]}
