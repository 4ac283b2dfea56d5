"""One step of one contender, and its measurement."""

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from benchmarks.peers import (
    CLIP_FRAMES,
    NUM_LABELS,
    NUM_MEL_BINS,
    build_ast_base,
    build_lung_srad,
    replaced_scan,
    sequential_scan_2d,
    skip_scan_2d,
)
from modeling_lung_srad.selective_scan import reason_to_leave_out as reason_against

# The first of these that was measured is `ours`.
OWN_BACKENDS = ("numba", "triton", "mamba_ssm", "torch")
NAMES = {
    "numba": "lung-srad",
    "torch": "lung-srad, torch scan",
    "triton": "lung-srad, triton",
    "mamba_ssm": "lung-srad, mamba_ssm",
    "sequential": "sequential scan",
    "no_scan": "scan removed",
    "ast": "AST-base",
}
REPLACED_SCANS: dict[str, Callable[..., torch.Tensor]] = {"sequential": sequential_scan_2d, "no_scan": skip_scan_2d}


@dataclass(frozen=True)
class Case:
    """
    A step to measure.

    Args:
        contender (`str`): a key of `NAMES`: a back end of our scan, or a peer.
        size (`str`, *optional*, defaults to `"medium"`): named size; for AST-base, the size that it is timed beside.
        step (`str`, *optional*, defaults to `"inference"`): or `"training"`, which is forward, loss and backward.
        batch (`int`, *optional*, defaults to 1): clips.
        frames (`int`, *optional*, defaults to 1024): length of each, 100 a second.
        device (`str`, *optional*, defaults to `"cpu"`): in float32; on `"cuda"` under bfloat16 autocast.
    """

    contender: str
    size: str = "medium"
    step: str = "inference"
    batch: int = 1
    frames: int = CLIP_FRAMES
    device: str = "cpu"


@dataclass
class Measurement:
    """Measurement of a case: seconds of every counted call, and memory above that held before the step."""

    case: Case
    section: str
    threads: int
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int | None = None
    left_out: str | None = None

    @property
    def median(self) -> float:
        """Seconds of a step."""
        return statistics.median(self.seconds)

    @classmethod
    def from_json(cls, row: dict[str, Any]) -> "Measurement":
        """The inverse of `dataclasses.asdict`, for the fields it knows."""
        values = {name: row[name] for name in ("section", "threads", "seconds", "peak_bytes", "left_out")}
        return cls(case=Case(**row["case"]), **values)


class Networks:
    """Builds steps. Contenders that differ in the scan alone share a network, so that it is in memory once."""

    def __init__(self) -> None:
        self.networks: dict[tuple[str, ...], nn.Module] = {}

    def build_step(self, case: Case) -> Callable[[], None]:
        """The case as a function without arguments."""
        network = self._network(case)
        generator = torch.Generator().manual_seed(0)
        input_values = torch.randn(case.batch, case.frames, NUM_MEL_BINS, generator=generator).to(case.device)
        labels = (torch.arange(case.batch) % NUM_LABELS).to(case.device)

        def infer() -> None:
            with torch.inference_mode(), _scan_of(case), _autocast(case):
                network(input_values)

        def train() -> None:
            with _scan_of(case):
                with _autocast(case):
                    loss = network(input_values, labels=labels).loss
                loss.backward()
            # The next step, too, begins without gradients, so that they count to its memory.
            network.zero_grad()

        return train if case.step == "training" else infer

    def _network(self, case: Case) -> nn.Module:
        backend = case.contender if case.contender in OWN_BACKENDS else "torch"
        key = ("ast",) if case.contender == "ast" else (case.size, backend)
        key = (*key, case.step, case.device)
        if key not in self.networks:
            torch.manual_seed(0)
            network: nn.Module = build_ast_base() if case.contender == "ast" else build_lung_srad(case.size, backend)
            self.networks[key] = network.to(case.device).train(case.step == "training")
        return self.networks[key]


def reason_to_leave_out(case: Case) -> str | None:
    """Why a case cannot run here, or `None`."""
    if case.contender == "ast" and case.frames != CLIP_FRAMES:
        return f"AST-base takes {CLIP_FRAMES} frames only"
    if case.contender not in ("numba", "triton", "mamba_ssm"):
        return None
    if (case.device == "cpu") != (case.contender == "numba"):
        return "runs on a CPU only" if case.contender == "numba" else "runs on CUDA only"
    return reason_against(case.contender)


def _scan_of(case: Case) -> AbstractContextManager:
    scan = REPLACED_SCANS.get(case.contender)
    return nullcontext() if scan is None else replaced_scan(scan)


def _autocast(case: Case) -> AbstractContextManager:
    return torch.autocast(case.device, dtype=torch.bfloat16, enabled=case.device == "cuda")
