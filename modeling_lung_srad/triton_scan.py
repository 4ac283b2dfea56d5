"""Selective scan with state size 1 as CUDA kernels, written in Triton; imported only where it is used.

Source: Mamba (arXiv 2312.00752, equation 2) and the four traversals of VMamba (arXiv 2401.10166, section 4.2); the
split into chunks is the "reduce, then scan" of Merrill and Garland (NVIDIA NVR-2016-002).

A map is stored as `(length, channels)`, channels last. Each of its four directions is a sequence over the same
positions: rows and columns, each walked up and down. Sequences are cut into tiles of `TILE` elements. Forward:

1. `_summarize_kernel` runs every tile from zero to its end state and multiplies its decays;
2. `_chain_kernel` goes over the tiles of a sequence by these and leaves the state before each tile;
3. `_output_kernel` runs every tile again from its true start, up and down at once, first for rows, then for columns.

The backward pass does the same with the adjoint recurrence, which runs against the direction of the sequence, and
needs of the forward pass only its inputs and the states before the tiles. The step sizes are projected from their low
rank form inside the kernels, so no tensor of four times the size of the map is stored, except their gradient. Nothing
is added atomically: results are the same from run to run.

One thread holds one channel of all rows of a tile. Picking a row then costs nothing, and a recurrence over the tile is
one multiply-add per element, in either direction.
"""

import contextlib

import torch
from torch.autograd.function import once_differentiable

try:  # Where this file is saved with a checkpoint, loading that must not ask for a package of CUDA machines.
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError("Triton is not installed.") from error

# Channels, warps, tiles and registers of a program, the fastest of those tried on an H200; `BLOCK_C` is 32 times
# `num_warps`: see `_map_offsets`. Fewer registers let more programs run at once, until they spill.
SETTINGS = {
    "summarize": {"BLOCK_C": 32, "TILES": 4, "num_warps": 1, "num_stages": 1, "maxnreg": 168},
    "chain": {"BLOCK_C": 32, "num_warps": 1, "num_stages": 1},
    "output": {"BLOCK_C": 32, "TILES": 4, "num_warps": 1, "num_stages": 1},
    "gradient": {"BLOCK_C": 32, "TILES": 4, "num_warps": 1, "num_stages": 1},
}
TILE = 16
CHAIN_TILE = 32
RANK_BLOCK = tl.constexpr(16)
# Nothing is compiled again for another batch or length.
SIZES = ["batch", "length", "width", "stride_direction", "stride_batch"]


def scan_1d(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None = None,
    delta_bias: torch.Tensor | None = None,
    delta_softplus: bool = True,
) -> torch.Tensor:
    """
    [`selective_scan`] for state size 1 on CUDA; the arguments are those of that function, already checked and not
    empty. Computes in float32.

    Returns:
        `torch.Tensor` of shape `(batch, groups * channels, length)` in the dtype of `u`.

    Raises:
        ValueError: if an input is float64 or the state size is not 1.
    """
    _check_supported(u, delta, A, B, C)
    batch, groups, _, length = B.shape

    def by_group(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(1, (groups, -1)).permute(1, 0, 3, 2).flatten(0, 1).contiguous()

    def per_channel(x: torch.Tensor | None) -> torch.Tensor:
        return (u.new_zeros(u.shape[1]) if x is None else x).float().reshape(groups, -1)

    B, C = (x.squeeze(2).transpose(0, 1) for x in (B, C))
    if B.stride() != C.stride():
        B, C = B.contiguous(), C.contiguous()
    y = _TritonScan.apply(
        by_group(u), by_group(delta), None, per_channel(delta_bias), per_channel(A), B, C, per_channel(D), 1,
        delta_softplus,
    )  # fmt: skip
    return y.view(groups, batch, length, -1).permute(1, 0, 3, 2).flatten(1, 2)


def scan_2d(
    hidden_states: torch.Tensor,
    low_rank_delta: torch.Tensor,
    delta_weight: torch.Tensor,
    delta_bias: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
) -> torch.Tensor:
    """
    [`selective_scan_2d`] for state size 1 on CUDA; the arguments are those of that function, already checked and not
    empty. Computes in float32; the step sizes are projected in the dtype of `low_rank_delta`, as `F.linear` would
    under autocast, but are not rounded to it. `low_rank_delta`, `B` and `C` are read in place if they are views of one
    tensor `(batch, height, width, 4 * (rank + 2))`. Kernels are compiled for each height and number of channels.

    Returns:
        `torch.Tensor` of shape `(batch, height, width, channels)` in the dtype of `hidden_states`.

    Raises:
        ValueError: if an input is float64 or the state size is not 1.
    """
    _check_supported(hidden_states, low_rank_delta, A, B, C)
    height, rank = hidden_states.shape[1], low_rank_delta.shape[-1]
    low_rank, B, C = (x.flatten(2, 3) for x in (low_rank_delta, B, C))
    if not low_rank.stride()[:3] == B.stride()[:3] == C.stride()[:3] or low_rank.stride(3) != 1:
        low_rank, B, C = torch.cat([low_rank, B, C], dim=-1).split([rank, 1, 1], dim=-1)
    y = _TritonScan.apply(
        hidden_states.flatten(1, 2).contiguous(),
        low_rank,
        delta_weight.to(low_rank.dtype).mT.contiguous(),
        delta_bias.float().contiguous(),
        A.squeeze(-1).float().contiguous(),
        B.squeeze(-1),
        C.squeeze(-1),
        D.float().sum(0, keepdim=True),
        height,
        True,
    )
    return y.view(hidden_states.shape)


def _check_supported(u, delta, A, B, C) -> None:
    if A.shape[-1] != 1:
        raise ValueError(
            f"`A` has state size {A.shape[-1]}; the Triton scan has kernels for 1: use `backend='torch'`."
        )
    for name, tensor in {"u": u, "delta": delta, "B": B, "C": C}.items():
        if tensor.dtype == torch.float64:
            raise ValueError(f"`{name}` is float64; the Triton scan computes in float32: use `backend='torch'`.")


class _TritonScan(torch.autograd.Function):
    """
    The scan of `u` `(maps, length, channels)`: two or four directions, or of one per group if `weight` is `None`.

    `delta` is `(directions, batch, length, rank)` with `weight` `(directions, rank, channels)`, or like `u` without;
    `B` and `C` are `(directions, batch, length)` with the strides of `delta`; `bias` and `A` are `(directions,
    channels)`; `skip` is `(maps / batch, channels)`. Parameters are float32, `weight` has the dtype of `delta`.
    """

    @staticmethod
    def forward(ctx, u, delta, weight, bias, A, B, C, skip, height, softplus):
        launch = _Launcher(u, delta, weight, bias, A, B, height, softplus)
        starts = launch.tile_starts(u, B, adjoint=False)
        y = torch.empty_like(u)
        launch.output(u, B, C, skip, starts, y)
        ctx.save_for_backward(u, delta, weight, bias, A, B, C, skip, starts)
        ctx.height, ctx.softplus = height, softplus
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y):
        u, delta, weight, bias, A, B, C, skip, starts = ctx.saved_tensors
        grad_y = grad_y.contiguous()
        launch = _Launcher(u, delta, weight, bias, A, B, ctx.height, ctx.softplus)
        adjoint_starts = launch.tile_starts(grad_y, C, adjoint=True)
        grad_u = torch.empty_like(u)
        grad_delta, grad_bias, grad_A, grad_B, grad_C, grad_skip = launch.gradient(
            u, B, C, skip, starts, grad_y, adjoint_starts, grad_u
        )
        grad_weight = None
        if weight is not None:
            with torch.autocast(u.device.type, enabled=False):
                # One product per sample: a single one would leave most of the card idle, as so few elements come out.
                grad_weight = (delta.mT @ grad_delta).float().sum(1)
                grad_delta = (grad_delta.flatten(1, 2) @ weight.mT).view(delta.shape)
        return grad_u, grad_delta, grad_weight, grad_bias, grad_A, grad_B, grad_C, grad_skip, None, None


class _Launcher:
    """Grids and arguments of the kernels for one call; arguments as in `_TritonScan`."""

    def __init__(self, u, delta, weight, bias, A, B, height, softplus):
        self.maps, self.length, self.channels = u.shape
        self.directions, self.batch = B.shape[:2]
        self.tiles = triton.cdiv(self.length, TILE)
        self.orientations = 1 if weight is None else 2
        if self.length * max(self.channels, B.stride(2)) >= 2**31:
            raise ValueError(f"`u` has {self.length} positions; the Triton scan counts to 2**31: cut the sequence.")
        self.device = u.device
        self.inputs = (delta, bias if weight is None else weight, bias, A)
        self.sizes = (self.batch, self.length, self.length // height, *B.stride()[:2])
        rank = 0 if weight is None else weight.shape[1]
        self.constants = {
            "CHANNELS": self.channels,
            "HEIGHT": height,
            "STRIDE": B.stride(2),
            "RANK": rank,
            "SOFTPLUS": softplus,
            "TILE": TILE,
        }

    def _empty(self, *shape) -> torch.Tensor:
        return torch.empty(shape, device=self.device, dtype=torch.float32)

    def _on_device(self):
        return torch.cuda.device(self.device) if self.device.type == "cuda" else contextlib.nullcontext()

    def _blocks(self, settings) -> int:
        return triton.cdiv(self.channels, settings["BLOCK_C"])

    def _programs(self, settings) -> int:
        return self.maps * triton.cdiv(self.tiles, settings["TILES"]) * self._blocks(settings)

    def tile_starts(self, x, weights, adjoint: bool) -> torch.Tensor:
        """State before each tile, `(directions, batch, tiles, channels)`; if `adjoint`, of `x` being `grad_y`."""
        shape = (self.directions, self.batch, self.tiles, self.channels)
        if self.tiles == 1:
            return torch.zeros(shape, device=self.device)
        totals, ends, starts = (self._empty(*shape) for _ in range(3))
        summarize, chain = SETTINGS["summarize"], SETTINGS["chain"]
        with self._on_device():
            _summarize_kernel[(self.orientations * self._programs(summarize),)](
                x, *self.inputs, weights, totals, ends, *self.sizes, **self.constants, ADJOINT=adjoint, **summarize
            )
            _chain_kernel[(self.directions * self.batch * self._blocks(chain),)](
                totals,
                ends,
                starts,
                2 * self.batch if self.orientations == 2 else self.maps,
                self.tiles,
                CHANNELS=self.channels,
                ADJOINT=adjoint,
                TILE=CHAIN_TILE,
                **chain,
            )
        return starts

    def output(self, u, B, C, skip, starts, y) -> None:
        """Fills `y`."""
        settings = SETTINGS["output"]
        rows = self._empty(*u.shape) if self.orientations == 2 else y
        with self._on_device():
            for columns in range(self.orientations):
                _output_kernel[(self._programs(settings),)](
                    u,
                    *self.inputs,
                    B,
                    C,
                    skip,
                    starts,
                    rows,
                    y if columns else rows,
                    *self.sizes,
                    **self.constants,
                    COLUMNS=columns,
                    **settings,
                )

    def gradient(self, u, B, C, skip, starts, grad_y, adjoint_starts, grad_u) -> tuple[torch.Tensor, ...]:
        """Fills `grad_u`; gradients of `delta` (before projection by `weight`), `bias`, `A`, `B`, `C` and `skip`."""
        settings = SETTINGS["gradient"]
        delta = self.inputs[0]
        spans = triton.cdiv(self.tiles, settings["TILES"])
        sequences = (self.directions, self.batch)
        rows = self._empty(*u.shape) if self.orientations == 2 else grad_u
        grad_z = torch.empty(*sequences, self.length, self.channels, device=self.device, dtype=delta.dtype)
        grad_B, grad_C = (self._empty(self._blocks(settings), *sequences, self.length) for _ in range(2))
        grad_bias, grad_A = (self._empty(spans, *sequences, self.channels) for _ in range(2))
        grad_skip = self._empty(spans, self.maps // self.batch, self.batch, self.channels)
        with self._on_device():
            for columns in range(self.orientations):
                _gradient_kernel[(self._programs(settings),)](
                    u,
                    *self.inputs,
                    B,
                    C,
                    skip,
                    starts,
                    grad_y,
                    adjoint_starts,
                    rows,
                    grad_u if columns else rows,
                    grad_z,
                    grad_bias,
                    grad_A,
                    grad_B,
                    grad_C,
                    grad_skip,
                    self.directions * self.batch,
                    *self.sizes,
                    **self.constants,
                    COLUMNS=columns,
                    **settings,
                )
        grad_delta = grad_z if self.orientations == 2 else grad_z.view(delta.shape)
        parameters = (x.sum((0, 2)) for x in (grad_bias, grad_A, grad_skip))
        grad_bias, grad_A, grad_skip = parameters
        return grad_delta, grad_bias, grad_A, grad_B.sum(0).to(B.dtype), grad_C.sum(0).to(C.dtype), grad_skip


@triton.jit
def _run_recurrence(decay, drive, state, REVERSE: tl.constexpr):
    """State before each row of `h_t = decay_t h_{t-1} + drive_t`, and the one at the end."""
    rows = tl.arange(0, decay.shape[0])[:, None]
    # On bit patterns the compiler drops the sums that pick a row: x + 0 is not always x for floats.
    decay_bits, drive_bits = decay.to(tl.int32, bitcast=True), drive.to(tl.int32, bitcast=True)
    before = decay
    for step in tl.static_range(decay.shape[0]):
        chosen = rows == (decay.shape[0] - 1 - step if REVERSE else step)
        before = tl.where(chosen, state[None, :], before)
        row_decay = tl.sum(tl.where(chosen, decay_bits, 0), axis=0).to(tl.float32, bitcast=True)
        row_drive = tl.sum(tl.where(chosen, drive_bits, 0), axis=0).to(tl.float32, bitcast=True)
        state = row_decay * state + row_drive
    return before, state


@triton.jit
def _softplus(z):
    """`max(z, 0) + log1p(exp(-|z|))`, the logarithm by a polynomial with a relative error of 3e-7."""
    x = tl.exp2(-1.4426950408889634 * tl.abs(z))
    p = -0.00837115291506052 * x + 0.04349390044808388
    p = p * x - 0.1068500280380249
    p = p * x + 0.1768747717142105
    p = p * x - 0.24474774301052094
    p = p * x + 0.3327192962169647
    p = p * x - 0.49997174739837646
    p = p * x + 0.9999997615814209
    return tl.maximum(z, 0.0) + p * x


@triton.jit
def _locate_program(tiles, CHANNELS: tl.constexpr, BLOCK_C: tl.constexpr, TILES: tl.constexpr):
    """Channels, number of their block, number of the span of tiles, and what numbers the map."""
    blocks = (CHANNELS + BLOCK_C - 1) // BLOCK_C
    spans = tl.cdiv(tiles, TILES)
    block = tl.program_id(0) % blocks
    rest = tl.program_id(0) // blocks
    return block * BLOCK_C + tl.arange(0, BLOCK_C), block, rest % spans, rest // spans


@triton.jit
def _map_offsets(position, channel, CHANNELS: tl.constexpr):
    # Without the hint, neighbouring channels would share a thread and the rows of a tile be spread over threads.
    return tl.multiple_of(position[:, None] * CHANNELS + channel[None, :], [1, 1])


@triton.jit
def _locate_tile(
    tile, length, width, columns, channel, CHANNELS: tl.constexpr, HEIGHT: tl.constexpr, TILE: tl.constexpr
):
    """Places of a tile in the row-major map, which of them exist, mask and offsets in `(length, channels)`."""
    element = tile * TILE + tl.arange(0, TILE)
    valid = element < length
    position = tl.where(columns != 0, (element % HEIGHT) * width + element // HEIGHT, element)
    mask = valid[:, None] & (channel < CHANNELS)[None, :]
    return position, valid, mask, _map_offsets(position, channel, CHANNELS)


@triton.jit
def _load_direction(
    direction, sequence, index, channel, length, delta_ptr, weight_ptr, bias_ptr, A_ptr, stride_direction,
    stride_batch, CHANNELS: tl.constexpr, RANK: tl.constexpr,
):  # fmt: skip
    """Start of a sequence of step sizes, offset of its weights `B` and `C`, its projection, bias and decay rates."""
    start = direction * stride_direction + index.to(tl.int64) * stride_batch
    mask = channel < CHANNELS
    parameter = direction * CHANNELS + channel
    bias = tl.load(bias_ptr + parameter, mask=mask, other=0.0)
    A = tl.load(A_ptr + parameter, mask=mask, other=0.0)
    if RANK > 0:
        delta_ptr += start
        weight_ptr += direction * RANK * CHANNELS
    else:
        delta_ptr += sequence * length * CHANNELS
    return delta_ptr, start, weight_ptr, bias, A, channel


@triton.jit
def _load_steps(
    inputs, place, bias_ptr, nowhere, CHANNELS: tl.constexpr,
    STRIDE: tl.constexpr, RANK: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """Step sizes before and after softplus and the decays of a tile; elements beyond the end keep the state."""
    delta_ptr, _, weight_ptr, bias, A, channel = inputs
    position, valid, mask, map_offsets = place
    if RANK > 0:
        z = tl.zeros(map_offsets.shape, dtype=tl.float32)
        for first in tl.static_range(0, RANK, RANK_BLOCK):
            rank = first + tl.arange(0, RANK_BLOCK)
            offsets = position[:, None] * STRIDE + rank[None, :]
            low_rank = tl.load(delta_ptr + offsets, mask=valid[:, None] & (rank < RANK)[None, :], other=0.0)
            weight_mask = (rank < RANK)[:, None] & (channel < CHANNELS)[None, :]
            weight = tl.load(weight_ptr + _map_offsets(rank, channel, CHANNELS), mask=weight_mask, other=0.0)
            z = tl.dot(low_rank, weight, z, input_precision="ieee")
        # A product spreads rows over threads, and so would all that follows. A load from nowhere brings them together.
        z = tl.load(bias_ptr + map_offsets, mask=mask & nowhere, other=z)
    else:
        z = tl.load(delta_ptr + map_offsets, mask=mask, other=0.0).to(tl.float32)
    z += bias[None, :]
    delta = tl.where(valid[:, None], _softplus(z) if SOFTPLUS else z, 0.0)
    return z, delta, tl.exp2(delta * (1.4426950408889634 * A)[None, :])


@triton.jit
def _load_row_weights(ptr, inputs, place, STRIDE: tl.constexpr):
    return tl.load(ptr + inputs[1] + place[0] * STRIDE, mask=place[1], other=0.0).to(tl.float32)[:, None]


@triton.jit
def _summarize_direction(
    x, inputs, place, bias_ptr, weights_ptr, totals_ptr, ends_ptr, state_offsets, state_mask, nowhere,
    CHANNELS: tl.constexpr, STRIDE: tl.constexpr, RANK: tl.constexpr, SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr, ADJOINT: tl.constexpr,
):  # fmt: skip
    _, delta, decay = _load_steps(inputs, place, bias_ptr, nowhere, CHANNELS, STRIDE, RANK, SOFTPLUS)
    drive = (decay if ADJOINT else delta) * x * _load_row_weights(weights_ptr, inputs, place, STRIDE)
    A = inputs[4]
    _, end = _run_recurrence(decay, drive, tl.zeros_like(A), REVERSE != ADJOINT)
    tl.store(totals_ptr + state_offsets, tl.exp2(tl.sum(delta, axis=0) * (1.4426950408889634 * A)), mask=state_mask)
    tl.store(ends_ptr + state_offsets, end, mask=state_mask)


@triton.jit(do_not_specialize=SIZES)
def _summarize_kernel(
    x_ptr, delta_ptr, weight_ptr, bias_ptr, A_ptr, weights_ptr, totals_ptr, ends_ptr,
    batch, length, width, stride_direction, stride_batch,
    CHANNELS: tl.constexpr, HEIGHT: tl.constexpr, STRIDE: tl.constexpr, RANK: tl.constexpr,
    SOFTPLUS: tl.constexpr, TILE: tl.constexpr, ADJOINT: tl.constexpr, BLOCK_C: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """
    Total decay of each tile and the state at its end when started at zero, for rows and columns.

    The adjoint of `h_t = decay_t h_{t-1} + drive_t` is run for `decay_t g_t`, which `t` passes on to `t - 1`.
    """
    tiles = tl.cdiv(length, TILE)
    channel, _, span, rest = _locate_program(tiles, CHANNELS, BLOCK_C, TILES)
    columns = 0
    if RANK > 0:
        columns, rest = rest % 2, rest // 2
    index = rest % batch
    direction = (columns + rest // batch).to(tl.int64)
    sequence = direction * batch + index
    x_ptr += rest.to(tl.int64) * length * CHANNELS
    totals_ptr += sequence * tiles * CHANNELS
    ends_ptr += sequence * tiles * CHANNELS
    opposite = 2 * tl.cast(batch, tl.int64) * tiles * CHANNELS
    up = _load_direction(
        direction, sequence, index, channel, length, delta_ptr, weight_ptr, bias_ptr, A_ptr, stride_direction,
        stride_batch, CHANNELS, RANK,
    )  # fmt: skip
    if RANK > 0:
        down = _load_direction(
            direction + 2, sequence, index, channel, length, delta_ptr, weight_ptr, bias_ptr, A_ptr, stride_direction,
            stride_batch, CHANNELS, RANK,
        )  # fmt: skip
    for tile in range(span * TILES, tl.minimum(span * TILES + TILES, tiles)):
        place = _locate_tile(tile, length, width, columns, channel, CHANNELS, HEIGHT, TILE)
        state_offsets = tile * CHANNELS + channel
        x = tl.load(x_ptr + place[3], mask=place[2], other=0.0).to(tl.float32)
        _summarize_direction(
            x, up, place, bias_ptr, weights_ptr, totals_ptr, ends_ptr, state_offsets, channel < CHANNELS, length < 0,
            CHANNELS, STRIDE, RANK, SOFTPLUS, False, ADJOINT,
        )  # fmt: skip
        if RANK > 0:
            _summarize_direction(
                x, down, place, bias_ptr, weights_ptr, totals_ptr + opposite, ends_ptr + opposite, state_offsets,
                channel < CHANNELS, length < 0, CHANNELS, STRIDE, RANK, SOFTPLUS, True, ADJOINT,
            )  # fmt: skip


@triton.jit(do_not_specialize=["upward", "tiles"])
def _chain_kernel(
    totals_ptr, ends_ptr, starts_ptr, upward, tiles,
    CHANNELS: tl.constexpr, ADJOINT: tl.constexpr, TILE: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """State before each tile; the sequences from number `upward` on are reversed."""
    blocks = (CHANNELS + BLOCK_C - 1) // BLOCK_C
    channel = tl.program_id(0) % blocks * BLOCK_C + tl.arange(0, BLOCK_C)
    sequence = tl.program_id(0) // blocks
    reverse = (sequence < upward) if ADJOINT else (sequence >= upward)
    base = sequence.to(tl.int64) * tiles * CHANNELS
    state = tl.zeros([BLOCK_C], dtype=tl.float32)
    for first in range(0, tiles, TILE):
        step = first + tl.arange(0, TILE)
        mask = (step < tiles)[:, None] & (channel < CHANNELS)[None, :]
        offsets = _map_offsets(tl.where(reverse, tiles - 1 - step, step), channel, CHANNELS)
        totals = tl.load(totals_ptr + base + offsets, mask=mask, other=0.0)
        ends = tl.load(ends_ptr + base + offsets, mask=mask, other=0.0)
        starts, state = _run_recurrence(totals, ends, state, False)
        tl.store(starts_ptr + base + offsets, starts, mask=mask)


@triton.jit
def _output_direction(
    u, inputs, place, bias_ptr, B_ptr, C_ptr, start, nowhere,
    CHANNELS: tl.constexpr, STRIDE: tl.constexpr, RANK: tl.constexpr, SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr,
):  # fmt: skip
    _, delta, decay = _load_steps(inputs, place, bias_ptr, nowhere, CHANNELS, STRIDE, RANK, SOFTPLUS)
    drive = delta * u * _load_row_weights(B_ptr, inputs, place, STRIDE)
    before, _ = _run_recurrence(decay, drive, start, REVERSE)
    return (decay * before + drive) * _load_row_weights(C_ptr, inputs, place, STRIDE)


@triton.jit(do_not_specialize=SIZES)
def _output_kernel(
    u_ptr, delta_ptr, weight_ptr, bias_ptr, A_ptr, B_ptr, C_ptr, skip_ptr, starts_ptr, rows_ptr, y_ptr,
    batch, length, width, stride_direction, stride_batch,
    CHANNELS: tl.constexpr, HEIGHT: tl.constexpr, STRIDE: tl.constexpr, RANK: tl.constexpr,
    SOFTPLUS: tl.constexpr, TILE: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_C: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """Output of rows, or of columns plus that of rows; with the skip in the last of these."""
    tiles = tl.cdiv(length, TILE)
    channel, _, span, rest = _locate_program(tiles, CHANNELS, BLOCK_C, TILES)
    index = rest % batch
    direction = (COLUMNS + rest // batch).to(tl.int64)
    sequence = direction * batch + index
    base = rest.to(tl.int64) * length * CHANNELS
    starts_ptr += sequence * tiles * CHANNELS + channel
    opposite = 2 * tl.cast(batch, tl.int64) * tiles * CHANNELS
    up = _load_direction(
        direction, sequence, index, channel, length, delta_ptr, weight_ptr, bias_ptr, A_ptr, stride_direction,
        stride_batch, CHANNELS, RANK,
    )  # fmt: skip
    if RANK > 0:
        down = _load_direction(
            direction + 2, sequence, index, channel, length, delta_ptr, weight_ptr, bias_ptr, A_ptr, stride_direction,
            stride_batch, CHANNELS, RANK,
        )  # fmt: skip
    if COLUMNS or RANK == 0:
        skip = tl.load(skip_ptr + rest // batch * CHANNELS + channel, mask=channel < CHANNELS, other=0.0)
    for tile in range(span * TILES, tl.minimum(span * TILES + TILES, tiles)):
        place = _locate_tile(tile, length, width, COLUMNS, channel, CHANNELS, HEIGHT, TILE)
        mask, map_offsets = place[2], place[3]
        u = tl.load(u_ptr + base + map_offsets, mask=mask, other=0.0).to(tl.float32)
        start = tl.load(starts_ptr + tile * CHANNELS, mask=channel < CHANNELS, other=0.0)
        y = _output_direction(
            u, up, place, bias_ptr, B_ptr, C_ptr, start, length < 0, CHANNELS, STRIDE, RANK, SOFTPLUS, False
        )
        if RANK > 0:
            start = tl.load(starts_ptr + opposite + tile * CHANNELS, mask=channel < CHANNELS, other=0.0)
            y += _output_direction(
                u, down, place, bias_ptr, B_ptr, C_ptr, start, length < 0, CHANNELS, STRIDE, RANK, SOFTPLUS, True
            )
        if COLUMNS:
            y += tl.load(rows_ptr + base + map_offsets, mask=mask, other=0.0)
        if COLUMNS or RANK == 0:
            y += skip[None, :] * u
        tl.store(y_ptr + base + map_offsets, y, mask=mask)


@triton.jit
def _gradient_direction(
    u, grad_y, inputs, place, bias_ptr, B_ptr, C_ptr, start, adjoint_start, grad_z_ptr, grad_B_ptr, grad_C_ptr,
    nowhere, CHANNELS: tl.constexpr, STRIDE: tl.constexpr, RANK: tl.constexpr, SOFTPLUS: tl.constexpr,
    REVERSE: tl.constexpr,
):  # fmt: skip
    """Gradients of `u`, of the bias and of `A` from one tile; stores the others."""
    position, valid, mask, map_offsets = place
    z, delta, decay = _load_steps(inputs, place, bias_ptr, nowhere, CHANNELS, STRIDE, RANK, SOFTPLUS)
    grad_h = grad_y * _load_row_weights(C_ptr, inputs, place, STRIDE)
    passed, _ = _run_recurrence(decay, decay * grad_h, adjoint_start, not REVERSE)
    grad_h += passed

    B = _load_row_weights(B_ptr, inputs, place, STRIDE)
    before, _ = _run_recurrence(decay, delta * u * B, start, REVERSE)
    kept = decay * before
    tl.store(grad_C_ptr + position, tl.sum(grad_y * (kept + delta * u * B), axis=1), mask=valid)

    grad_driven = grad_h * u
    tl.store(grad_B_ptr + position, tl.sum(grad_driven * delta, axis=1), mask=valid)
    grad_exponent = grad_h * kept
    grad_A = tl.sum(grad_exponent * delta, axis=0)
    grad_z = grad_driven * B + grad_exponent * inputs[4][None, :]
    if SOFTPLUS:
        # The derivative of softplus is `exp(z - softplus(z))`.
        grad_z *= tl.exp2(1.4426950408889634 * (z - delta))
    tl.store(grad_z_ptr + map_offsets, grad_z, mask=mask)
    return grad_h * delta * B, tl.sum(tl.where(valid[:, None], grad_z, 0.0), axis=0), grad_A


@triton.jit(do_not_specialize=["sequences", *SIZES])
def _gradient_kernel(
    u_ptr, delta_ptr, weight_ptr, bias_ptr, A_ptr, B_ptr, C_ptr, skip_ptr, starts_ptr, grad_y_ptr,
    adjoint_starts_ptr, rows_ptr, grad_u_ptr, grad_z_ptr, grad_bias_ptr, grad_A_ptr, grad_B_ptr, grad_C_ptr,
    grad_skip_ptr, sequences, batch, length, width, stride_direction, stride_batch,
    CHANNELS: tl.constexpr, HEIGHT: tl.constexpr, STRIDE: tl.constexpr, RANK: tl.constexpr,
    SOFTPLUS: tl.constexpr, TILE: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_C: tl.constexpr, TILES: tl.constexpr,
):  # fmt: skip
    """
    Gradients of rows, or of columns, where that of `u` is added to that of rows.

    Sums over channels are left as one part per channel block, sums over elements as one part per program.
    """
    tiles = tl.cdiv(length, TILE)
    channel, block, span, rest = _locate_program(tiles, CHANNELS, BLOCK_C, TILES)
    index = rest % batch
    direction = (COLUMNS + rest // batch).to(tl.int64)
    sequence = direction * batch + index
    base = rest.to(tl.int64) * length * CHANNELS
    starts_ptr += sequence * tiles * CHANNELS + channel
    adjoint_starts_ptr += sequence * tiles * CHANNELS + channel
    grad_z_ptr += sequence * length * CHANNELS
    grad_B_ptr += (block.to(tl.int64) * sequences + sequence) * length
    grad_C_ptr += (block.to(tl.int64) * sequences + sequence) * length
    opposite = 2 * tl.cast(batch, tl.int64)
    up = _load_direction(
        direction, sequence, index, channel, length, delta_ptr, weight_ptr, bias_ptr, A_ptr, stride_direction,
        stride_batch, CHANNELS, RANK,
    )  # fmt: skip
    if RANK > 0:
        down = _load_direction(
            direction + 2, sequence, index, channel, length, delta_ptr, weight_ptr, bias_ptr, A_ptr, stride_direction,
            stride_batch, CHANNELS, RANK,
        )  # fmt: skip
    if COLUMNS or RANK == 0:
        skip = tl.load(skip_ptr + rest // batch * CHANNELS + channel, mask=channel < CHANNELS, other=0.0)
    up_bias = tl.zeros([BLOCK_C], dtype=tl.float32)
    up_A, down_bias, down_A, grad_skip = up_bias, up_bias, up_bias, up_bias
    for tile in range(span * TILES, tl.minimum(span * TILES + TILES, tiles)):
        place = _locate_tile(tile, length, width, COLUMNS, channel, CHANNELS, HEIGHT, TILE)
        mask, map_offsets = place[2], place[3]
        u = tl.load(u_ptr + base + map_offsets, mask=mask, other=0.0).to(tl.float32)
        grad_y = tl.load(grad_y_ptr + base + map_offsets, mask=mask, other=0.0).to(tl.float32)
        start = tl.load(starts_ptr + tile * CHANNELS, mask=channel < CHANNELS, other=0.0)
        adjoint_start = tl.load(adjoint_starts_ptr + tile * CHANNELS, mask=channel < CHANNELS, other=0.0)
        grad_u, grad_bias, grad_A = _gradient_direction(
            u, grad_y, up, place, bias_ptr, B_ptr, C_ptr, start, adjoint_start, grad_z_ptr, grad_B_ptr, grad_C_ptr,
            length < 0, CHANNELS, STRIDE, RANK, SOFTPLUS, False,
        )  # fmt: skip
        up_bias += grad_bias
        up_A += grad_A
        if RANK > 0:
            offset = (opposite * tiles + tile) * CHANNELS
            start = tl.load(starts_ptr + offset, mask=channel < CHANNELS, other=0.0)
            adjoint_start = tl.load(adjoint_starts_ptr + offset, mask=channel < CHANNELS, other=0.0)
            grad_u_down, grad_bias, grad_A = _gradient_direction(
                u, grad_y, down, place, bias_ptr, B_ptr, C_ptr, start, adjoint_start,
                grad_z_ptr + opposite * length * CHANNELS, grad_B_ptr + opposite * length,
                grad_C_ptr + opposite * length, length < 0, CHANNELS, STRIDE, RANK, SOFTPLUS, True,
            )  # fmt: skip
            grad_u += grad_u_down
            down_bias += grad_bias
            down_A += grad_A
        if COLUMNS:
            grad_u += tl.load(rows_ptr + base + map_offsets, mask=mask, other=0.0)
        if COLUMNS or RANK == 0:
            grad_u += skip[None, :] * grad_y
            grad_skip += tl.sum(grad_y * u, axis=0)
        tl.store(grad_u_ptr + base + map_offsets, grad_u, mask=mask)

    part = (span.to(tl.int64) * sequences + sequence) * CHANNELS + channel
    tl.store(grad_bias_ptr + part, up_bias, mask=channel < CHANNELS)
    tl.store(grad_A_ptr + part, up_A, mask=channel < CHANNELS)
    if RANK > 0:
        tl.store(grad_bias_ptr + part + opposite * CHANNELS, down_bias, mask=channel < CHANNELS)
        tl.store(grad_A_ptr + part + opposite * CHANNELS, down_A, mask=channel < CHANNELS)
    if COLUMNS or RANK == 0:
        maps = batch if RANK > 0 else sequences
        part = (span.to(tl.int64) * maps + rest) * CHANNELS + channel
        tl.store(grad_skip_ptr + part, grad_skip, mask=channel < CHANNELS)
