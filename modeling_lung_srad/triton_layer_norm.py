"""Layer norm over few channels as CUDA kernels, written in Triton; imported only where it is used.

Torch gives each row a block of threads, which costs more than the work on a row of this model, 96 to 768 channels.
Here a program takes a tile of rows. The backward pass (equations of arXiv 1607.06450) keeps the input and two numbers
per row; the gradients of the parameters are summed per program and then over the programs, so nothing is added
atomically: results are the same from run to run.
"""

import contextlib

import torch
from torch.autograd.function import once_differentiable

try:  # Where this file is saved with a checkpoint, loading that must not ask for a package of CUDA machines.
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError("Triton is not installed.") from error

MAX_CHANNELS = 1024
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Elements of a tile. The gradient kernel keeps three times as many values of one in registers.
FORWARD_TILE = 4096
GRADIENT_TILE = 2048
# Each program of the gradient kernel leaves a part of the gradients of the parameters, which must stay few.
GRADIENT_PROGRAMS = 1024
GRADIENT_TILES = 4


def is_supported(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> bool:
    """True if [`layer_norm`] takes these tensors: any combination of `DTYPES`, at most `MAX_CHANNELS` channels."""
    return 1 <= x.shape[-1] <= MAX_CHANNELS and all(tensor.dtype in DTYPES for tensor in (x, weight, bias))


def layer_norm(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, eps: float, dtype: torch.dtype
) -> torch.Tensor:
    """
    `torch.nn.functional.layer_norm` over the last axis on CUDA, computed in float32. Differentiable once.

    Args:
        x (`torch.Tensor` of shape `(..., channels)`): input.
        weight (`torch.Tensor` of shape `(channels,)`): scales.
        bias (`torch.Tensor` of shape `(channels,)`): offsets.
        eps (`float`): added to the variance.
        dtype (`torch.dtype`): of the result, one of `DTYPES`.

    Returns:
        `torch.Tensor` of the shape of `x`, contiguous.

    Raises:
        ValueError: if the tensors are not those of [`is_supported`].
    """
    if not is_supported(x, weight, bias):
        raise ValueError(
            f"`x` has {x.shape[-1]} channels in {x.dtype}, `weight` is {weight.dtype} and `bias` {bias.dtype}; the "
            f"Triton layer norm takes 1 to {MAX_CHANNELS} channels in at most 32 bits: use `F.layer_norm`."
        )
    return _TritonLayerNorm.apply(x.contiguous(), weight.contiguous(), bias.contiguous(), eps, dtype)


class _TritonLayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, eps, dtype):
        channels = x.shape[-1]
        rows = x.numel() // channels
        sizes = _tile_sizes(channels, FORWARD_TILE)
        y = torch.empty(x.shape, device=x.device, dtype=dtype)
        mean, inverse_deviation = (torch.empty(rows, device=x.device, dtype=torch.float32) for _ in range(2))
        if rows > 0:
            with _on_device(x):
                _layer_norm_kernel[(triton.cdiv(rows, sizes["ROWS"]),)](
                    x, weight, bias, y, mean, inverse_deviation, rows, eps, **sizes
                )
        ctx.save_for_backward(x, weight, bias, mean, inverse_deviation)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y):
        x, weight, bias, mean, inverse_deviation = ctx.saved_tensors
        channels = x.shape[-1]
        rows = x.numel() // channels
        sizes = _tile_sizes(channels, GRADIENT_TILE)
        programs = min(GRADIENT_PROGRAMS, triton.cdiv(rows, GRADIENT_TILES * sizes["ROWS"]))
        grad_x = torch.empty_like(x)
        parts = torch.empty(programs, 2, channels, device=x.device, dtype=torch.float32)
        if rows > 0:
            with _on_device(x):
                _gradient_kernel[(programs,)](
                    grad_y.contiguous(), x, weight, mean, inverse_deviation, grad_x, parts, rows, **sizes
                )
        grad_weight, grad_bias = parts.sum(0)
        return grad_x, grad_weight.to(weight.dtype), grad_bias.to(bias.dtype), None, None


def _tile_sizes(channels: int, elements: int) -> dict[str, int]:
    block = triton.next_power_of_2(channels)
    return {"CHANNELS": channels, "BLOCK_C": block, "ROWS": max(1, elements // block), "num_warps": 4}


def _on_device(x: torch.Tensor):
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()


@triton.jit
def _locate_tile(tile, rows, CHANNELS: tl.constexpr, BLOCK_C: tl.constexpr, ROWS: tl.constexpr):
    """Rows of a tile, which of them exist, offset of the tile, offsets in it, and which elements exist."""
    first = tl.cast(tile, tl.int64) * ROWS
    row = tl.arange(0, ROWS)
    channel = tl.arange(0, BLOCK_C)
    exists = first + row < rows
    mask = exists[:, None] & (channel < CHANNELS)[None, :]
    return first + row, exists, first * CHANNELS, row[:, None] * CHANNELS + channel[None, :], mask


# Nothing is compiled again for another number of rows.
@triton.jit(do_not_specialize=["rows"])
def _layer_norm_kernel(
    x_ptr, weight_ptr, bias_ptr, y_ptr, mean_ptr, inverse_deviation_ptr, rows, eps,
    CHANNELS: tl.constexpr, BLOCK_C: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    row, exists, start, offsets, mask = _locate_tile(tl.program_id(0), rows, CHANNELS, BLOCK_C, ROWS)
    channel = tl.arange(0, BLOCK_C)
    x = tl.load(x_ptr + start + offsets, mask=mask, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)

    mean = tl.sum(x, axis=1) * (1.0 / CHANNELS)
    centred = tl.where((channel < CHANNELS)[None, :], x - mean[:, None], 0.0)
    inverse_deviation = tl.rsqrt(tl.sum(centred * centred, axis=1) * (1.0 / CHANNELS) + eps)
    y = centred * inverse_deviation[:, None] * weight[None, :] + bias[None, :]

    tl.store(y_ptr + start + offsets, y, mask=mask)
    tl.store(mean_ptr + row, mean, mask=exists)
    tl.store(inverse_deviation_ptr + row, inverse_deviation, mask=exists)


@triton.jit(do_not_specialize=["rows"])
def _gradient_kernel(
    grad_y_ptr, x_ptr, weight_ptr, mean_ptr, inverse_deviation_ptr, grad_x_ptr, parts_ptr, rows,
    CHANNELS: tl.constexpr, BLOCK_C: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Gradient of `x`, and per program those of `weight` and `bias`, of every so many tiles as there are programs."""
    channel = tl.arange(0, BLOCK_C)
    weight = tl.load(weight_ptr + channel, mask=channel < CHANNELS, other=0.0).to(tl.float32)
    grad_weight = tl.zeros((ROWS, BLOCK_C), dtype=tl.float32)
    grad_bias = tl.zeros((ROWS, BLOCK_C), dtype=tl.float32)
    for tile in range(tl.program_id(0), tl.cdiv(rows, ROWS), tl.num_programs(0)):
        row, exists, start, offsets, mask = _locate_tile(tile, rows, CHANNELS, BLOCK_C, ROWS)
        grad_y = tl.load(grad_y_ptr + start + offsets, mask=mask, other=0.0).to(tl.float32)
        x = tl.load(x_ptr + start + offsets, mask=mask, other=0.0).to(tl.float32)
        mean = tl.load(mean_ptr + row, mask=exists, other=0.0)
        inverse_deviation = tl.load(inverse_deviation_ptr + row, mask=exists, other=0.0)

        normalised = (x - mean[:, None]) * inverse_deviation[:, None]
        grad_weight += grad_y * normalised
        grad_bias += grad_y
        # Where nothing exists `grad_y` is zero, so it adds nothing to the sums.
        grad_normalised = grad_y * weight[None, :]
        slope = tl.sum(grad_normalised * normalised, axis=1) * (1.0 / CHANNELS)
        offset = tl.sum(grad_normalised, axis=1) * (1.0 / CHANNELS)
        grad_x = (grad_normalised - normalised * slope[:, None] - offset[:, None]) * inverse_deviation[:, None]
        tl.store(grad_x_ptr + start + offsets, grad_x, mask=mask)

    part = parts_ptr + tl.program_id(0) * 2 * CHANNELS + channel
    tl.store(part, tl.sum(grad_weight, axis=0), mask=channel < CHANNELS)
    tl.store(part + CHANNELS, tl.sum(grad_bias, axis=0), mask=channel < CHANNELS)
