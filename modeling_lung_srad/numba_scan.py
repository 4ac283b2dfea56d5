"""Selective scan with state size 1 on a CPU, compiled by numba on its first use; see `selective_scan.py`.

The loops are in `numba_kernels.py`. Here is what is around them: the order of the traversals, step sizes by one matrix
product, pieces that stay in the cache, and the threads.

The OpenMP threads of torch wait for their next work by spinning, 20 ms on end. A pool beside them gets half a
processor on a busy machine. On Linux the code therefore runs on these same threads, by `GOMP_parallel` of the library
that torch uses; elsewhere on a pool.
"""

import ctypes
import functools
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from .numba_kernels import STEPS_KEPT, Sizes, compile_kernels
from .torch_scan import keep_memory

# Channels of a task: fewer cost more per position, more leave threads without a task.
WIDEST_BLOCK, NARROWEST_BLOCK = 96, 16
# Step sizes of all directions that are computed at once; 4 MB of float32, a multiple of `STEPS_KEPT` positions.
STEP_SIZES_AT_ONCE = 2**20

SCAN, SCAN_GRADIENTS = compile_kernels()

LN_2 = math.log(2)

_process = os.getpid()


def scan_1d(u, delta, A, B, C, D, delta_bias, delta_softplus) -> torch.Tensor:
    """[`selective_scan`] with `delta_softplus`; its arguments, already checked, in float32 or less."""
    groups, length = B.shape[1], u.shape[2]

    def by_position(x: torch.Tensor) -> torch.Tensor:
        return x.float().unflatten(1, (groups, -1)).flatten(0, 1).mT.contiguous()

    rates = A.float().view(1, groups, -1)
    bias = torch.zeros_like(rates) if delta_bias is None else delta_bias.float().view(1, groups, -1)
    weights = torch.stack((B, C), dim=-1).float().flatten(0, 1).movedim(1, 0)
    order = torch.arange(length, device="cpu").unsqueeze(0)
    y = _apply(by_position(u), by_position(delta).unsqueeze(0), None, weights, rates, bias, None, order, None)
    y = y.mT.unflatten(0, (-1, groups)).flatten(1, 2)
    return y if D is None else y + u * D.unsqueeze(-1)


def scan_2d(hidden_states, low_rank_delta, delta_weight, delta_bias, A, B, C, D) -> torch.Tensor:
    """[`selective_scan_2d`]; its arguments, already checked, in float32 or less."""
    batch, height, width, channels = hidden_states.shape
    u = hidden_states.float().contiguous().view(batch, height * width, channels)
    weights = torch.cat((low_rank_delta, B, C), dim=-1).float().flatten(2, 3)
    rates, bias, skip = A.float().transpose(1, 2), delta_bias.float().unsqueeze(1), D.float().sum(0)
    order, rows = traversals(height, width), _rows_by_step(batch, height, width)
    y = _apply(u, None, delta_weight.float(), weights, rates, bias, skip, order, rows)
    return y.view(hidden_states.shape)


@functools.lru_cache(maxsize=8)
def traversals(height: int, width: int) -> torch.Tensor:
    """Positions, row by row, in the order of the four scans: by rows, by columns, and both reversed."""
    with torch.inference_mode(False):
        positions = torch.arange(height * width, device="cpu").view(height, width)
        rows, columns = positions.flatten(), positions.mT.flatten()
        return torch.stack((rows, columns, rows.flip(0), columns.flip(0)))


@functools.lru_cache(maxsize=8)
def _rows_by_step(batch: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows of the maps `(4, batch, length, columns)` in the order of the steps of the four scans, and the inverse."""
    with torch.inference_mode(False):
        order = traversals(height, width).unsqueeze(1)
        starts = height * width * torch.arange(4 * batch, device="cpu").view(4, batch, 1)
        return (starts + order).flatten(), (starts + order.argsort()).flatten()


def _take_rows(x: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    return x.flatten(0, 2).index_select(0, rows).view(x.shape)


def _apply(u, delta, delta_weight, weights, rates, bias, skip, order, rows) -> torch.Tensor:
    arguments = u, delta, delta_weight, weights, rates, bias, skip
    needs_gradients = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in arguments)
    with torch.autocast("cpu", enabled=False):
        return _NumbaScan.apply(*arguments, order, rows, needs_gradients)


class _NumbaScan(torch.autograd.Function):
    """
    The scans of `u` `(batch, length, channels)` in all directions, summed, and `u` times `skip` `(channels,)`, if any.

    Step sizes are `delta` `(directions, batch, length, channels)` or, where that is None, the product of the first
    columns of `weights` `(directions, batch, length, columns)` with `delta_weight` `(directions, channels, rank)`.
    `rates` (that is A) and `bias` are `(directions, variants, channels)`. `weights` are by step or, with `rows` of
    [`_rows_by_step`], by position. Keeps the inputs and, if `needs_gradients`, every `STEPS_KEPT`-th state.
    """

    @staticmethod
    def forward(ctx, u, delta, delta_weight, weights, rates, bias, skip, order, rows, needs_gradients):
        if rows is not None:
            weights = _take_rows(weights, rows[0])
        ctx.rows = rows
        directions, batch, length, _ = weights.shape
        chunks = -(-length // STEPS_KEPT) if needs_gradients else 0
        kept = u.new_empty(directions, batch, chunks, u.shape[2])
        ctx.save_for_backward(u, delta, delta_weight, weights, rates, bias, skip, order, kept)
        return _forward(u, delta, delta_weight, weights, rates, bias, skip, order, kept)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        with torch.autocast("cpu", enabled=False):
            grads = _backward(grad_out.contiguous(), *ctx.saved_tensors)
        grad_u, grad_delta, grad_delta_weight, grad_weights, *others = grads
        if ctx.rows is not None:
            grad_weights = _take_rows(grad_weights, ctx.rows[1])
        return grad_u, grad_delta, grad_delta_weight, grad_weights, *others, None, None, None


def _forward(u, delta, delta_weight, weights, rates, bias, skip, order, kept) -> torch.Tensor:
    batch, _, channels = u.shape
    width, blocks = _divide(batch, channels)
    rates, bias = (rates / LN_2).contiguous(), (bias / LN_2).contiguous()
    out = _skipped(u, skip, width)
    states = u.new_zeros(blocks, batch, len(weights), width)
    for start, end in _pieces(weights, channels):
        steps = _step_sizes(delta, delta_weight, weights, start, end)
        _run(SCAN, (u, steps, weights, rates, bias, order, kept, states, out), width, start)
    return _join_blocks(out, channels)


def _backward(grad_out, u, delta, delta_weight, weights, rates, bias, skip, order, kept) -> tuple:
    batch, length, channels = u.shape
    directions = len(weights)
    width, blocks = _divide(batch, channels)
    scaled_rates, bias = (rates / LN_2).contiguous(), (bias / LN_2).contiguous()
    carry = u.new_zeros(blocks, batch, directions, width)
    grad_rates, grad_bias = torch.zeros_like(carry), torch.zeros_like(carry)
    grad_u = _skipped(grad_out, skip, width)
    grad_skip = None if skip is None else (grad_out * u).sum((0, 1))
    grad_BC = u.new_empty(blocks, directions, batch, length, 2)
    grad_weights = torch.empty_like(weights)
    grad_delta = None if delta is None else torch.empty_like(delta)
    grad_delta_weight = None if delta_weight is None else torch.zeros_like(delta_weight)
    scratch = u.new_empty(_threads(batch * blocks), STEPS_KEPT + 1, 4, width)
    for start, end in reversed(list(_pieces(weights, channels))):
        steps = _step_sizes(delta, delta_weight, weights, start, end)
        inputs = u, steps, weights, scaled_rates, bias, order, kept, grad_out
        _run(SCAN_GRADIENTS, (*inputs, carry, scratch, grad_u, steps, grad_BC, grad_rates, grad_bias), width, start)
        if grad_delta is not None:
            grad_delta[:, :, start:end] = steps
        if grad_delta_weight is not None:
            low_rank = weights[:, :, start:end, : delta_weight.shape[2]]
            grad_delta_weight.baddbmm_(steps.flatten(1, 2).mT, low_rank.flatten(1, 2))
            grad_weights[:, :, start:end, :-2] = (steps.flatten(1, 2) @ delta_weight).view(low_rank.shape)
    grad_weights[..., -2:] = grad_BC.sum(0)
    grad_u = _join_blocks(grad_u, channels)
    grad_rates, grad_bias = (
        _join_blocks(x, channels).unflatten(0, (-1, rates.shape[1])).sum(0).transpose(0, 1)
        for x in (grad_rates, grad_bias)
    )
    return grad_u, grad_delta, grad_delta_weight, grad_weights, grad_rates, grad_bias, grad_skip


def _divide(batch: int, channels: int) -> tuple[int, int]:
    """Channels of a block, and the number of blocks, so that there is a task for every thread where possible.

    A remainder of fewer channels than a vector has would take as long as a block.
    """
    wanted = min(-(-torch.get_num_threads() // batch), channels // NARROWEST_BLOCK)
    blocks = max(-(-channels // WIDEST_BLOCK), wanted)
    width = -(-channels // (blocks * NARROWEST_BLOCK)) * NARROWEST_BLOCK
    return width, -(-channels // width)


def _skipped(x: torch.Tensor, skip: torch.Tensor | None, width: int) -> torch.Tensor:
    """`x` `(batch, length, channels)` times `skip`, or zeros, as `(blocks, batch, length, width)`, in memory of this
    thread."""
    batch, length, channels = x.shape
    out = keep_memory("skipped", (-(-channels // width), batch, length, width), torch.float32)
    if skip is None:
        return out.zero_()
    if padding := -channels % width:
        x, skip = F.pad(x, (0, padding)), F.pad(skip, (0, padding))
    return torch.mul(x.unflatten(-1, (-1, width)).movedim(2, 0), skip.view(-1, 1, 1, width), out=out)


def _join_blocks(x: torch.Tensor, channels: int) -> torch.Tensor:
    """`(blocks, batch, length, width)` as `(batch, length, channels)` in memory of its own."""
    width, blocks = x.shape[-1], len(x)
    y = x.new_empty(*x.shape[1:3], blocks * width)
    y.unflatten(-1, (blocks, width)).copy_(x.movedim(0, 2))
    return y[..., :channels].contiguous()


def _pieces(weights: torch.Tensor, channels: int) -> Iterator[tuple[int, int]]:
    """First and last step of each piece."""
    directions, batch, length, _ = weights.shape
    steps = max(1, STEP_SIZES_AT_ONCE // (directions * batch * channels * STEPS_KEPT)) * STEPS_KEPT
    return ((start, min(start + steps, length)) for start in range(0, length, steps))


def _step_sizes(delta, delta_weight, weights, start: int, end: int) -> torch.Tensor:
    """Step sizes `(directions, batch, end - start, channels)` before bias and softplus, times log2(e), in memory of
    this thread."""
    directions, batch = weights.shape[:2]
    channels = delta.shape[3] if delta_weight is None else delta_weight.shape[1]
    steps = keep_memory("step sizes", (directions, batch, end - start, channels), torch.float32)
    if delta_weight is None:
        return torch.div(delta[:, :, start:end], LN_2, out=steps)
    low_rank = weights[:, :, start:end, : delta_weight.shape[2]].flatten(1, 2)
    torch.bmm(low_rank, delta_weight.mT / LN_2, out=steps.flatten(1, 2))
    return steps


def _run(kernel: Any, tensors: Sequence[torch.Tensor], width: int, start: int) -> None:
    """Runs a kernel over a block of channels of a sample at a time, on as many threads as torch uses."""
    u, steps, weights, rates, _, _, kept = tensors[:7]
    batch, length, channels = u.shape
    tasks = batch * -(-channels // width)
    sizes = Sizes(
        next_task=0,
        next_worker=0,
        tasks=tasks,
        width=width,
        start=start,
        directions=len(weights),
        batch=batch,
        length=length,
        channels=channels,
        columns=weights.shape[3],
        steps=steps.shape[2],
        variants=rates.shape[1],
        chunks=kept.shape[2],
    )
    numbers = *sizes, *(x.data_ptr() for x in tensors)
    run_on_threads(kernel.address, (ctypes.c_int64 * len(numbers))(*numbers), _threads(tasks), tensors)


def _threads(tasks: int) -> int:
    return min(torch.get_num_threads(), tasks)


def run_on_threads(address: int, call: ctypes.Array, threads: int, arrays: Sequence[torch.Tensor] = ()) -> None:
    """
    Runs the C function `void (int64_t *)` at an address on some threads at once, and returns when all have ended.

    The interpreter lock is not held meanwhile. Safe in several threads at once and in a forked process.

    Args:
        address (`int`): of the function, which shares its work out by itself, so that fewer calls will do.
        call (`ctypes.Array`): its argument.
        threads (`int`): how many at most; the calling one is among them.
        arrays (sequence of `torch.Tensor`, *optional*): what the function writes to, kept while a thread may do so.

    Raises:
        KeyboardInterrupt: where the process was interrupted meanwhile; by then, all threads have ended.
    """
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)
    parallel = _openmp_of_torch() if threads > 1 and os.getpid() == _process else None
    if threads <= 1:
        function(ctypes.addressof(call))
    elif parallel is not None:
        parallel(address, ctypes.addressof(call), threads, 0)
    else:
        _run_on_pool(functools.partial(_call, function, call, arrays), threads)


def _call(function: Callable[[int], None], call: ctypes.Array, arrays: Sequence[torch.Tensor]) -> None:
    """One of the calls; it holds what the function works on."""
    function(ctypes.addressof(call))


def _run_on_pool(work: Callable[[], None], threads: int) -> None:
    helpers: list[Future] = []
    try:
        try:
            for _ in range(threads - 1):
                helpers.append(_pool(os.getpid()).submit(work))
        except RuntimeError:  # The interpreter is shutting down, or the system gives no more threads.
            pass
        work()
    finally:
        _wait_for(helpers)


def _wait_for(helpers: Sequence[Future]) -> None:
    """An interruption has to wait as well: what the helpers write to is used again."""
    interruption = None
    for helper in helpers:
        # One that has not begun by now has nothing left to do.
        while not helper.cancel() and not helper.done():
            try:
                helper.exception()
            except KeyboardInterrupt as error:
                interruption = error
    if interruption is not None:
        raise interruption


@functools.lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    """The threads of this process: a forked one has none of its parent's."""
    return ThreadPoolExecutor(os.cpu_count(), "lung-srad-scan")


@functools.cache
def _openmp_of_torch() -> Callable[[int, int, int, int], None] | None:
    """`GOMP_parallel`, which runs a function on a team of threads, from the OpenMP library that torch is linked to.

    Another package, such as scikit-learn, may have loaded a second one with threads of its own.
    """
    if sys.platform != "linux":
        return None
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib/libtorch_cpu.so"), os.RTLD_NOLOAD)
        parallel = library.GOMP_parallel
    except (OSError, AttributeError):
        return None
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None
    return parallel
