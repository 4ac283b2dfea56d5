"""Selective scan in plain torch operations, on any device; see `selective_scan.py`.

Source: Mamba (arXiv 2312.00752, equation 2 with the discretisation of `selective_scan_fn`), and the four traversals of
VMamba (arXiv 2401.10166, section 4.2).

**Traversals.** Four scans read the positions of a map in these orders (here height 2, width 3):

    0, by rows     1, by columns     2, rows reversed     3, columns reversed
      1  2  3        1  3  5             6  5  4              6  4  2
      4  5  6        2  4  6             3  2  1              5  3  1

Scans 2 and 3 are scans 0 and 1 of the map rotated by 180 degrees, so the code has views by rows and by columns only,
of a [`Pair`]: the map unrotated and rotated.

**Blocks.** The recurrence `h_t = decay_t h_{t-1} + drive_t` is cut into blocks of `steps` positions. One torch
operation computes a step of all blocks:

    sequence    0  1  2  3 | 4  5  6  7 | 8  9 10 11        steps = 4
    step 0      0            4            8
    step 1         1            5            9
    step 2            2            6           10
    step 3               3            7           11

1. Every block runs from a zero state, for its last state (`_last_state`).
2. Last states and total decays of the blocks are chained to the state before each block (`_chain`).
3. Every block runs again from there (`_run`).

Nothing is divided by a decay, so one that underflows does no harm. A block of a map is a part of a column or, by rows,
as many positions, which may go on in the next row.

**Layout.** Tensors "by step" have shape `(scans, steps, batch, blocks, channels)`: element `(k, i, b, j)` is position
`j * steps + i` of sequence `b` in scan `k`, so a step of all blocks is contiguous.

**Pieces.** On a CPU a map is scanned in pieces of some samples and columns (row-major: as many blocks), whose tensors
stay in the cache; the state after a piece enters the next one.
"""

import math
import threading
from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

# Steps per block: fewer means more blocks to chain, more means less work per operation.
STEPS = 16
# Blocks that are chained one after another; more are chained in groups.
LONGEST_CHAIN = 8
# Size of a float32 tensor; a few of that size stay in the cache during a scan.
ELEMENTS_AT_ONCE = 2**20
# Larger memory is given back to the system after a scan.
MOST_ELEMENTS_KEPT = 2**23
_kept = threading.local()

# A map `(batch, height, width, channels)`, unrotated and rotated by 180 degrees.
Pair = tuple[torch.Tensor, torch.Tensor]


class Piece(NamedTuple):
    """Samples and columns of a map that are scanned at once."""

    samples: slice
    columns: slice


def scan_1d(u, delta, A, B, C, D, delta_bias, delta_softplus) -> torch.Tensor:
    """[`selective_scan`]; its arguments, already checked and not empty. Computes in at least float32."""
    dtype = dtype_of_scan(u, delta)
    u, delta = u.to(dtype), delta.to(dtype)
    groups, length = B.shape[1], u.shape[2]
    steps = min(STEPS, length)

    def by_step(x: torch.Tensor) -> torch.Tensor:
        # A zero input adds nothing to the state, and the outputs of the padding are cut off.
        x = F.pad(x.to(dtype), (0, -length % steps)).unflatten(-1, (-1, steps))
        return x.permute(1, 4, 0, 3, 2).contiguous()

    if delta_bias is not None:
        delta = delta + delta_bias.unsqueeze(-1)
    with _no_autocast(u):
        y = _SequenceScan.apply(
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
    """[`selective_scan_2d`]; its arguments, already checked and not empty.

    Computes in at least float32, which is also that of the result.
    """
    dtype = dtype_of_scan(hidden_states, low_rank_delta)
    # The bias is the weight of one more input, which is always 1: that saves an addition to four maps.
    projected = torch.cat((low_rank_delta, torch.ones_like(B[..., :1]), B, C), dim=-1)
    delta_weight = torch.cat((delta_weight, delta_bias.unsqueeze(-1)), dim=-1)
    with _no_autocast(hidden_states):
        return _MapScan.apply(*(x.to(dtype) for x in (hidden_states.contiguous(), projected, delta_weight, A, D)))


def _no_autocast(u: torch.Tensor) -> torch.autocast:
    # The meta device has no autocast. Asking torch whether a device has one breaks a graph of torch 2.9.
    return torch.autocast("cpu" if u.is_meta else u.device.type, enabled=False)


def dtype_of_scan(u: torch.Tensor, delta: torch.Tensor) -> torch.dtype:
    """The dtype in which a scan of these is computed: at least float32."""
    return torch.promote_types(torch.promote_types(u.dtype, delta.dtype), torch.float32)


class _SequenceScan(torch.autograd.Function):
    """Scans of tensors by step. Keeps the inputs and the state before each block, and recomputes the rest."""

    @staticmethod
    def forward(ctx, u, delta, A, B, C, delta_softplus):
        step = _softplus(delta.clone()) if delta_softplus else delta.clone()
        exponent, drive = _discretize(u * step, step, A, B)
        states, starts, _ = _scan_blocks(exponent, drive, _zero_state(u, A))
        y = _sum_states(states, C)
        ctx.save_for_backward(u, delta, A, B, C, starts)
        ctx.delta_softplus = delta_softplus
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y):
        u, delta, A, B, C, starts = ctx.saved_tensors
        step = F.softplus(delta) if ctx.delta_softplus else delta
        with _no_autocast(grad_y):
            grads, _ = _scan_gradients(grad_y, u, step, A, B, C, starts, _zero_state(u, A))
        grad_u, grad_step, *others = grads
        grad_delta = grad_step * torch.sigmoid(delta) if ctx.delta_softplus else grad_step
        return grad_u, grad_delta, *others, None


class _MapScan(torch.autograd.Function):
    """The sum of the four scans of a map. Keeps the map, but none of its traversals.

    `projected` `(4, batch, height, width, columns)` holds low-rank step sizes, 1, input and output weights.
    """

    @staticmethod
    def forward(ctx, hidden_states, projected, weight, A, D):
        arguments = hidden_states, projected, weight, A, D
        pieces = _pieces(hidden_states)
        on_cpu = is_plain_cpu_tensor(hidden_states)
        merged, starts = _scan_map(*arguments, pieces, _softplus_if_finite if on_cpu else _softplus)
        if on_cpu and not merged.sum().isfinite():  # Step sizes above 88 are rare, so the whole scan is run again.
            merged, starts = _scan_map(*arguments, pieces, _softplus)
        ctx.pieces = pieces
        ctx.save_for_backward(*arguments, *starts)
        return merged

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_merged):
        hidden_states, projected, weight, A, D, *starts = ctx.saved_tensors
        with _no_autocast(grad_merged):
            return _scan_map_gradients(
                grad_merged.contiguous(), hidden_states, projected, weight, A, D, ctx.pieces, starts
            )


def _scan_map(hidden_states, projected, weight, A, D, pieces, softplus):
    """The sum of the four scans and, for each piece, the states before its blocks."""
    maps, projections = _pair(hidden_states), _pair(projected)
    merged = hidden_states * D.sum(0), torch.zeros_like(hidden_states)
    starts = []
    for piece in pieces:
        inputs = _by_step(projections, piece)
        B, C = _input_and_output_weights(inputs, A)
        step = softplus(_project(inputs, weight, buffer="step"))
        if piece.columns.start == 0:
            state = _zero_state(step, A)
        exponent, drive = _discretize(_multiply(maps, step, piece), step, A, B)
        states, start, state = _scan_blocks(exponent, drive, state)
        _add_outputs(merged, states, C, piece)
        starts.append(start)
    return _add_rotated(merged), starts


def _scan_map_gradients(grad_merged, hidden_states, projected, weight, A, D, pieces, starts):
    """Gradients of the tensors that [`_scan_map`] takes, given that of the sum and the states before the blocks."""
    maps, projections, grad_outputs = (_pair(x) for x in (hidden_states, projected, grad_merged))
    grad_maps = grad_merged * D.sum(0), torch.zeros_like(grad_merged)
    grad_projections = torch.zeros_like(projections[0]), torch.zeros_like(projections[1])
    grad_weight, grad_A = torch.zeros_like(weight), torch.zeros_like(A)
    for piece, start in reversed(list(zip(pieces, starts, strict=True))):
        u, inputs, grad_y = (_by_step(x, piece) for x in (maps, projections, grad_outputs))
        B, C = _input_and_output_weights(inputs, A)
        delta = _project(inputs, weight)
        if piece.columns.stop == hidden_states.shape[2]:
            grad_state = _zero_state(u, A)
        grads, grad_state = _scan_gradients(grad_y, u, F.softplus(delta), A, B, C, start, grad_state)
        grad_u, grad_step, grad_A_piece, grad_B, grad_C = grads
        grad_delta = grad_step.mul_(torch.sigmoid(delta))
        grad_A += grad_A_piece
        grad_weight += torch.bmm(grad_delta.flatten(1, 3).mT, inputs.flatten(1, 3)[..., : weight.shape[2]])
        grad_inputs = torch.cat((_project(grad_delta, weight.mT), grad_B, grad_C), dim=-1)
        for totals, grad in ((grad_maps, grad_u), (grad_projections, grad_inputs)):
            for total, part in zip(_blocks(totals, piece), _split_blocks(grad, piece), strict=True):
                total.add_(part)
    grad_D = (grad_merged * hidden_states).sum((0, 1, 2)).expand_as(D)
    return (
        _add_rotated(grad_maps),
        torch.cat((grad_projections[0], _rotate(grad_projections[1]))),
        grad_weight,
        grad_A,
        grad_D,
    )


def _pieces(hidden_states: torch.Tensor) -> list[Piece]:
    """The pieces of a map in order; in a graph and on other devices, one."""
    batch, height, width, channels = hidden_states.shape
    if not is_plain_cpu_tensor(hidden_states):
        # Graphs unroll the blocks, so their width is fixed; `range` makes it a number for torch.compile.
        return [Piece(slice(None), slice(0, len(range(width))))]
    columns_at_once = max(1, ELEMENTS_AT_ONCE // (4 * height * channels))
    segments = -(-width // columns_at_once)
    columns = -(-width // segments)
    samples = max(1, columns_at_once // width)
    return [
        Piece(slice(sample, sample + samples), slice(column, min(column + columns, width)))
        for sample in range(0, batch, samples)
        for column in range(0, width, columns)
    ]


def is_plain_cpu_tensor(x: torch.Tensor) -> bool:
    """Whether `x` is an ordinary CPU tensor that is not being compiled."""
    return x.device.type == "cpu" and type(x) is torch.Tensor and not torch.compiler.is_compiling()


def _rotate(x: torch.Tensor) -> torch.Tensor:
    """Maps `(..., height, width, channels)` rotated by 180 degrees."""
    return x.flip(-3, -2)


def _pair(x: torch.Tensor) -> Pair:
    """A map unrotated and rotated; for a map per scan, `(4, ...)`, those of scans 0 and 1 and, rotated, of 2 and 3."""
    forwards, backwards = x.chunk(2) if x.ndim == 5 else (x, x)
    return forwards, _rotate(backwards)


def _add_rotated(pair: Pair) -> torch.Tensor:
    """The sum of both maps, the second rotated back, in the memory of the first."""
    return pair[0].add_(_rotate(pair[1]))


def _blocks(pair: Pair, piece: Piece) -> list[torch.Tensor]:
    """Per scan, a view of the blocks of a piece, `(steps, batch, columns, blocks of a column, channels)`."""
    samples, columns = piece
    height, width, channels = pair[0].shape[-3:]
    steps = next(steps for steps in range(min(STEPS, height), height + 1) if height % steps == 0)
    views = []
    for maps in pair:
        maps = _narrow(maps, -4, samples)
        by_rows, by_columns = maps if maps.ndim == 5 else (maps, maps)
        batch = by_rows.shape[0]
        by_rows = by_rows.view(batch, width, -1, steps, channels).permute(3, 0, 1, 2, 4)
        by_columns = by_columns.view(batch, -1, steps, width, channels).permute(2, 0, 3, 1, 4)
        views += [_narrow(by_rows, 2, columns), _narrow(by_columns, 2, columns)]
    return views


def _narrow(x: torch.Tensor, dim: int, part: slice) -> torch.Tensor:
    """`x` itself if `part` covers it: even a view costs time."""
    is_whole = part == slice(None) or (part.start == 0 and part.stop >= x.shape[dim])
    return x if is_whole else x.narrow(dim, part.start, min(part.stop, x.shape[dim]) - part.start)


def _split_blocks(by_step: torch.Tensor, piece: Piece) -> Iterator[torch.Tensor]:
    """Per scan, a tensor by step in the shape of [`_blocks`]."""
    return iter(by_step.unflatten(3, (piece.columns.stop - piece.columns.start, -1)))


def _by_step(pair: Pair, piece: Piece) -> torch.Tensor:
    """A piece of the four traversals, by step."""
    return torch.stack(_blocks(pair, piece)).flatten(3, 4)


def _input_and_output_weights(inputs: torch.Tensor, A: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return inputs[..., -2 * A.shape[2] :].chunk(2, dim=-1)


def _multiply(maps: Pair, step: torch.Tensor, piece: Piece) -> torch.Tensor:
    """A piece of the maps times step sizes, by step."""
    if not is_plain_cpu_tensor(step):
        return _by_step(maps, piece) * step
    driven = keep_memory("driven", step.shape, step.dtype)
    for view, factor, product in zip(
        _blocks(maps, piece), _split_blocks(step, piece), _split_blocks(driven, piece), strict=True
    ):
        torch.mul(view, factor, out=product)
    return driven


def _add_outputs(merged: Pair, states: torch.Tensor, weights: torch.Tensor, piece: Piece) -> None:
    """Adds states times output weights, by step, to the maps."""
    if weights.shape[-1] > 1:
        for view, part in zip(_blocks(merged, piece), _split_blocks(_sum_states(states, weights), piece), strict=True):
            view.add_(part)
        return
    parts = _split_blocks(states.squeeze(-1), piece), _split_blocks(weights, piece)
    for view, states_here, weights_here in zip(_blocks(merged, piece), *parts, strict=True):
        view.addcmul_(states_here, weights_here)


def _project(x: torch.Tensor, weight: torch.Tensor, buffer: str | None = None) -> torch.Tensor:
    """Applies a weight `(scans, out, in)` to the first channels of a tensor by step."""
    rows = x.flatten(1, 3)[..., : weight.shape[2]]
    output = None
    if buffer is not None and is_plain_cpu_tensor(x):
        output = keep_memory(buffer, (*rows.shape[:2], weight.shape[1]), x.dtype)
    return torch.bmm(rows, weight.mT, out=output).unflatten(1, x.shape[1:4])


def keep_memory(buffer: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """CPU memory of this thread for the time of a scan; the next scan that asks for this name reuses it.

    Memory from the system costs more than the computation in it.
    """
    size = math.prod(shape)
    if size > MOST_ELEMENTS_KEPT:
        return torch.empty(shape, dtype=dtype, device="cpu")
    memory = _kept.__dict__.get(buffer)
    if memory is None or memory.dtype != dtype or memory.numel() < size:
        with torch.inference_mode(False):
            memory = torch.empty(max(size, ELEMENTS_AT_ONCE), dtype=dtype, device="cpu")
        _kept.__dict__[buffer] = memory
    return memory[:size].view(shape)


def _softplus(x: torch.Tensor) -> torch.Tensor:
    """In the memory of `x`, except in a graph."""
    # The type stub of torch has no `out`.
    return F.softplus(x) if torch.compiler.is_compiling() else F.softplus(x, out=x)  # type: ignore[call-arg]


def _softplus_if_finite(x: torch.Tensor) -> torch.Tensor:
    """In the memory of `x`, faster on a CPU; infinite where the exponential overflows, in float32 above 88."""
    return x.exp_().log1p_()


def _zero_state(u: torch.Tensor, A: torch.Tensor) -> torch.Tensor:
    """Zero state `(scans, batch, channels, states)` for `u` by step."""
    return A.new_zeros(u.shape[0], u.shape[2], *A.shape[1:])


def _discretize(driven, step, A, B):
    """Binary logarithms of the decays, in the memory of `step`, and drives, in that of `driven`, input times step."""
    drive = _times(driven.unsqueeze(-1), B.unsqueeze(-2))
    # exp2 is several times faster than exp where torch takes exp from MKL.
    return _times(step.unsqueeze(-1), (A / math.log(2))[:, None, None, None]), drive


def _times(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The product, in the memory of `x` where it has the same shape: fresh memory costs more than the product."""
    return x.mul_(weights) if weights.shape[-1] == 1 else x * weights


def _scan_blocks(exponent, drive, state):
    """
    Runs the recurrence from `state`; returns states by step, the state before each block, and the last state.

    Except in a graph, states overwrite `drive` and decays overwrite `exponent`.
    """
    in_graph = torch.compiler.is_compiling()
    totals = exponent.sum(1)
    decays, drives = exponent.exp2_().unbind(1), drive.unbind(1)
    starts = state.unsqueeze(2)
    if drive.shape[3] > 1:
        starts = _chain(totals, _last_state(decays, drives), state)
    states = _run(decays, drives, starts, in_place=not in_graph)
    after = states[-1][:, :, -1].clone()
    return torch.stack(states, 1) if in_graph else drive, starts, after


def _scan_gradients(grad_y, u, step, A, B, C, starts, grad_state):
    """
    Gradients of `u`, `step`, `A`, `B`, `C` and of the state before the first step, given that of the last state.

    The gradient of the states runs backwards: `g_t = C_t grad_t + decay_{t+1} g_{t+1}`.
    """
    exponent, drive = _discretize(u * step, step.clone(), A, B)
    totals, decay = exponent.sum(1), exponent.exp2_()
    decays = decay.unbind(1)
    states = _run(decays, drive.unbind(1), starts)
    grad_C = _sum_channels(torch.stack(states, 1), grad_y)

    backwards = (grad_y.unsqueeze(-1) * C.unsqueeze(-2)).unbind(1)[::-1]
    entering = grad_state.unsqueeze(2)
    if u.shape[3] > 1:
        leaving = _last_state([decays[0], *decays[:0:-1]], backwards) * decays[0]
        entering = _chain(totals.flip(2), leaving.flip(2), grad_state).flip(2)
    last = backwards[0] + entering
    grads = [last, *_run(decays[:0:-1], backwards[1:], last)][::-1]
    grad_state = (grads[0] * decays[0])[:, :, 0]
    grad_states = torch.stack(grads, 1)

    grad_exponent = torch.stack([starts, *states[:-1]], 1).mul_(decay).mul_(grad_states)
    grad_A = (grad_exponent * step.unsqueeze(-1)).sum((1, 2, 3))
    grad_B = _sum_channels(grad_states, step * u)
    grad_driven = _sum_states(grad_states, B)
    grad_step = torch.addcmul((grad_exponent * A[:, None, None, None]).sum(-1), grad_driven, u)
    return (grad_driven.mul_(step), grad_step, grad_A, grad_B, grad_C), grad_state


def _run(decays, drives, state: torch.Tensor, in_place: bool = False) -> list[torch.Tensor]:
    """All `h_t = decay_t h_{t-1} + drive_t` from `state`; in place, they overwrite the drives."""
    states = []
    for decay, drive in zip(decays, drives, strict=True):
        state = torch.addcmul(drive, decay, state, out=drive if in_place else None)
        states.append(state)
    return states


def _last_state(decays, drives) -> torch.Tensor:
    """The last `h_t` of [`_run`] from a zero state."""
    state = drives[0]
    for decay, drive in zip(decays[1:], drives[1:], strict=True):
        state = torch.addcmul(drive, decay, state)
    return state


def _chain(exponents: torch.Tensor, ends: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    """State before each block `(scans, batch, blocks, channels, states)`, from that before the first.

    `exponents` are binary logarithms of the blocks' total decays, `ends` their last states from a zero state.
    """
    blocks = ends.shape[2]
    groups = 1 if blocks <= LONGEST_CHAIN else math.isqrt(blocks - 1) + 1
    steps = -(-blocks // groups)
    if padding := groups * steps - blocks:
        exponents, ends = (F.pad(x, (0, 0, 0, 0, 0, padding)) for x in (exponents, ends))
    exponents, ends = (x.unflatten(2, (groups, steps)) for x in (exponents, ends))
    decays, drives = torch.exp2(exponents).unbind(3), ends.unbind(3)
    starts = state.unsqueeze(2)
    if groups > 1:
        starts = _chain(exponents.sum(3), _last_state(decays, drives), state)
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
