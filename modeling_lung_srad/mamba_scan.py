"""Selective scan by the CUDA kernel of the package mamba_ssm, imported only where it is used."""

import torch

try:  # Where this file is saved with a checkpoint, loading that must not ask for a package of CUDA machines.
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
except Exception as error:  # A build for another CUDA or torch fails to load in many ways.
    raise ImportError("mamba_ssm cannot be imported.") from error


def scan_1d(u, delta, A, B, C, D, delta_bias, delta_softplus) -> torch.Tensor:
    """[`selective_scan`]; its arguments, already checked, of which the kernel wants parameters in float32."""
    dtype = torch.promote_types(u.dtype, delta.dtype)
    u, delta, B, C = (x.to(dtype).contiguous() for x in (u, delta, B, C))
    A, D, delta_bias = (None if x is None else x.float().contiguous() for x in (A, D, delta_bias))
    return selective_scan_fn(u, delta, A, B, C, D, None, delta_bias, delta_softplus)


def scan_2d(hidden_states, low_rank_delta, delta_weight, delta_bias, A, B, C, D) -> torch.Tensor:
    """[`selective_scan_2d`]; its arguments, already checked. The kernel needs the four traversals, channels first."""
    batch, height, width, channels = hidden_states.shape
    u = _traverse(hidden_states.expand(4, -1, -1, -1, -1))
    delta = torch.einsum("kcr,bkrl->bkcl", delta_weight.to(low_rank_delta.dtype), _traverse(low_rank_delta))
    y = scan_1d(
        u.flatten(1, 2),
        delta.flatten(1, 2),
        A.flatten(0, 1),
        _traverse(B),
        _traverse(C),
        D.flatten(),
        delta_bias.flatten(),
        delta_softplus=True,
    ).unflatten(1, (4, channels))
    rows, columns = y[:, 0] + y[:, 2].flip(-1), y[:, 1] + y[:, 3].flip(-1)
    merged = rows + columns.unflatten(-1, (width, height)).transpose(2, 3).flatten(2)
    return merged.transpose(1, 2).reshape(batch, height, width, channels)


def _traverse(maps: torch.Tensor) -> torch.Tensor:
    """Four maps `(4, batch, height, width, channels)` as sequences `(batch, 4, channels, length)`."""
    rows, columns = maps[0::2].flatten(2, 3), maps[1::2].transpose(2, 3).flatten(2, 3)
    sequences = torch.stack((rows[0], columns[0], rows[1].flip(1), columns[1].flip(1)), dim=1)
    return sequences.transpose(2, 3)
