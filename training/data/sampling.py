"""Which training cycles make a batch, and in what order."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import Sampler

from modeling_lung_srad.errors import InputError
from training.arguments import SamplingArguments

LARGEST_SEED = 2**63


class CycleDraw(NamedTuple):
    """A cycle that was drawn, with the seed of its augmentation.

    The seed depends on the seed of the run, the epoch and the place in it alone: what a cycle looks like does not
    change with the number of processes or data loader workers, or when a run was interrupted.
    """

    cycle: int
    seed: int


def sampling_weights(
    sources: Sequence[str],
    labels: Sequence[int],
    arguments: SamplingArguments,
    patients: Sequence[str] | None = None,
    devices: Sequence[str] | None = None,
) -> np.ndarray | None:
    """Relative chance of each cycle to be drawn, or `None` where every cycle is to be seen once per epoch.

    Args:
        sources (sequence of `str`): data set of each cycle, a field of `arguments`.
        labels (sequence of `int`): class of each cycle. Classes are counted over all sources together, each cycle
            with the weight of its source.
        arguments (`SamplingArguments`): weights of the sources and balance of the classes.
        patients (sequence of `str`, *optional*): patient of each cycle, for `patient_balance`.
        devices (sequence of `str`, *optional*): stethoscope of each cycle, for `device_balance`.

    Raises:
        InputError: a negative weight, or no cycle with a weight above zero.
    """
    by_source = np.array([getattr(arguments, source) for source in sources], dtype=np.float64)
    if (by_source < 0).any() or not by_source.any():
        raise InputError("sampling", "the weights of the sources must not be negative, and one must be above zero")
    if arguments.cycles_per_epoch is not None and arguments.cycles_per_epoch < 1:
        raise InputError("sampling.cycles_per_epoch", f"{arguments.cycles_per_epoch} should be at least 1")
    label_array = np.asarray(labels)
    share = np.bincount(label_array, weights=by_source)[label_array]
    weights = by_source * np.where(share > 0, share, 1.0) ** -arguments.class_balance
    if patients is not None and arguments.patient_balance:
        _, groups, counts = np.unique(
            [f"{label} {patient}" for label, patient in zip(labels, patients, strict=True)],
            return_inverse=True,
            return_counts=True,
        )
        evened = counts[groups] ** -arguments.patient_balance
        # The classes keep their total.
        totals, evened_totals = (np.bincount(label_array, weights=weights * x) for x in (1.0, evened))
        weights = weights * evened * (totals / np.where(evened_totals > 0, evened_totals, 1.0))[label_array]
    if devices is not None and arguments.device_balance:
        weights = _even_devices(weights, label_array, devices, arguments.device_balance)
    if arguments.cycles_per_epoch is None and np.allclose(weights, weights[0]):
        return None
    return weights / weights.sum()


def _even_devices(weights: np.ndarray, labels: np.ndarray, devices: Sequence[str], balance: float) -> np.ndarray:
    """Weights with which the classes of each device have their shares over all devices; devices keep their total."""
    shares = np.bincount(labels, weights)
    evened = weights.copy()
    for device in set(devices):
        own = np.array([other == device for other in devices])
        present = np.bincount(labels[own], weights[own], minlength=len(shares))
        factors = (shares / np.where(present > 0, present, np.inf)) ** balance
        evened[own] *= factors[labels[own]]
        evened[own] *= weights[own].sum() / (evened[own].sum() or 1.0)
    return evened


class CycleSampler(Sampler[CycleDraw]):
    """Draws the cycles of an epoch: by weight with replacement, or each once in random order.

    An epoch is a whole number of batches; what is left over differs from epoch to epoch.

    Args:
        num_cycles (`int`): number of training cycles.
        batch_size (`int`): cycles per step of all processes together.
        seed (`int`): seed of order and augmentation.
        weights (`np.ndarray` of shape `(num_cycles,)`, *optional*): relative chances; each cycle once when not given.
        draws (`int`, *optional*): cycles per epoch when drawn by weight, `num_cycles` when not given.

    Raises:
        InputError: fewer draws than a batch holds.
    """

    def __init__(
        self,
        num_cycles: int,
        batch_size: int,
        seed: int,
        weights: np.ndarray | None = None,
        draws: int | None = None,
    ):
        self.num_cycles = num_cycles
        self.weights = None if weights is None else torch.as_tensor(weights, dtype=torch.float64)
        wanted = num_cycles if weights is None else draws or num_cycles
        if wanted < batch_size:
            raise InputError(
                "per_device_train_batch_size",
                f"a batch of all processes is {batch_size} cycles and an epoch only {wanted}",
                "make it smaller",
            )
        self.draws = wanted - wanted % batch_size
        self.seed = seed
        self.epoch = 0

    def __len__(self) -> int:
        return self.draws

    def __iter__(self) -> Iterator[CycleDraw]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        if self.weights is None:
            indices = torch.randperm(self.num_cycles, generator=generator)[: self.draws]
        else:
            indices = torch.multinomial(self.weights, self.draws, replacement=True, generator=generator)
        seeds = torch.randint(LARGEST_SEED - 1, (self.draws,), generator=generator)
        yield from map(CycleDraw, indices.tolist(), seeds.tolist())
