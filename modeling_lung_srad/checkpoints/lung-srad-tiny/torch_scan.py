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
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

STEPS = 16
# Of a float32 tensor, so that a few of that size stay in the cache while the operations of a scan pass over them.
ELEMENTS_AT_ONCE = 2**20
_kept = threading.local()

# Which samples, and which columns in the order of each scan.
Piece = tuple[slice, slice]
BothWays = tuple[torch.Tensor, torch.Tensor]


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
    # The bias is the weight of one more input, which is always 1: that saves an addition to four maps. The input and
    # output weights have none: that saves to copy the other inputs out from beside them.
    projected = torch.cat((low_rank_delta, torch.ones_like(B[..., :1]), B, C), dim=-1)
    no_weight = torch.zeros_like(delta_bias).unsqueeze(-1).expand(-1, -1, 2 * B.shape[-1])
    delta_weight = torch.cat((delta_weight, delta_bias.unsqueeze(-1), no_weight), dim=-1)
    with _no_autocast(hidden_states):
        return _SelectiveScan2d.apply(
            *(x.to(dtype) for x in (hidden_states.contiguous(), projected, delta_weight, A, D))
        )


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
        step = _softplus(delta.clone()) if delta_softplus else delta.clone()
        exponent, drive = _discretize(u * step, step, A, B)
        states, starts, _ = _scan(exponent, drive, _no_state(u, A))
        y = _sum_states(states, C)
        ctx.save_for_backward(u, delta, A, B, C, starts)
        ctx.delta_softplus = delta_softplus
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y):
        u, delta, A, B, C, starts = ctx.saved_tensors
        with _no_autocast(grad_y):
            grads, _ = _scan_gradients(grad_y, u, delta, A, B, C, starts, _no_state(u, A), ctx.delta_softplus)
        return *grads, None


class _SelectiveScan2d(torch.autograd.Function):
    """The four scans of a map, in pieces that stay in the cache. Keeps the map, but none of its traversals.

    `projected` holds what differs from position to position: low rank step sizes, 1, input and output weights.
    """

    @staticmethod
    def forward(ctx, hidden_states, projected, weight, A, D):
        arguments = hidden_states, projected, weight, A, D
        on_cpu = hidden_states.device.type == "cpu" and not torch.compiler.is_compiling()
        merged, starts = _scan_map(*arguments, _softplus_up_to_88 if on_cpu else _softplus)
        if on_cpu and not merged.sum().isfinite():  # Step sizes that large are rare enough to do all again.
            merged, starts = _scan_map(*arguments, _softplus)
        ctx.save_for_backward(hidden_states, projected, weight, A, D, *starts)
        return merged

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_merged):
        with _no_autocast(grad_merged):
            return _scan_map_gradients(grad_merged.contiguous(), *ctx.saved_tensors)


def _scan_map(hidden_states, projected, weight, A, D, softplus):
    """The sum of the four scans and, for each piece, the states before its blocks."""
    maps, projections = _both_ways(hidden_states), _both_ways(projected)
    merged = hidden_states * D.sum(0), torch.zeros_like(hidden_states)
    starts = []
    for piece in _pieces(hidden_states):
        inputs = _traverse(projections, piece)
        B, C = inputs[..., -2 * A.shape[2] :].chunk(2, dim=-1)
        step = softplus(_project(inputs, weight, buffer="step"))
        if piece[1].start == 0:
            state = _no_state(step, A)
        exponent, drive = _discretize(_drive(maps, step, piece), step, A, B)
        states, start, state = _scan(exponent, drive, state)
        _add_outputs(merged, states, C, piece)
        starts.append(start)
    return _one_way(merged), starts


def _scan_map_gradients(grad_merged, hidden_states, projected, weight, A, D, *starts):
    """Gradients of the arguments of [`_scan_map`], given that of the sum and the states before the blocks."""
    maps, projections, grad_outputs = (_both_ways(x) for x in (hidden_states, projected, grad_merged))
    grad_maps = grad_merged * D.sum(0), torch.zeros_like(grad_merged)
    grad_projections = torch.zeros_like(projections[0]), torch.zeros_like(projections[1])
    grad_weight, grad_A = torch.zeros_like(weight), torch.zeros_like(A)
    for piece, start in reversed(list(zip(_pieces(hidden_states), starts, strict=True))):
        u, inputs, grad_y = (_traverse(x, piece) for x in (maps, projections, grad_outputs))
        B, C = inputs[..., -2 * A.shape[2] :].chunk(2, dim=-1)
        if piece[1].stop == hidden_states.shape[2]:
            grad_state = _no_state(u, A)
        grads, grad_state = _scan_gradients(grad_y, u, _project(inputs, weight), A, B, C, start, grad_state)
        grad_u, grad_delta, grad_A_piece, grad_B, grad_C = grads
        grad_A += grad_A_piece
        grad_weight += grad_delta.flatten(1, 3).mT @ inputs.flatten(1, 3)
        grad_inputs = _project(grad_delta, weight.mT)
        grad_inputs[..., -2 * A.shape[2] :] = torch.cat((grad_B, grad_C), dim=-1)
        for totals, grad in ((grad_maps, grad_u), (grad_projections, grad_inputs)):
            for total, part in zip(_views(totals, piece), _parts(grad, piece), strict=True):
                total.add_(part)
    grad_D = (grad_merged * hidden_states).sum((0, 1, 2)).expand_as(D)
    return _one_way(grad_maps), _one_way(grad_projections), grad_weight, grad_A, grad_D


def _pieces(hidden_states: torch.Tensor) -> list[Piece]:
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


def _both_ways(x: torch.Tensor) -> BothWays:
    """A map `(batch, height, width, channels)` as it lies and rotated by half a turn; or two of four maps each way.

    The reversed scans, 2 and 3, read the rows and columns of what is rotated as 0 and 1 read those of what is not.
    """
    forwards, backwards = x.chunk(2) if x.ndim == 5 else (x, x)
    return forwards, backwards.flip(-3, -2)


def _one_way(both: BothWays) -> torch.Tensor:
    """The inverse of [`_both_ways`], where that of a map is the sum, in the memory of the first."""
    forwards, backwards = both[0], both[1].flip(-3, -2)
    return torch.cat((forwards, backwards)) if forwards.ndim == 5 else forwards.add_(backwards)


def _views(both: BothWays, piece: Piece) -> list[torch.Tensor]:
    """Per scan, a piece of what [`_both_ways`] gave, as `(steps, batch, columns, parts, channels)`.

    A column is cut into parts, which are the blocks. A row-major sequence is cut into the same number of blocks of
    that length, which go on in the next row.
    """
    samples, columns = piece
    height, width, channels = both[0].shape[-3:]
    steps = next(steps for steps in range(min(STEPS, height), height + 1) if height % steps == 0)
    views = []
    for maps in both:
        maps = _narrow(maps, -4, samples)
        by_rows, by_columns = maps if maps.ndim == 5 else (maps, maps)
        batch = by_rows.shape[0]
        by_rows = by_rows.view(batch, width, -1, steps, channels).permute(3, 0, 1, 2, 4)
        by_columns = by_columns.view(batch, -1, steps, width, channels).permute(2, 0, 3, 1, 4)
        views += [_narrow(by_rows, 2, columns), _narrow(by_columns, 2, columns)]
    return views


def _narrow(x: torch.Tensor, dim: int, part: slice) -> torch.Tensor:
    """The slice, which costs as much as a small operation, where it is not the whole."""
    is_whole = part == slice(None) or (part.start == 0 and part.stop >= x.shape[dim])
    return x if is_whole else x.narrow(dim, part.start, min(part.stop, x.shape[dim]) - part.start)


def _parts(by_step: torch.Tensor, piece: Piece) -> Iterator[torch.Tensor]:
    """Per scan, the part of a tensor by step that belongs to the one of [`_views`]."""
    return iter(by_step.unflatten(3, (piece[1].stop - piece[1].start, -1)))


def _traverse(both: BothWays, piece: Piece) -> torch.Tensor:
    """A piece of what [`_both_ways`] gave, by step."""
    return torch.stack(_views(both, piece)).flatten(3, 4)


def _drive(maps: BothWays, step: torch.Tensor, piece: Piece) -> torch.Tensor:
    """The product of maps and step sizes, by step."""
    if torch.compiler.is_compiling():
        return _traverse(maps, piece) * step
    driven = _keep("driven", step.shape, step)
    for view, factor, product in zip(_views(maps, piece), _parts(step, piece), _parts(driven, piece), strict=True):
        torch.mul(view, factor, out=product)
    return driven


def _add_outputs(merged: BothWays, states: torch.Tensor, weights: torch.Tensor, piece: Piece) -> None:
    """Adds the sums over the states with weights `(..., states)` where they belong."""
    if weights.shape[-1] > 1:
        states, weights = _sum_states(states, weights).unsqueeze(-1), torch.ones_like(weights[..., :1])
    parts = _parts(states.squeeze(-1), piece), _parts(weights, piece)
    for view, states_here, weights_here in zip(_views(merged, piece), *parts, strict=True):
        view.addcmul_(states_here, weights_here)


def _project(x: torch.Tensor, weight: torch.Tensor, buffer: str | None = None) -> torch.Tensor:
    """Applies a weight `(scans, out, in)` to the channels of a tensor by step."""
    rows = x.flatten(1, 3)
    output = None
    if buffer is not None and not torch.compiler.is_compiling():
        output = _keep(buffer, (*rows.shape[:2], weight.shape[1]), x)
    return torch.matmul(rows, weight.mT, out=output).unflatten(1, x.shape[1:4])


def _keep(buffer: str, shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    """Memory for a tensor that a scan needs only while it runs; on a CPU the next scan has that of this name again.

    To get memory from the system each time costs more than all that is computed with it.
    """
    if like.device.type != "cpu":
        return like.new_empty(shape)
    size = math.prod(shape)
    memory = _kept.__dict__.get(buffer)
    if memory is None or memory.dtype != like.dtype or memory.numel() < size:
        with torch.inference_mode(False):
            memory = _kept.__dict__[buffer] = torch.empty(max(size, ELEMENTS_AT_ONCE), dtype=like.dtype)
    return memory[:size].view(shape)


def _no_state(u: torch.Tensor, A: torch.Tensor) -> torch.Tensor:
    """The state `(scans, batch, channels, states)` before the first position, of `u` by step."""
    return A.new_zeros(u.shape[0], u.shape[2], *A.shape[1:])


def _softplus(x: torch.Tensor) -> torch.Tensor:
    """In the memory of `x`, unless it is to become part of a graph."""
    # The stub leaves `out` away.
    return F.softplus(x) if torch.compiler.is_compiling() else F.softplus(x, out=x)  # type: ignore[call-arg]


def _softplus_up_to_88(x: torch.Tensor) -> torch.Tensor:
    """In the memory of `x`, and faster on a CPU; above, where the exponential is infinite, so is this."""
    return x.exp_().log1p_()


def _discretize(driven, step, A, B):
    """Binary logarithms of the decays, which overwrite `step`, and what enters the states, which overwrites `driven`,
    the product of inputs and step sizes."""
    drive = _times(driven.unsqueeze(-1), B.unsqueeze(-2))
    # exp2 is several times faster than exp where torch takes exp from MKL.
    return _times(step.unsqueeze(-1), (A / math.log(2))[:, None, None, None]), drive


def _times(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The product, in the memory of `x` where it has the same shape: fresh memory costs more than the product."""
    return x.mul_(weights) if weights.shape[-1] == 1 else x * weights


def _scan(exponent, drive, state):
    """From the state before: states by step, states before each block, and the state after.

    Overwrites its arguments, unless they are to become part of a graph.
    """
    in_graph = torch.compiler.is_compiling()
    totals = exponent.sum(1)
    decays, drives = exponent.exp2_().unbind(1), drive.unbind(1)
    starts = state.unsqueeze(2)
    if drive.shape[3] > 1:
        starts = _chain(totals, _end(decays, drives), state)
    states = _run(decays, drives, starts, in_place=not in_graph)
    after = states[-1][:, :, -1].clone()
    return torch.stack(states, 1) if in_graph else drive, starts, after


def _scan_gradients(grad_y, u, delta, A, B, C, starts, grad_state, delta_softplus=True):
    """Gradients of `u`, `delta`, `A`, `B`, `C` and of the state before, given that of the state after.

    The gradient of the states is `g_t = C_t grad_t + decay_{t+1} g_{t+1}`.
    """
    step = F.softplus(delta) if delta_softplus else delta
    exponent, drive = _discretize(u * step, step.clone(), A, B)
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
