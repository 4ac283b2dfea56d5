"""Selective scan in plain torch, on any device; see `selective_scan.py`.

Source: Mamba (arXiv 2312.00752, equation 2 with the discretisation of `selective_scan_fn`), and the four traversals of
VMamba (arXiv 2401.10166, section 4.2). The recurrence and the layout "by step" are in `torch_recurrence.py`; here is
what is around it: step sizes, and the traversals of a map.
"""

import math
import threading
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from .torch_recurrence import discretize, no_state, scan_blocks, scan_gradients, sum_states

# Of a block. With fewer there are more blocks to chain; with more, an operation has less to work through at once.
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
    """[`selective_scan_2d`]; its arguments, already checked and not empty.

    Computes in at least float32, which is also that of the result.
    """
    dtype = dtype_of_scan(hidden_states, low_rank_delta)
    # The bias is the weight of one more input, which is always 1: that saves an addition to four maps.
    projected = torch.cat((low_rank_delta, torch.ones_like(B[..., :1]), B, C), dim=-1)
    delta_weight = torch.cat((delta_weight, delta_bias.unsqueeze(-1)), dim=-1)
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
        exponent, drive = discretize(u * step, step, A, B)
        states, starts, _ = scan_blocks(exponent, drive, no_state(u, A))
        y = sum_states(states, C)
        ctx.save_for_backward(u, delta, A, B, C, starts)
        ctx.delta_softplus = delta_softplus
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y):
        u, delta, A, B, C, starts = ctx.saved_tensors
        step = F.softplus(delta) if ctx.delta_softplus else delta
        with _no_autocast(grad_y):
            grads, _ = scan_gradients(grad_y, u, step, A, B, C, starts, no_state(u, A))
        grad_u, grad_step, *others = grads
        grad_delta = grad_step * torch.sigmoid(delta) if ctx.delta_softplus else grad_step
        return grad_u, grad_delta, *others, None


class _SelectiveScan2d(torch.autograd.Function):
    """The four scans of a map, in pieces that stay in the cache. Keeps the map, but none of its traversals.

    `projected` holds what differs from position to position: low rank step sizes, 1, input and output weights.
    """

    @staticmethod
    def forward(ctx, hidden_states, projected, weight, A, D):
        arguments = hidden_states, projected, weight, A, D
        pieces = _pieces(hidden_states)
        on_cpu = is_plain_cpu_tensor(hidden_states)
        merged, starts = _scan_map(*arguments, pieces, _softplus_if_finite if on_cpu else _softplus)
        if on_cpu and not merged.sum().isfinite():  # Step sizes that large are rare enough to do all again.
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
    maps, projections = _both_ways(hidden_states), _both_ways(projected)
    merged = hidden_states * D.sum(0), torch.zeros_like(hidden_states)
    starts = []
    for piece in pieces:
        inputs = _traverse(projections, piece)
        B, C = _input_and_output_weights(inputs, A)
        step = softplus(_project(inputs, weight, buffer="step"))
        if piece[1].start == 0:
            state = no_state(step, A)
        exponent, drive = discretize(_drive(maps, step, piece), step, A, B)
        states, start, state = scan_blocks(exponent, drive, state)
        _add_outputs(merged, states, C, piece)
        starts.append(start)
    return _merge(merged), starts


def _scan_map_gradients(grad_merged, hidden_states, projected, weight, A, D, pieces, starts):
    """Gradients of the tensors that [`_scan_map`] takes, given that of the sum and the states before the blocks."""
    maps, projections, grad_outputs = (_both_ways(x) for x in (hidden_states, projected, grad_merged))
    grad_maps = grad_merged * D.sum(0), torch.zeros_like(grad_merged)
    grad_projections = torch.zeros_like(projections[0]), torch.zeros_like(projections[1])
    grad_weight, grad_A = torch.zeros_like(weight), torch.zeros_like(A)
    for piece, start in reversed(list(zip(pieces, starts, strict=True))):
        u, inputs, grad_y = (_traverse(x, piece) for x in (maps, projections, grad_outputs))
        B, C = _input_and_output_weights(inputs, A)
        delta = _project(inputs, weight)
        if piece[1].stop == hidden_states.shape[2]:
            grad_state = no_state(u, A)
        grads, grad_state = scan_gradients(grad_y, u, F.softplus(delta), A, B, C, start, grad_state)
        grad_u, grad_step, grad_A_piece, grad_B, grad_C = grads
        grad_delta = grad_step.mul_(torch.sigmoid(delta))
        grad_A += grad_A_piece
        grad_weight += torch.bmm(grad_delta.flatten(1, 3).mT, inputs.flatten(1, 3)[..., : weight.shape[2]])
        grad_inputs = torch.cat((_project(grad_delta, weight.mT), grad_B, grad_C), dim=-1)
        for totals, grad in ((grad_maps, grad_u), (grad_projections, grad_inputs)):
            for total, part in zip(_views(totals, piece), _parts(grad, piece), strict=True):
                total.add_(part)
    grad_D = (grad_merged * hidden_states).sum((0, 1, 2)).expand_as(D)
    return _merge(grad_maps), torch.cat((grad_projections[0], _turn(grad_projections[1]))), grad_weight, grad_A, grad_D


def _pieces(hidden_states: torch.Tensor) -> list[Piece]:
    """Which samples and which columns to run at once, in order; a graph, and any other device, gets all."""
    batch, height, width, channels = hidden_states.shape
    if not is_plain_cpu_tensor(hidden_states):
        # A graph has its blocks unrolled, so it is of one width; a range fixes the number for torch.compile.
        return [(slice(None), slice(0, len(range(width))))]
    columns_at_once = max(1, ELEMENTS_AT_ONCE // (4 * height * channels))
    segments = -(-width // columns_at_once)
    columns = -(-width // segments)
    samples = max(1, columns_at_once // width)
    return [
        (slice(sample, sample + samples), slice(column, min(column + columns, width)))
        for sample in range(0, batch, samples)
        for column in range(0, width, columns)
    ]


def is_plain_cpu_tensor(x: torch.Tensor) -> bool:
    """Whether it has memory of this machine, and is no part of a graph in the making."""
    return x.device.type == "cpu" and type(x) is torch.Tensor and not torch.compiler.is_compiling()


def _turn(x: torch.Tensor) -> torch.Tensor:
    """Maps `(..., height, width, channels)`, turned by 180 degrees."""
    return x.flip(-3, -2)


def _both_ways(x: torch.Tensor) -> BothWays:
    """A map `(batch, height, width, channels)` as it lies and turned; of four maps, two as they lie and two turned.

    The reversed scans, 2 and 3, read the rows and columns of what is turned as 0 and 1 read those of what is not.
    """
    forwards, backwards = x.chunk(2) if x.ndim == 5 else (x, x)
    return forwards, _turn(backwards)


def _merge(both: BothWays) -> torch.Tensor:
    """The sum of a map and of one that lies turned, in the memory of the first."""
    return both[0].add_(_turn(both[1]))


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


def _input_and_output_weights(inputs: torch.Tensor, A: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return inputs[..., -2 * A.shape[2] :].chunk(2, dim=-1)


def _drive(maps: BothWays, step: torch.Tensor, piece: Piece) -> torch.Tensor:
    """The product of maps and step sizes, by step."""
    if not is_plain_cpu_tensor(step):
        return _traverse(maps, piece) * step
    driven = keep_memory("driven", step.shape, step.dtype)
    for view, factor, product in zip(_views(maps, piece), _parts(step, piece), _parts(driven, piece), strict=True):
        torch.mul(view, factor, out=product)
    return driven


def _add_outputs(merged: BothWays, states: torch.Tensor, weights: torch.Tensor, piece: Piece) -> None:
    """Adds the sums over the states with weights `(..., states)` where they belong."""
    if weights.shape[-1] > 1:
        for view, part in zip(_views(merged, piece), _parts(sum_states(states, weights), piece), strict=True):
            view.add_(part)
        return
    parts = _parts(states.squeeze(-1), piece), _parts(weights, piece)
    for view, states_here, weights_here in zip(_views(merged, piece), *parts, strict=True):
        view.addcmul_(states_here, weights_here)


def _project(x: torch.Tensor, weight: torch.Tensor, buffer: str | None = None) -> torch.Tensor:
    """Applies a weight `(scans, out, in)` to the first channels of a tensor by step."""
    rows = x.flatten(1, 3)[..., : weight.shape[2]]
    output = None
    if buffer is not None and is_plain_cpu_tensor(x):
        output = keep_memory(buffer, (*rows.shape[:2], weight.shape[1]), x.dtype)
    return torch.bmm(rows, weight.mT, out=output).unflatten(1, x.shape[1:4])


def keep_memory(buffer: str, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Memory on the CPU for what a scan needs only while it runs; the next scan has that of this name again.

    To get memory from the system each time costs more than all that is computed with it.
    """
    size = math.prod(shape)
    memory = _kept.__dict__.get(buffer)
    if memory is None or memory.dtype != dtype or memory.numel() < size:
        with torch.inference_mode(False):
            memory = torch.empty(max(size, ELEMENTS_AT_ONCE), dtype=dtype, device="cpu")
        _kept.__dict__[buffer] = memory
    return memory[:size].view(shape)


def _softplus(x: torch.Tensor) -> torch.Tensor:
    """In the memory of `x`, unless it is to become part of a graph."""
    # The stub leaves `out` away.
    return F.softplus(x) if torch.compiler.is_compiling() else F.softplus(x, out=x)  # type: ignore[call-arg]


def _softplus_if_finite(x: torch.Tensor) -> torch.Tensor:
    """In the memory of `x`, and faster on a CPU; infinite where the exponential is, in float32 above 88."""
    return x.exp_().log1p_()
