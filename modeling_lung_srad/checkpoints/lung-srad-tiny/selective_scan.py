"""Selective scan of a state space model, in plain torch, on any device.

Source: Mamba (arXiv 2312.00752, equation 2 with the discretisation of `selective_scan_fn`), and the four traversals of
VMamba (arXiv 2401.10166, section 4.2). The recurrence runs through all blocks of a sequence at once: each block is
first run from zero to its end state, the blocks are chained by these and by their total decays, and each is then run
again from its true start. That takes about `2 * sqrt(length)` steps where a plain loop takes `length`, and no
division, so nothing under- or overflows.

Layout: tensors called "by step" have shape `(steps, batch, blocks, channels)`, where element `(i, b, j)` is number
`j * steps + i` of its sequence, so that one step of all blocks is one contiguous piece of memory.
"""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from transformers.utils import logging

logger = logging.get_logger(__name__)

SCAN_BACKENDS = ("auto", "torch")


def selective_scan(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None = None,
    delta_bias: torch.Tensor | None = None,
    delta_softplus: bool = True,
    backend: str = "auto",
) -> torch.Tensor:
    r"""
    Runs `h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t`, `y_t = C_t h_t + D u_t` along the last axis.

    Half precision inputs are computed in float32, float64 inputs in float64. Differentiable once in every argument.

    Args:
        u (`torch.Tensor` of shape `(batch, groups * channels, length)`): input.
        delta (`torch.Tensor` of shape `(batch, groups * channels, length)`): step sizes, before bias and softplus.
        A (`torch.Tensor` of shape `(groups * channels, state_size)`): negative decay rates.
        B (`torch.Tensor` of shape `(batch, groups, state_size, length)`): input weights.
        C (`torch.Tensor` of shape `(batch, groups, state_size, length)`): output weights.
        D (`torch.Tensor` of shape `(groups * channels,)`, *optional*): skip weights.
        delta_bias (`torch.Tensor` of shape `(groups * channels,)`, *optional*): added to `delta`.
        delta_softplus (`bool`, *optional*, defaults to `True`): whether softplus makes the step sizes positive.
        backend (`str`, *optional*, defaults to `"auto"`): `"auto"` or `"torch"`.

    Returns:
        `torch.Tensor` of shape `(batch, groups * channels, length)` in the dtype of `u`.

    Raises:
        ValueError: if shapes do not fit each other or the back end is unknown; the message names the argument.

    Example:

    ```python
    >>> import torch
    >>> from modeling_lung_srad import selective_scan

    >>> u = torch.ones(1, 2, 5)
    >>> A, B = -torch.ones(2, 1), torch.ones(1, 1, 1, 5)
    >>> selective_scan(u, torch.zeros_like(u), A, B, B).shape
    torch.Size([1, 2, 5])

    ```"""
    check_backend(backend, u.device)
    _check_shapes(u, delta, A, B, C, D, delta_bias)
    if u.numel() == 0:
        return u * delta
    groups, length = B.shape[1], u.shape[2]
    steps = math.isqrt(length - 1) + 1

    def by_step(x: torch.Tensor) -> torch.Tensor:
        # A zero input adds nothing to the state, and the outputs of the padding are cut off.
        return F.pad(x, (0, -length % steps)).unflatten(-1, (-1, steps)).permute(3, 0, 2, 1).contiguous()

    if delta_bias is not None:
        delta = delta + delta_bias.unsqueeze(-1)
    outputs = [
        _scan_by_step(
            by_step(u_group),
            by_step(delta_group),
            A_group,
            by_step(B[:, group]),
            by_step(C[:, group]),
            delta_softplus,
            reverse=False,
        )
        for group, (u_group, delta_group, A_group) in enumerate(
            zip(u.chunk(groups, 1), delta.chunk(groups, 1), A.chunk(groups), strict=True)
        )
    ]
    y = torch.cat([y.permute(1, 3, 2, 0).flatten(2)[..., :length] for y in outputs], dim=1)
    if D is not None:
        y = y + u * D.unsqueeze(-1)
    return y.to(u.dtype)


def selective_scan_2d(
    hidden_states: torch.Tensor,
    low_rank_delta: torch.Tensor,
    delta_weight: torch.Tensor,
    delta_bias: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    backend: str = "auto",
) -> torch.Tensor:
    r"""
    Scans a feature map along four directions (row-major, column-major, and both reversed) and sums the results.

    Args:
        hidden_states (`torch.Tensor` of shape `(batch, height, width, channels)`): the map, read by all directions.
        low_rank_delta (`torch.Tensor` of shape `(4, batch, height, width, rank)`): step sizes before their projection.
        delta_weight (`torch.Tensor` of shape `(4, channels, rank)`): projection of the step sizes.
        delta_bias (`torch.Tensor` of shape `(4, channels)`): added to them, before softplus.
        A (`torch.Tensor` of shape `(4, channels, state_size)`): negative decay rates.
        B (`torch.Tensor` of shape `(4, batch, height, width, state_size)`): input weights.
        C (`torch.Tensor` of shape `(4, batch, height, width, state_size)`): output weights.
        D (`torch.Tensor` of shape `(4, channels)`): skip weights.
        backend (`str`, *optional*, defaults to `"auto"`): as for [`selective_scan`].

    Returns:
        `torch.Tensor` of shape `(batch, height, width, channels)`, at least float32.
    """
    check_backend(backend, hidden_states.device)
    height, width = hidden_states.shape[1:3]
    steps = _divisor_from(width, min(width, math.sqrt(height * width)))

    def rows_by_step(x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(2, (-1, steps)).permute(3, 0, 1, 2, 4).flatten(2, 3)

    def columns_by_step(x: torch.Tensor) -> torch.Tensor:
        return x.transpose(0, 1)

    merged = []
    for first, by_step in enumerate((rows_by_step, columns_by_step)):
        u = by_step(hidden_states)
        both = []
        for direction in (first, first + 2):
            low_rank = by_step(low_rank_delta[direction]).contiguous()
            both.append(
                _scan_by_step(
                    u,
                    F.linear(low_rank, delta_weight[direction], delta_bias[direction].to(low_rank.dtype)),
                    A[direction],
                    by_step(B[direction]),
                    by_step(C[direction]),
                    delta_softplus=True,
                    reverse=direction >= 2,
                )
            )
        merged.append(both[0] + both[1])
    rows = merged[0].unflatten(2, (height, -1)).permute(1, 2, 3, 0, 4).flatten(2, 3)
    return torch.addcmul(rows + merged[1].transpose(0, 1), hidden_states.to(rows.dtype), D.sum(0).to(rows.dtype))


def _scan_by_step(u, delta, A, B, C, delta_softplus: bool, reverse: bool) -> torch.Tensor:
    """One direction without skip: all but `A` by step; `B` and `C` have the state size in place of the channels."""
    dtype = torch.promote_types(torch.promote_types(u.dtype, delta.dtype), torch.float32)
    u, delta, A, B, C = (x.to(dtype) for x in (u, delta, A, B, C))
    return _SelectiveScan.apply(u, delta, A, B, C, delta_softplus, reverse)


class _SelectiveScan(torch.autograd.Function):
    """Keeps inputs and states; decays are computed again in the backward pass, which saves their memory."""

    @staticmethod
    def forward(ctx, u, delta, A, B, C, delta_softplus, reverse):
        step = F.softplus(delta) if delta_softplus else delta
        decay = (step.unsqueeze(-1) * A).exp_()
        states = (step * u).unsqueeze(-1) * B.unsqueeze(-2)
        _run_recurrence(decay, states, reverse)
        ctx.save_for_backward(u, delta, A, B, C, states)
        ctx.delta_softplus, ctx.reverse = delta_softplus, reverse
        return _contract_state(states, C)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y):
        u, delta, A, B, C, states = ctx.saved_tensors
        step = F.softplus(delta) if ctx.delta_softplus else delta
        decay = (step.unsqueeze(-1) * A).exp_()

        grad_C = (states * grad_y.unsqueeze(-1)).sum(-2)
        grad_states = grad_y.unsqueeze(-1) * C.unsqueeze(-2)
        _run_adjoint(decay, grad_states, ctx.reverse)
        grad_exponent = _times_previous_state(decay, states, ctx.reverse).mul_(grad_states)

        grad_A = (grad_exponent * step.unsqueeze(-1)).sum((0, 1, 2))
        grad_driven = _contract_state(grad_states, B)
        grad_B = (grad_states * (step * u).unsqueeze(-1)).sum(-2)
        grad_delta = torch.addcmul((grad_exponent * A).sum(-1), grad_driven, u)
        if ctx.delta_softplus:
            grad_delta.mul_(torch.sigmoid(delta))
        return grad_driven.mul_(step), grad_delta, grad_A, grad_B, grad_C, None, None


def _contract_state(states: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sums `(..., channels, state_size)` over the states with weights `(..., state_size)`."""
    if weights.shape[-1] == 1:
        return states.squeeze(-1) * weights
    return (states @ weights.unsqueeze(-1)).squeeze(-1)


def _order(length: int, reverse: bool) -> range:
    return range(length - 1, -1, -1) if reverse else range(length)


def _run_recurrence(decay: torch.Tensor, drive: torch.Tensor, reverse: bool) -> None:
    """Overwrites `drive` with `h_t = decay_t h_{t-1} + drive_t`; both by step, with any further axes."""
    order = _order(drive.shape[0], reverse)
    if drive.shape[2] > 1:
        end = drive[order[0]]
        for step in order[1:]:
            end = torch.addcmul(drive[step], decay[step], end)
        drive[order[0]].addcmul_(decay[order[0]], _chain_blocks(decay.prod(0), end, reverse))
    for previous, step in pairwise(order):
        drive[step].addcmul_(decay[step], drive[previous])


def _run_adjoint(decay: torch.Tensor, grad_states: torch.Tensor, reverse: bool) -> None:
    """Overwrites `grad_states` with `g_t = grad_t + decay_{t+1} g_{t+1}`, the recurrence walked backwards."""
    order = _order(decay.shape[0], not reverse)
    if decay.shape[2] > 1:
        end = grad_states[order[0]]
        for following, step in pairwise(order):
            end = torch.addcmul(grad_states[step], decay[following], end)
        grad_states[order[0]].add_(_chain_blocks(decay.prod(0), end * decay[order[-1]], not reverse))
    for following, step in pairwise(order):
        grad_states[step].addcmul_(decay[following], grad_states[following])


def _chain_blocks(total: torch.Tensor, end: torch.Tensor, reverse: bool) -> torch.Tensor:
    """Start state of each of `(batch, blocks, ...)`, from its total decay and its end state when started at zero."""
    blocks = end.shape[1]
    steps = _divisor_from(blocks, math.sqrt(blocks))
    total, states = (x.unflatten(1, (-1, steps)).movedim(2, 0).contiguous() for x in (total, end))
    _run_recurrence(total, states, reverse)
    states = states.movedim(0, 2).flatten(1, 2)
    zero = torch.zeros_like(end[:, :1])
    return torch.cat([states[:, 1:], zero] if reverse else [zero, states[:, :-1]], dim=1)


def _times_previous_state(x: torch.Tensor, states: torch.Tensor, reverse: bool) -> torch.Tensor:
    """`x_t h_{t-1}`, where the first previous state is zero and blocks follow each other."""
    product = torch.empty_like(x)
    if reverse:
        torch.mul(x[:-1], states[1:], out=product[:-1])
        torch.mul(x[-1, :, :-1], states[0, :, 1:], out=product[-1, :, :-1])
        product[-1, :, -1] = 0
    else:
        torch.mul(x[1:], states[:-1], out=product[1:])
        torch.mul(x[0, :, 1:], states[-1, :, :-1], out=product[0, :, 1:])
        product[0, :, 0] = 0
    return product


def _divisor_from(number: int, least: float) -> int:
    """The smallest divisor of `number` that is not below `least`."""
    return next(divisor for divisor in range(math.ceil(least), number + 1) if number % divisor == 0)


def check_backend(backend: str, device: torch.device) -> None:
    """Raises `ValueError` for a back end this version does not have; says once when a device gets a slow one."""
    if backend not in SCAN_BACKENDS:
        raise ValueError(f"`scan_backend` is {backend!r}; this version has {', '.join(SCAN_BACKENDS)}.")
    if backend == "auto" and device.type == "cuda":
        logger.warning_once(
            "The selective scan runs as plain torch operations on CUDA: correct, but slower than a fused kernel."
        )


def _check_shapes(u, delta, A, B, C, D, delta_bias) -> None:
    if u.ndim != 3:
        raise ValueError(f"`u` must have shape (batch, groups * channels, length), got {tuple(u.shape)}.")
    batch, width, length = u.shape
    if A.ndim != 2 or A.shape[0] != width:
        raise ValueError(f"`A` must have shape ({width}, state_size) to fit `u`, got {tuple(A.shape)}.")
    groups = B.shape[1] if B.ndim == 4 else 0
    if groups < 1 or width % groups:
        raise ValueError(
            f"`B` must have shape (batch, groups, state_size, length) with groups dividing {width}, "
            f"got {tuple(B.shape)}."
        )
    weights = (batch, groups, A.shape[1], length)
    expected = {"delta": (delta, tuple(u.shape)), "B": (B, weights), "C": (C, weights)}
    expected |= {"D": (D, (width,)), "delta_bias": (delta_bias, (width,))}
    expected |= {"u": (u, tuple(u.shape)), "A": (A, tuple(A.shape))}
    for name, (tensor, shape) in expected.items():
        if tensor is not None and not tensor.is_floating_point():
            raise ValueError(f"`{name}` must be a floating point tensor, got {tensor.dtype}.")
        if tensor is not None and tuple(tensor.shape) != shape:
            raise ValueError(f"`{name}` must have shape {shape} to fit `u` and `A`, got {tuple(tensor.shape)}.")
        if tensor is not None and tensor.device != u.device:
            raise ValueError(f"`{name}` is on {tensor.device} but `u` on {u.device}; move them to one device.")
