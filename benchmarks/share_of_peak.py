"""Share of the machine's peak that the network reaches: matrix products, memory traffic, and the scan alone."""

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from benchmarks.cases import Case, Networks, reason_to_leave_out
from benchmarks.measure import median_seconds, time_once
from benchmarks.peers import replaced_scan
from benchmarks.sections import CUDA_BATCH
from modeling_lung_srad.selective_scan import selective_scan_2d

SCAN_REGION = "selective_scan_2d"
MATRIX_PRODUCTS = "matrix products"
DEPTHWISE = "depthwise convolutions"
ELEMENTWISE = "element by element, norms, copies"
PROFILED_PASSES = 3
COPY_ELEMENTS = 2**26
# Side of the square matrices whose product gives the peak.
SQUARE = {"cpu": 3072, "cuda": 8192}
# Height, width and channels of the map in the four stages, for one clip.
STAGE_MAPS = ((32, 256, 96), (16, 128, 192), (8, 64, 384), (4, 32, 768))
RANK = {96: 6, 192: 12, 384: 24, 768: 48}


@dataclass
class Work:
    """Work of one kind of operator in one pass."""

    seconds: float = 0.0
    bytes: int = 0
    flops: int = 0


def measure_peaks(device: str) -> dict[str, float]:
    """Bandwidth of a copy much larger than the caches (read and written bytes), and the best matrix product."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    source = torch.ones(COPY_ELEMENTS, device=device)
    target = torch.empty_like(source)
    bandwidth = 2 * source.nbytes / median_seconds(lambda: target.copy_(source))
    side = SQUARE[device]
    matrix = torch.randn(side, side, device=device, dtype=dtype)
    flops = 2 * side**3
    product = median_seconds(lambda: matrix @ matrix, 3)
    peaks = {"copy_bytes_per_second": bandwidth, "matmul_flops_per_second": flops / product}
    if device == "cpu":
        # oneDNN, to which torch gives convolutions, can be faster than the BLAS behind `@`.
        image, weight = matrix.view(1, 1, side, side).permute(0, 3, 1, 2), matrix[:, :, None, None]
        product = median_seconds(lambda: torch.conv2d(image, weight, dilation=2), 3)
        peaks["convolution_flops_per_second"] = flops / product
    return peaks


def measure_peak(device: str, threads: int) -> dict[str, Any]:
    """All figures of this file for the medium network, in the process that calls it."""
    torch.set_num_threads(threads)
    peaks = measure_peaks(device)
    backends = ["numba", "torch"] if device == "cpu" else ["triton", "mamba_ssm", "torch"]
    batch = 1 if device == "cpu" else CUDA_BATCH
    usable = [backend for backend in backends if reason_to_leave_out(Case(backend, device=device)) is None]
    return {
        "threads": threads,
        "peaks": peaks,
        "shares": measure_shares(Case(usable[0], batch=batch, device=device)),
        "scans": measure_scans(device, batch, backends),
    }


def measure_shares(case: Case) -> dict[str, Any]:
    """
    Time of one forward pass by kind of operator, and the rate that each reaches.

    Times are those of `torch.profiler`, summed over the outermost operators; bytes and floating point operations are
    counted from the tensors that go into and come out of each, in a pass of their own.
    """
    step = Networks().build_step(case)
    step()
    counter = count_work(step)
    plain = statistics.median(time_once(step) for _ in range(5))
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if case.device == "cuda" else [])]
    with replaced_scan(_scan_in_region), profile(activities=activities) as profiler:
        profiled = sum(time_once(step) for _ in range(PROFILED_PASSES))
    scan = 0.0
    # The profiler can tell shapes, but is then half as slow again: operators are matched in their order instead.
    kinds = {name: itertools.cycle(in_order) for name, in_order in counter.kinds.items()}
    for event in sorted(profiler.events() or [], key=lambda event: event.time_range.start):
        # Microseconds, of the operator itself or of the kernels that it started.
        duration = event.device_time_total if case.device == "cuda" else event.cpu_time_total
        seconds = duration / 1e6 / PROFILED_PASSES
        if event.device_type != DeviceType.CPU:
            continue
        if event.name == SCAN_REGION:
            scan += seconds
        elif event.name in kinds and not _has_ancestor(event, kinds):
            counter.work[next(kinds[event.name])].seconds += seconds
    return {
        "size": case.size,
        "batch": case.batch,
        "seconds": plain,
        "profiled_seconds": profiled / PROFILED_PASSES,
        "scan_seconds": scan,
        "kinds": {kind: vars(work) for kind, work in counter.work.items()},
    }


def count_work(step: Callable[[], object]) -> "WorkCounter":
    """Bytes and floating point operations of a step, by kind of operator."""
    with WorkCounter() as counter:
        step()
    return counter


def measure_scans(device: str, batch: int, backends: list[str]) -> list[dict[str, Any]]:
    """
    The scan alone on the maps of the four stages, forward and with its backward pass.

    Its bytes are the least that it could move: inputs read once, the result written once; backward, inputs and the
    gradient of the result read once, gradients of the inputs written once.
    """
    rows: list[dict[str, Any]] = []
    for stage, (height, width, channels) in enumerate(STAGE_MAPS):
        inputs = _scan_inputs(batch, height, width, channels, device)
        for backend in backends:
            row = {"stage": stage, "map": [batch, height, width, channels], "backend": backend}
            if reason := reason_to_leave_out(Case(backend, device=device)):
                rows.append(row | {"left_out": reason})
                continue
            y = selective_scan_2d(**inputs, backend=backend)
            grad_y, tensors = torch.ones_like(y), list(inputs.values())

            def forward(inputs=inputs, backend=backend) -> None:
                with torch.inference_mode():
                    selective_scan_2d(**inputs, backend=backend)

            def forward_and_backward(inputs=inputs, backend=backend, grad_y=grad_y, tensors=tensors) -> None:
                torch.autograd.grad(selective_scan_2d(**inputs, backend=backend), tensors, grad_y)

            read = sum(tensor.nbytes for tensor in tensors)
            rows.append(
                row
                | {"forward_seconds": median_seconds(forward), "forward_bytes": read + y.nbytes}
                | {"training_seconds": median_seconds(forward_and_backward)}
                | {"training_bytes": 3 * read + 2 * y.nbytes}
            )
    return rows


def _scan_inputs(batch: int, height: int, width: int, channels: int, device: str) -> dict[str, torch.Tensor]:
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    grid = (batch, height, width)
    inputs = {
        "hidden_states": torch.randn(*grid, channels, device=device, dtype=dtype),
        "low_rank_delta": torch.randn(4, *grid, RANK[channels], device=device, dtype=dtype),
        "delta_weight": torch.randn(4, channels, RANK[channels], device=device) * RANK[channels] ** -0.5,
        "delta_bias": torch.full((4, channels), -4.0, device=device),
        "A": -torch.ones(4, channels, 1, device=device),
        "B": torch.randn(4, *grid, 1, device=device, dtype=dtype),
        "C": torch.randn(4, *grid, 1, device=device, dtype=dtype),
        "D": torch.ones(4, channels, device=device),
    }
    return {name: tensor.requires_grad_() for name, tensor in inputs.items()}


def _scan_in_region(*arguments, **keywords) -> torch.Tensor:
    with record_function(SCAN_REGION):
        return selective_scan_2d(*arguments, **keywords)


class WorkCounter(TorchDispatchMode):
    """Counts bytes and floating point operations of the operators that torch dispatches."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: dict[str, list[str]] = defaultdict(list)
        self.work: dict[str, Work] = defaultdict(Work)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with self:
            # Composite operators arrive whole in inference mode.
            result = func.decompose(*args, **kwargs)
        if result is not NotImplemented:
            return result
        result = func(*args, **kwargs)
        name = f"aten::{func.overloadpacket.__name__}"
        if func.is_view or "empty" in name:
            return result
        kind = _kind(name, [list(x.shape) for x in args if isinstance(x, torch.Tensor)])
        self.kinds[name].append(kind)
        work = self.work[kind]
        # A tensor that is only written counts once, as the result.
        read = args[1:] if name in ("aten::copy_", "aten::fill_", "aten::zero_") else args
        read = (read, {key: value for key, value in kwargs.items() if key != "out"})
        work.bytes += sum(_stored_bytes(x) for x in tree_leaves((read, result)) if isinstance(x, torch.Tensor))
        if (count := flop_registry.get(func.overloadpacket)) is not None:
            work.flops += count(*args, **kwargs, out_val=result)
        return result


def _stored_bytes(tensor: torch.Tensor) -> int:
    """Size without the copies that `expand` pretends there are."""
    sizes = [size for size, stride in zip(tensor.shape, tensor.stride(), strict=True) if stride]
    return math.prod(sizes) * tensor.element_size()


def _kind(name: str, shapes: list[list[int]]) -> str:
    if name in ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm"):
        return MATRIX_PRODUCTS
    if name == "aten::convolution":
        return MATRIX_PRODUCTS if shapes[0][1] == shapes[1][1] else DEPTHWISE
    return ELEMENTWISE


def _has_ancestor(event: FunctionEvent, names: Container[str]) -> bool:
    parent = event.cpu_parent
    while parent is not None:
        if parent.name in names:
            return True
        parent = parent.cpu_parent
    return False
