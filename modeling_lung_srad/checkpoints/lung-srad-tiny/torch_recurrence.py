"""The recurrence `h_t = decay_t h_{t-1} + drive_t` and its gradient in plain torch; see `torch_scan.py`.

A sequence is cut into blocks, and the recurrence runs through all blocks at once: first from zero to the end state of
each block, then, when these and the total decays have been chained, again from the true start of each block. Nothing
is divided by a decay, so one that underflows does no harm.

Layout: tensors called "by step" have shape `(scans, steps, batch, blocks, channels)`, where element `(k, i, b, j)` is
number `j * steps + i` of sequence `b` of scan `k`, so that one step of all blocks is one piece of memory.
"""

import math

import torch
import torch.nn.functional as F

LONGEST_CHAIN = 8


def no_state(u: torch.Tensor, A: torch.Tensor) -> torch.Tensor:
    """The state `(scans, batch, channels, states)` before the first position, of `u` by step."""
    return A.new_zeros(u.shape[0], u.shape[2], *A.shape[1:])


def discretize(driven, step, A, B):
    """Binary logarithms of the decays, which overwrite `step`, and what enters the states, which overwrites `driven`,
    the product of inputs and step sizes."""
    drive = _times(driven.unsqueeze(-1), B.unsqueeze(-2))
    # exp2 is several times faster than exp where torch takes exp from MKL.
    return _times(step.unsqueeze(-1), (A / math.log(2))[:, None, None, None]), drive


def _times(x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """The product, in the memory of `x` where it has the same shape: fresh memory costs more than the product."""
    return x.mul_(weights) if weights.shape[-1] == 1 else x * weights


def scan_blocks(exponent, drive, state):
    """
    States by step, states before each block, and the state after, from the state before.

    Outside of a graph, the states are in the memory of `drive`, and the decays in that of `exponent`.
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


def scan_gradients(grad_y, u, step, A, B, C, starts, grad_state):
    """
    Gradients of `u`, `step`, `A`, `B`, `C` and of the state before, given that of the state after.

    The gradient of the states is `g_t = C_t grad_t + decay_{t+1} g_{t+1}`.
    """
    exponent, drive = discretize(u * step, step.clone(), A, B)
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
    grad_driven = sum_states(grad_states, B)
    grad_step = torch.addcmul((grad_exponent * A[:, None, None, None]).sum(-1), grad_driven, u)
    return (grad_driven.mul_(step), grad_step, grad_A, grad_B, grad_C), grad_state


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
    groups = 1 if blocks <= LONGEST_CHAIN else math.isqrt(blocks - 1) + 1
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


def sum_states(states: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sums `(..., channels, states)` over the states with weights `(..., states)`."""
    if weights.shape[-1] == 1:
        return states.squeeze(-1).mul_(weights)
    return (states @ weights.unsqueeze(-1)).squeeze(-1)


def _sum_channels(states: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Sums `(..., channels, states)` over the channels with weights `(..., channels)`."""
    return (weights.unsqueeze(-2) @ states).squeeze(-2)
