"""Notes at the start of a run: random weights, and the time on a CPU."""

import copy
import logging
import math
import time
from typing import Any

import torch
from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

# A smaller network trains while one waits, and the progress bar tells how long.
SLOW_FROM_PARAMETERS = 5_000_000
PROBE_CLIPS = 2


def say_start(model: PreTrainedModel, checkpoint: str | None, frames: int, epochs: float, cycles: int) -> None:
    """
    Logs that a network begins from random weights, and how long an epoch takes where a large one is trained on a CPU.

    Args:
        model (`PreTrainedModel`): the network, before training.
        checkpoint (`str`, *optional*): `model.checkpoint`.
        frames (`int`): of an input.
        epochs (`float`): that the run trains.
        cycles (`int`): draws of an epoch.
    """
    if checkpoint is None:
        logger.warning(
            "model.checkpoint is not given: training starts from random weights (the paper starts from those of DASS: "
            "model.checkpoint=DASS_medium_v2.pth)"
        )
    if torch.cuda.is_available() or model.num_parameters() < SLOW_FROM_PARAMETERS:
        return
    seconds = _seconds_per_clip(model, frames) * cycles
    logger.warning(
        "training on a CPU: about %s an epoch of %d cycles, %s for %g epochs; accelerate launch runs it on GPUs",
        duration(seconds),
        cycles,
        duration(seconds * epochs),
        epochs,
    )


def duration(seconds: float) -> str:
    """
    A duration to read.

    Example:

    ```python
    >>> [duration(seconds) for seconds in (50, 4000, 9e5)]
    ['1 min', '1 h 7 min', '10 days']

    ```"""
    minutes = max(1, math.ceil(seconds / 60))
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min" if minutes < 48 * 60 else f"{seconds / 86400:.0f} days"


def _seconds_per_clip(model: PreTrainedModel, frames: int) -> float:
    """Seconds of a training step by a copy of the network, the second, as the first compiles. Generators stay."""
    probe: Any = copy.deepcopy(model).train()
    bins = getattr(model.config, "num_mel_bins", 128)
    seconds = 0.0
    with torch.random.fork_rng(devices=[]):
        for _ in range(2):
            begin = time.perf_counter()
            probe(torch.randn(PROBE_CLIPS, frames, bins)).logits.sum().backward()
            seconds = time.perf_counter() - begin
    return seconds / PROBE_CLIPS
