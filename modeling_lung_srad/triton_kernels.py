"""The kernels of the selective scan with state size 1, see `triton_scan.py`.

One thread holds one channel of all rows of a tile. Picking a row then costs nothing, and a recurrence over the tile is
one multiply-add per element, in either direction.
"""

try:  # Where this file is saved with a checkpoint, loading that must not ask for a package of CUDA machines.
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError("Triton is not installed.") from error

RANK_BLOCK = tl.constexpr(16)
# Nothing is compiled again for another batch or length.
SIZES = ["batch", "length", "width", "stride_direction", "stride_batch"]


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
def summarize_kernel(
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
def chain_kernel(
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
def output_kernel(
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
def gradient_kernel(
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
