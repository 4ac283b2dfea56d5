"""Times steps beside each other, and the peak memory of one."""

import math
import multiprocessing
import os
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm


def time_interleaved(
    steps: Mapping[str, Callable[[], object]], rounds: Mapping[str, int], label: str = ""
) -> dict[str, list[float]]:
    """
    Times all steps in turn, round after round, so that a drift of the machine's speed meets all of them.

    Args:
        steps (mapping of name to callable): each is one measurement; on CUDA its end is waited for.
        rounds (mapping of name to `int`): counted calls; each comes right after another that is not counted, so that
            it finds its own memory and caches warm.
        label (`str`, *optional*): text of the progress bar.

    Returns:
        `dict[str, list[float]]`: seconds of every counted call.
    """
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    schedule = [
        name
        for round_number in range(max(rounds.values(), default=0))
        for name in steps
        if round_number < rounds[name]
    ]
    for name in tqdm(schedule, desc=label, unit="step", leave=False):
        steps[name]()
        seconds[name].append(time_once(steps[name]))
    return seconds


def time_once(step: Callable[[], object]) -> float:
    """Seconds from an idle device to an idle device."""
    _synchronize()
    start = time.perf_counter()
    step()
    _synchronize()
    return time.perf_counter() - start


def median_seconds(step: Callable[[], object], repeats: int = 10) -> float:
    """Median of a short step, after three calls that are not counted; on CUDA by events, with an emptied cache."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        from triton.testing import do_bench

        return do_bench(step, return_mode="median") / 1000
    return statistics.median([time_once(step) for _ in range(repeats + 3)][3:])


def median_ratio(numerator: Sequence[float], denominator: Sequence[float]) -> float:
    """Median over rounds of the ratio within a round, for as many rounds as both have."""
    return statistics.median(a / b for a, b in zip(numerator, denominator, strict=False))


def fit_exponent(lengths: Sequence[float], costs: Sequence[float]) -> float:
    """
    The exponent `p` of the least squares fit `cost = a * length ** p`, on logarithms.

    Example:

    ```python
    >>> round(fit_exponent([1, 2, 4], [3, 12, 48]), 3)
    2.0

    ```"""
    return float(np.polyfit([math.log(length) for length in lengths], [math.log(cost) for cost in costs], 1)[0])


def in_process_of_its_own(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function of a module in a new process, whose memory and threads are its own, and returns the result."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=_end_with_parent) as executor:
        return executor.submit(function, *arguments).result()


def is_out_of_memory(error: Exception) -> bool:
    """True for an error for lack of memory, the usual reason for a killed process."""
    if isinstance(error, BrokenProcessPool | MemoryError | torch.OutOfMemoryError):
        return True
    texts = ("not enough memory", "can't allocate memory")
    return isinstance(error, RuntimeError) and any(text in str(error) for text in texts)


def peak_bytes(step: Callable[[], object]) -> int:
    """Peak memory of a step above that before it: of the process, or of tensors on CUDA."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        _synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        _synchronize()
        return torch.cuda.max_memory_allocated() - before
    with suppress(OSError):  # Building the network may have taken more than it holds now.
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _highest_resident_bytes()
    step()
    return _highest_resident_bytes() - before


def _end_with_parent() -> None:
    """Lets this process end when its parent is killed: it would go on to the end of the step and wait for more."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _highest_resident_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # Linux lets `ru_maxrss` of a new process begin with that of its parent.
        line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _synchronize() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()
