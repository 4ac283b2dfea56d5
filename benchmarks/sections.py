"""The sections of the benchmark: cases that are timed beside each other, and number of calls."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from tqdm import tqdm

from benchmarks.cases import OWN_BACKENDS, Case, Measurement, Networks, reason_to_leave_out
from benchmarks.measure import in_process_of_its_own, is_out_of_memory, peak_bytes, time_interleaved
from benchmarks.peers import CLIP_FRAMES, SIZES

FRAMES_A_SECOND = 100
TEN_MINUTES = 600 * FRAMES_A_SECOND
CUDA_BATCH = 32
AST_BATCHES = (1, 8, CUDA_BATCH)


@dataclass(frozen=True)
class Suite:
    """
    Size of a run.

    Args:
        sizes: named sizes of the network.
        batches: numbers of clips in a batch.
        frames: lengths of one recording.
        longest_sequential: the longest of them that the sequential scan gets.
        peers_everywhere: whether the peers take part where no goal needs them.
        rounds: counted calls of a fast case; a slow one gets fewer.
        sizes_of_goals: further sizes; one clip and a training step are measured, without slow peers.
    """

    sizes: tuple[str, ...]
    batches: tuple[int, ...]
    frames: tuple[int, ...]
    longest_sequential: int
    peers_everywhere: bool
    rounds: int
    sizes_of_goals: tuple[str, ...] = ()


SUITES = {
    "quick": Suite(
        sizes=("medium",),
        batches=(1, 8),
        frames=(CLIP_FRAMES, 4000, 15000, TEN_MINUTES),
        longest_sequential=4000,
        peers_everywhere=False,
        rounds=15,
        sizes_of_goals=("tiny",),
    ),
    "full": Suite(
        sizes=tuple(SIZES),
        batches=(1, 2, 4, 8, 16, 32),
        frames=(800, CLIP_FRAMES, 3000, 12000, TEN_MINUTES),
        longest_sequential=12000,
        peers_everywhere=True,
        rounds=5,
    ),
}


def measure_one_clip(suite: Suite, device: str, threads: int) -> list[Measurement]:
    """Latency of one clip, beside all peers."""
    contenders = [*_own(device, also_torch=True), "no_scan"]
    groups = [
        [Case(contender, size=size, device=device) for contender in [*contenders, "sequential", "ast"]]
        for size in suite.sizes
    ]
    groups += [
        [Case(contender, size=size, device=device) for contender in contenders] for size in suite.sizes_of_goals
    ]

    def rounds(case: Case) -> int:
        # The sequential scan starts some hundred thousand kernels there.
        return 2 if device == "cuda" and case.contender == "sequential" else suite.rounds

    return _measure_groups("one_clip", groups, threads, rounds)


def measure_batch(suite: Suite, device: str, threads: int) -> list[Measurement]:
    """Throughput by batch size."""
    batches = suite.batches if device == "cpu" else sorted({*suite.batches, CUDA_BATCH})
    groups = [
        [
            Case(contender, size=size, batch=batch, device=device)
            for batch in batches
            for contender in _own(device, suite.peers_everywhere) + _peers(suite, device)
            if contender != "ast" or (size == suite.sizes[-1] and batch in AST_BATCHES)
        ]
        for size in suite.sizes
    ]

    def rounds(case: Case) -> int:
        if device == "cpu":
            return 3 if case.batch <= 8 else 1
        return suite.rounds

    return _measure_groups("batch", groups, threads, rounds)


def measure_training(suite: Suite, device: str, threads: int) -> list[Measurement]:
    """A training step (forward, loss, backward): time beside the peers, and memory."""
    own = _own(device, also_torch=True)
    slow = ["sequential"] if device == "cpu" else []
    batch = 4 if device == "cpu" else CUDA_BATCH
    contenders = dict.fromkeys(suite.sizes, own + _peers(suite, device) + slow)
    contenders |= dict.fromkeys(suite.sizes_of_goals, own)
    groups = [
        [Case(contender, size=size, step="training", batch=batch, device=device) for contender in contenders[size]]
        for size in contenders
    ]

    def rounds(case: Case) -> int:
        if device == "cpu":
            return 2 if case.contender in ("sequential", "ast") else 3
        return suite.rounds

    return _with_memory(_measure_groups("training", groups, threads, rounds), threads)


def measure_length(suite: Suite, device: str, threads: int) -> list[Measurement]:
    """Time and memory of one recording in one pass, by its length."""
    contenders = [*_own(device, suite.peers_everywhere), *(["sequential"] if device == "cpu" else []), "ast"]
    groups = [
        [
            Case(contender, size=size, frames=frames, device=device)
            for contender in contenders
            if (contender != "sequential" or frames <= suite.longest_sequential)
            and (contender != "ast" or size == suite.sizes[-1])
        ]
        for size in (suite.sizes if device == "cpu" else suite.sizes[-1:])
        for frames in suite.frames
    ]

    def rounds(case: Case) -> int:
        if device == "cpu" and case.contender in ("sequential", "ast"):
            return 1
        return 2 if device == "cpu" and case.frames > 10 * CLIP_FRAMES else 3

    return _with_memory(_measure_groups("length", groups, threads, rounds), threads)


SECTIONS: dict[str, Callable[[Suite, str, int], list[Measurement]]] = {
    "one_clip": measure_one_clip,
    "batch": measure_batch,
    "training": measure_training,
    "length": measure_length,
}


def measure_section(name: str, suite: Suite, device: str, threads: int) -> list[Measurement]:
    """One section, in the process that calls it, on `threads` threads."""
    torch.set_num_threads(threads)
    return SECTIONS[name](suite, device, threads)


def measure_memory(case: Case, threads: int) -> int:
    """Peak memory of a case, in the process that calls it."""
    torch.set_num_threads(threads)
    networks = Networks()
    # Libraries and kernels that load at the first use are not part of the step.
    contender = case.contender if case.contender in OWN_BACKENDS else "torch"
    networks.build_step(replace(case, contender=contender, size="tiny", batch=1, frames=64))()
    return peak_bytes(networks.build_step(case))


def _own(device: str, also_torch: bool) -> list[str]:
    """Back ends of our scan. On a CPU, torch takes part where it is asked for and where numba cannot run."""
    if device != "cpu":
        return ["triton", "mamba_ssm", "torch"]
    needs_torch = also_torch or reason_to_leave_out(Case("numba")) is not None
    return ["numba", "torch"] if needs_torch else ["numba"]


def _peers(suite: Suite, device: str) -> list[str]:
    return ["no_scan", "ast"] if suite.peers_everywhere or device == "cuda" else []


def _measure_groups(
    section: str, groups: Sequence[Sequence[Case]], threads: int, rounds: Callable[[Case], int]
) -> list[Measurement]:
    """Times the cases of each group in turn; one that cannot run is left out with the reason."""
    networks = Networks()
    measurements = []
    for cases in groups:
        group = [Measurement(case, section, threads, left_out=reason_to_leave_out(case)) for case in cases]
        runnable = {str(number): x for number, x in enumerate(group) if x.left_out is None}
        steps = {number: networks.build_step(x.case) for number, x in runnable.items()}
        rounds_of = {number: rounds(x.case) for number, x in runnable.items()}
        label = f"{section}, {threads} threads, {cases[0].size}, {cases[0].frames} frames"
        for number, seconds in time_interleaved(steps, rounds_of, label).items():
            runnable[number].seconds = seconds
        if cases[0].device == "cuda":
            for number, step in steps.items():
                runnable[number].peak_bytes = peak_bytes(step)
        measurements += group
    return measurements


def _with_memory(measurements: list[Measurement], threads: int) -> list[Measurement]:
    """Adds peak memory on a CPU, each case in its own process; `None` where memory runs out."""
    missing = [x for x in measurements if x.seconds and x.peak_bytes is None and x.case.device == "cpu"]
    for measurement in tqdm(missing, desc="peak memory", unit="case", leave=False):
        try:
            measurement.peak_bytes = in_process_of_its_own(measure_memory, measurement.case, threads)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
    return measurements
