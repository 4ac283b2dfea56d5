"""The training loop: `transformers.Trainer` with a sampler that weighs cycles by source and class."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler
from transformers import Trainer

from training.arguments import SamplingArguments


def sampling_weights(sources: Sequence[str], labels: Sequence[int], arguments: SamplingArguments) -> np.ndarray | None:
    """Relative chance of each cycle to be drawn, or `None` where every cycle is to be seen once per epoch.

    Args:
        sources (sequence of `str`): data set of each cycle, a field of `arguments`.
        labels (sequence of `int`): class of each cycle. Classes are counted over all sources together, each cycle
            with the weight of its source.
        arguments (`SamplingArguments`): weights of the sources and balance of the classes.

    Raises:
        ValueError: a negative weight, or no cycle with a weight above zero.
    """
    by_source = np.array([getattr(arguments, source) for source in sources], dtype=np.float64)
    if (by_source < 0).any() or not by_source.any():
        raise ValueError("sampling: the weights of the sources must not be negative, and one must be above zero")
    if arguments.cycles_per_epoch is not None and arguments.cycles_per_epoch < 1:
        raise ValueError(f"sampling.cycles_per_epoch: {arguments.cycles_per_epoch} should be at least 1")
    label_array = np.asarray(labels)
    share = np.bincount(label_array, weights=by_source)[label_array]
    weights = by_source * np.where(share > 0, share, 1.0) ** -arguments.class_balance
    if arguments.cycles_per_epoch is None and np.allclose(weights, weights[0]):
        return None
    return weights / weights.sum()


class WeightedCycleSampler(Sampler[int]):
    """Draws cycles with replacement by weight. The draws depend on seed and epoch only, so that a resumed run, and
    every process of a distributed one, sees the same order.

    Args:
        weights (`np.ndarray` of shape `(cycles,)`): relative chances.
        draws (`int`): indices per epoch.
        seed (`int`): seed of the order.
    """

    def __init__(self, weights: np.ndarray, draws: int, seed: int):
        self.weights = torch.as_tensor(weights, dtype=torch.float64)
        self.draws = draws
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the data loader of Accelerate before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.draws

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed * 100_003 + self.epoch)
        yield from torch.multinomial(self.weights, self.draws, replacement=True, generator=generator).tolist()


class LungSradTrainer(Trainer):
    """`transformers.Trainer` whose training cycles are drawn by weight.

    Args:
        cycle_weights (`np.ndarray`, *optional*): relative chance of each training cycle; each once per epoch when not
            given.
        cycles_per_epoch (`int`, *optional*): draws per epoch; the number of training cycles when not given.
        kwargs: those of `transformers.Trainer`.
    """

    def __init__(self, *, cycle_weights: np.ndarray | None = None, cycles_per_epoch: int | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        self.cycle_weights = cycle_weights
        self.cycles_per_epoch = cycles_per_epoch

    def _get_train_sampler(self, train_dataset: Dataset | None = None) -> Sampler | None:
        if self.cycle_weights is None:
            return super()._get_train_sampler(train_dataset)
        seed = self.args.seed if self.args.data_seed is None else self.args.data_seed
        return WeightedCycleSampler(self.cycle_weights, self.cycles_per_epoch or len(self.cycle_weights), seed)
