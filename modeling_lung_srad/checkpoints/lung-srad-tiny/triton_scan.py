"""Selective scan with state size 1 on CUDA by the kernels of `triton_kernels.py`; imported only where it is used.

Source: Mamba (arXiv 2312.00752, equation 2) and the four traversals of VMamba (arXiv 2401.10166, section 4.2); the
split into chunks is the "reduce, then scan" of Merrill and Garland (NVIDIA NVR-2016-002).

A map is stored as `(length, channels)`, channels last. Each of its four directions is a sequence over the same
positions: rows and columns, each walked up and down. Sequences are cut into tiles of `TILE` elements. Forward:

1. `summarize_kernel` runs every tile from zero to its end state and multiplies its decays;
2. `chain_kernel` goes over the tiles of a sequence by these and leaves the state before each tile;
3. `output_kernel` runs every tile again from its true start, up and down at once, first for rows, then for columns.

The backward pass does the same with the adjoint recurrence, which runs against the direction of the sequence, and
needs of the forward pass only its inputs and the states before the tiles. The step sizes are projected from their low
rank form inside the kernels, so no tensor of four times the size of the map is stored, except their gradient. Nothing
is added atomically: results are the same from run to run.
"""

import contextlib

import torch
from torch.autograd.function import once_differentiable

try:  # Where this file is saved with a checkpoint, loading that must not ask for a package of CUDA machines.
    import triton
except ImportError as error:
    raise ImportError("Triton is not installed.") from error

from .triton_kernels import chain_kernel, gradient_kernel, output_kernel, summarize_kernel

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
            summarize_kernel[(self.orientations * self._programs(summarize),)](
                x, *self.inputs, weights, totals, ends, *self.sizes, **self.constants, ADJOINT=adjoint, **summarize
            )
            chain_kernel[(self.directions * self.batch * self._blocks(chain),)](
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
                output_kernel[(self._programs(settings),)](
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
                gradient_kernel[(self._programs(settings),)](
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
