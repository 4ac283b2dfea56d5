"""Selective scan in plain torch, on any device; see `selective_scan.py`.

Source: Mamba (arXiv 2312.00752, equation 2 with the discretisation of `selective_scan_fn`), and the four traversals of
VMamba (arXiv 2401.10166, section 4.2). A sequence is cut into blocks, and the recurrence runs through all blocks at
once: first from zero to the end state of each block, then, when these and the total decays have been chained, again
from the true start of each block. There is no division, so nothing under- or overflows.

Layout: tensors called "by step" have shape `(scans, steps, batch, blocks, channels)`, where element `(k, i, b, j)` is
number `j * steps + i` of sequence `b` of scan `k`, so that one step of all blocks is one piece of memory.
"""

import math
import threading

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

STEPS = 8
# Of a float32 tensor, so that a few of that size stay in the cache while the operations of a scan pass over them.
ELEMENTS_AT_ONCE = 2**20
_kept = threading.local()


def scan_1d(u, delta, A, B, C, D, delta_bias, delta_softplus) -> torch.Tensor:
    """[`selective_scan`]; its arguments, already checked and not empty. Computes in at least float32."""
    dtype = dtype_of_scan(u, delta)
    groups, length = B.shape[1], u.shape[2]
    steps = min(STEPS, length)

    def by_step(x: torch.Tensor) -> torch.Tensor:
        # A zero input adds nothing to the state, and the outputs of the padding are cut off.
        x = F.pad(x.to(dtype), (0, -length % steps)).unflatten(-1, (-1, steps))
        return x.permute(1, 4, 0, 3, 2).contiguous()

    if delta_bias is not None:
        delta = delta + delta_bias.unsqueeze(-1)
    with _no_autocast(u):
        y = _SelectiveScan.apply(
            by_step(u.unflatten(1, (groups, -1))),
            by_step(delta.unflatten(1, (groups, -1))),
            A.to(dtype).unflatten(0, (groups, -1)),
            by_step(B),
            by_step(C),
            delta_softplus,
        )
    y = y.permute(2, 0, 4, 3, 1).flatten(3)[..., :length].flatten(1, 2)
    if D is not None:
        y = y + u * D.unsqueeze(-1)
    return y


def scan_2d(hidden_states, low_rank_delta, delta_weight, delta_bias, A, B, C, D) -> torch.Tensor:
    """[`selective_scan_2d`]; its arguments. Computes in at least float32, which is also that of the result."""
    dtype = dtype_of_scan(hidden_states, low_rank_delta)
    # The bias is the weight of one more input, which is always 1: that saves an addition to four maps.
    projected = torch.cat((low_rank_delta, torch.ones_like(B[..., :1]), B, C), dim=-1)
    delta_weight = torch.cat((delta_weight, delta_bias.unsqueeze(-1)), dim=-1)
    with _no_autocast(hidden_states):
        return _SelectiveScan2d.apply(*(x.to(dtype) for x in (hidden_states, projected, delta_weight, A, D)))


def _no_autocast(u: torch.Tensor) -> torch.autocast:
    device_type = u.device.type
    # Such as "meta", for which the context is an error.
    if not torch.amp.is_autocast_available(device_type):
        device_type = "cpu"
    return torch.autocast(device_type, enabled=False)


def dtype_of_scan(u: torch.Tensor, delta: torch.Tensor) -> torch.dtype:
    """What a scan of these is computed in: at least float32."""
    return torch.promote_types(torch.promote_types(u.dtype, delta.dtype), torch.float32)


class _SelectiveScan(torch.autograd.Function):
    """Scans of tensors by step. Keeps the inputs and the start of each block; the rest is computed again."""

    @staticmethod
    def forward(ctx, u, delta, A, B, C, delta_softplus):
        y, starts, _ = _scan(u.clone(), delta.clone(), A, B, C, _no_state(u, A), delta_softplus)
        ctx.save_for_backward(u, delta, A, B, C, starts)
        ctx.delta_softplus = delta_softplus
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y):
        u, delta, A, B, C, starts = ctx.saved_tensors
        grads, _ = _scan_gradients(grad_y, u, delta, A, B, C, starts, _no_state(u, A), ctx.delta_softplus)
        return *grads, None


class _SelectiveScan2d(torch.autograd.Function):
    """The four scans of a map, in pieces that stay in the cache. Keeps the map, but none of its traversals.

    `projected` holds what differs from position to position: low rank step sizes, 1, input and output weights.
    """

    @staticmethod
    def forward(ctx, hidden_states, projected, weight, A, D):
        sizes = [weight.shape[2], A.shape[2], A.shape[2]]
        merged = hidden_states * D.sum(0)
        starts = []
        for piece in _pieces(hidden_states):
            u = _traverse(hidden_states, *piece, buffer="u")
            low_rank, B, C = _traverse(projected, *piece).split(sizes, dim=-1)
            if piece[1].start == 0:
                state = _no_state(u, A)
            y, start, state = _scan(u, _project(low_rank, weight, buffer="delta"), A, B, C, state)
            _add_back(merged, y, *piece)
            starts.append(start)
        ctx.save_for_backward(hidden_states, projected, weight, A, D, *starts)
        return merged

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_merged):
        hidden_states, projected, weight, A, D, *starts = ctx.saved_tensors
        sizes = [weight.shape[2], A.shape[2], A.shape[2]]
        grad_merged = grad_merged.contiguous()
        grad_map = grad_merged * D.sum(0)
        grad_projected, grad_weight, grad_A = (torch.zeros_like(x) for x in (projected, weight, A))
        for piece, start in reversed(list(zip(_pieces(hidden_states), starts, strict=True))):
            u = _traverse(hidden_states, *piece)
            low_rank, B, C = _traverse(projected, *piece).split(sizes, dim=-1)
            if piece[1].stop == hidden_states.shape[2]:
                grad_state = _no_state(u, A)
            grads, grad_state = _scan_gradients(
                _traverse(grad_merged, *piece), u, _project(low_rank, weight), A, B, C, start, grad_state
            )
            grad_u, grad_delta, grad_A_piece, grad_B, grad_C = grads
            grad_A += grad_A_piece
            grad_weight += grad_delta.flatten(1, 3).mT @ low_rank.flatten(1, 3)
            _add_back(grad_map, grad_u, *piece)
            _add_back(grad_projected, torch.cat((_project(grad_delta, weight.mT), grad_B, grad_C), dim=-1), *piece)
        grad_D = (grad_merged * hidden_states).sum((0, 1, 2)).expand_as(D)
        return grad_map, grad_projected, grad_weight, grad_A, grad_D


def _pieces(hidden_states: torch.Tensor) -> list[tuple[slice, slice]]:
    """Which samples and which columns to run at once, in order; a graph, and any other device, gets all."""
    batch, height, width, channels = hidden_states.shape
    if hidden_states.device.type != "cpu" or torch.compiler.is_compiling():
        return [(slice(None), slice(0, width))]
    columns_at_once = max(1, ELEMENTS_AT_ONCE // (4 * height * channels))
    segments = -(-width // columns_at_once)
    columns = -(-width // segments)
    samples = max(1, columns_at_once // width)
    return [
        (slice(sample, sample + samples), slice(column, min(column + columns, width)))
        for sample in range(0, batch, samples)
        for column in range(0, width, columns)
    ]


def _view_by_step(x: torch.Tensor, scan: int, columns: slice) -> torch.Tensor:
    """Some blocks of a map `(batch, height, width, channels)` as `(steps, batch, columns, parts, channels)`.

    Scans 0 and 2 read rows, 1 and 3 columns. A column is cut into parts, which are the blocks; a row-major sequence is
    cut into the same number of blocks of that length, which go on in the next row. Columns are counted in the order of
    the scan, all else in that of the map.
    """
    height, width = x.shape[1:3]
    steps = next(steps for steps in range(min(STEPS, height), height + 1) if height % steps == 0)
    if scan >= 2:
        columns = slice(width - columns.stop, width - columns.start)
    if scan % 2:
        return x.unflatten(1, (-1, steps)).permute(2, 0, 3, 1, 4)[:, :, columns]
    return x.flatten(1, 2).unflatten(1, (width, -1, steps)).permute(3, 0, 1, 2, 4)[:, :, columns]


def _traverse(x: torch.Tensor, samples: slice, columns: slice, buffer: str | None = None) -> torch.Tensor:
    """A piece of a map, or of a map per scan, by step, each in the order of its scan."""
    sequences = []
    for scan in range(4):
        sequence = _view_by_step(x[samples] if x.ndim == 4 else x[scan, samples], scan, columns)
        sequences.append(sequence.flip(0, 2, 3) if scan >= 2 else sequence)
    return torch.stack(sequences, out=_keep(buffer, (4, *sequences[0].shape), x)).flatten(3, 4)


def _add_back(total: torch.Tensor, by_step: torch.Tensor, samples: slice, columns: slice) -> None:
    """Adds tensors by step to a contiguous map, or to a map per scan: the inverse of `_traverse`."""
    for scan, sequence in enumerate(by_step):
        part = _view_by_step(total[samples] if total.ndim == 4 else total[scan, samples], scan, columns)
        sequence = sequence.unflatten(2, part.shape[2:4])
        part.add_(sequence.flip(0, 2, 3) if scan >= 2 else sequence)


def _project(x: torch.Tensor, weight: torch.Tensor, buffer: str | None = None) -> torch.Tensor:
    """Applies a weight `(scans, out, in)` to the channels of a tensor by step."""
    rows = x.contiguous().flatten(1, 3)
    output = _keep(buffer, (*rows.shape[:2], weight.shape[1]), x)
    return torch.matmul(rows, weight.mT, out=output).unflatten(1, x.shape[1:4])


def _keep(buffer: str | None, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor | None:
    """On a CPU, memory of this name for a tensor that a scan needs only while it runs; the next scan has it again.

    To get memory from the system each time costs more than all that is computed with it.
    """
    if buffer is None or like.device.type != "cpu" or torch.compiler.is_compiling():
        return None
    size = math.prod(shape)
    memory = _kept.__dict__.get(buffer)
    if memory is None or memory.dtype != like.dtype or memory.numel() < size:
        with torch.inference_mode(False):
            memory = _kept.__dict__[buffer] = torch.empty(max(size, ELEMENTS_AT_ONCE), dtype=like.dtype)
    return memory[:size].view(shape)


def _no_state(u: torch.Tensor, A: torch.Tensor) -> torch.Tensor:
    """The state `(scans, batch, channels, states)` before the first position, of `u` by step."""
    return A.new_zeros(u.shape[0], u.shape[2], *A.shape[1:])


def _discretize(u, step, A, B):
    """Binary logarithms of the decays, which overwrite `step`, and what enters the states, which overwrites `u`."""
    drive = _times(u.mul_(step).unsqueeze(-1), B.unsqueeze(-2))
    # exp2 is several times faster than exp where torch takes exp from MKL.
    return _times(step.unsqueeze(-1), (A / math.log(2))[:, None, None, None]), drive


def _times(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The product, in the memory of `x` where it has the same shape: fresh memory costs more than the product."""
    return x.mul_(weights) if weights.shape[-1] == 1 else x * weights


def _scan(u, delta, A, B, C, state, delta_softplus=True):
    """From the state before: outputs by step without skip, states before each block, and the state after.

    Overwrites `u` and `delta`, unless it is to become part of a graph.
    """
    in_graph = torch.compiler.is_compiling()
    # The stub of softplus leaves `out` away.
    step = F.softplus(delta, out=None if in_graph else delta) if delta_softplus else delta  # type: ignore[call-arg]
    exponent, drive = _discretize(u, step, A, B)
    totals = exponent.sum(1)
    decays, drives = exponent.exp2_().unbind(1), drive.unbind(1)
    starts = state.unsqueeze(2)
    if u.shape[3] > 1:
        starts = _chain(totals, _end(decays, drives), state)
    states = _run(decays, drives, starts, in_place=not in_graph)
    after = states[-1][:, :, -1].clone()
    return _sum_states(torch.stack(states, 1) if in_graph else drive, C), starts, after


def _scan_gradients(grad_y, u, delta, A, B, C, starts, grad_state, delta_softplus=True):
    """Gradients of `u`, `delta`, `A`, `B`, `C` and of the state before, given that of the state after.

    The gradient of the states is `g_t = C_t grad_t + decay_{t+1} g_{t+1}`.
    """
    step = F.softplus(delta) if delta_softplus else delta
    exponent, drive = _discretize(u.clone(), step.clone(), A, B)
    totals, decay = exponent.sum(1), exponent.exp2_()
    decays = decay.unbind(1)
    states = _run(decays, drive.unbind(1), starts)
    grad_C = _sum_channels(torch.stack(states, 1), grad_y)

    backwards = (grad_y.unsqueeze(-1) * C.unsqueeze(-2)).unbind(1)[::-1]
    entering = grad_state.unsqueeze(2)
    if u.shape[3] > 1:
        leaving = _end([decays[0], *decays[:0:-1]], backwards) * decays[0]
        entering = _chain(totals.flip(2), leaving.flip(2), grad_state).flip(2)
    last = backwards[0] + entering
    grads = [last, *_run(decays[:0:-1], backwards[1:], last)][::-1]
    grad_state = (grads[0] * decays[0])[:, :, 0]
    grad_states = torch.stack(grads, 1)

    grad_exponent = torch.stack([starts, *states[:-1]], 1).mul_(decay).mul_(grad_states)
    grad_A = (grad_exponent * step.unsqueeze(-1)).sum((1, 2, 3))
    grad_B = _sum_channels(grad_states, step * u)
    grad_driven = _sum_states(grad_states, B)
    grad_delta = torch.addcmul((grad_exponent * A[:, None, None, None]).sum(-1), grad_driven, u)
    if delta_softplus:
        grad_delta.mul_(torch.sigmoid(delta))
    return (grad_driven.mul_(step), grad_delta, grad_A, grad_B, grad_C), grad_state


def _run(decays, drives, state: torch.Tensor, in_place: bool = False) -> list[torch.Tensor]:
    """All `h_t = decay_t h_{t-1} + drive_t`, from the state before the first; in place, they overwrite the drives."""
    states = []
    for decay, drive in zip(decays, drives, strict=True):
        state = torch.addcmul(drive, decay, state, out=drive if in_place else None)
        states.append(state)
    return states


def _end(decays, drives) -> torch.Tensor:
    """The last `h_t` of [`_run`] from zero, in the memory of a step: what stays in the cache is fast."""
    state = drives[0]
    for decay, drive in zip(decays[1:], drives[1:], strict=True):
        state = torch.addcmul(drive, decay, state)
    return state


def _chain(exponents: torch.Tensor, ends: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    """State before each of `(scans, batch, blocks, channels, states)`, from the state before the first.

    The blocks are given by their total decays, as binary logarithms, and their end states from zero.
    """
    blocks = ends.shape[2]
    groups = 1 if blocks <= STEPS else math.isqrt(blocks - 1) + 1
    steps = -(-blocks // groups)
    if padding := groups * steps - blocks:
        exponents, ends = (F.pad(x, (0, 0, 0, 0, 0, padding)) for x in (exponents, ends))
    exponents, ends = (x.unflatten(2, (groups, steps)) for x in (exponents, ends))
    decays, drives = torch.exp2(exponents).unbind(3), ends.unbind(3)
    starts = state.unsqueeze(2)
    if groups > 1:
        starts = _chain(exponents.sum(3), _end(decays, drives), state)
    states = [starts, *_run(decays[:-1], drives[:-1], starts)]
    return torch.stack(states, 3).flatten(2, 3)[:, :, :blocks]


def _sum_states(states: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sums `(..., channels, states)` over the states with weights `(..., states)`."""
    if weights.shape[-1] == 1:
        return states.squeeze(-1).mul_(weights)
    return (states @ weights.unsqueeze(-1)).squeeze(-1)


def _sum_channels(states: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sums `(..., channels, states)` over the channels with weights `(..., channels)`."""
    return (weights.unsqueeze(-2) @ states).squeeze(-2)
