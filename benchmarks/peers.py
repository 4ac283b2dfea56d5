"""The peers that Lung-SRAD is timed beside: the plain sequential scan, the network without its scan, and AST-base."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from transformers import ASTConfig, ASTForAudioClassification

from modeling_lung_srad import LungSradConfig, LungSradForAudioClassification, modeling_lung_srad

SIZES = {"tiny": LungSradConfig.tiny, "small": LungSradConfig.small, "medium": LungSradConfig.medium}
NUM_MEL_BINS = 128
NUM_LABELS = 4
CLIP_FRAMES = 1024


def sequential_scan_2d(
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
    """
    The scan of public implementations of Mamba and VMamba without their kernel, with the arguments of
    [`~modeling_lung_srad.selective_scan.selective_scan_2d`].

    Four traversals are stacked channels first, all decays and inputs are computed for all positions, and a Python loop
    of differentiable operations takes one position after another. Written from the definition (arXiv 2312.00752,
    equation 2; arXiv 2401.10166, section 4.2). It differs in their favour: positions are unbound at once, since
    indexing them one by one makes the backward pass quadratic in length.

    Returns:
        `torch.Tensor` of shape `(batch, height, width, channels)`, in float32 or float64.
    """
    batch, height, width, channels = hidden_states.shape
    dtype = torch.promote_types(hidden_states.dtype, torch.float32)
    with torch.autocast(hidden_states.device.type, enabled=False):
        u = _traverse(hidden_states.to(dtype).expand(4, -1, -1, -1, -1))
        delta = torch.einsum("bkrl,kcr->bkcl", _traverse(low_rank_delta.to(dtype)), delta_weight.to(dtype))
        y = _sequential_scan(
            u.flatten(1, 2),
            delta.flatten(1, 2),
            A.flatten(0, 1).to(dtype),
            _traverse(B.to(dtype)).repeat_interleave(channels, dim=1),
            _traverse(C.to(dtype)).repeat_interleave(channels, dim=1),
            D.flatten().to(dtype),
            delta_bias.flatten().to(dtype),
        ).unflatten(1, (4, channels))
    rows, columns = y[:, 0] + y[:, 2].flip(-1), y[:, 1] + y[:, 3].flip(-1)
    merged = rows + columns.unflatten(-1, (width, height)).transpose(2, 3).flatten(2)
    return merged.transpose(1, 2).reshape(batch, height, width, channels)


def skip_scan_2d(hidden_states: torch.Tensor, *arguments: torch.Tensor, **keywords: object) -> torch.Tensor:
    """Returns the map itself, which leaves the cost of everything around the scan."""
    return hidden_states.float()


@contextmanager
def replaced_scan(scan: Callable[..., torch.Tensor]) -> Iterator[None]:
    """Makes every Lung-SRAD model call `scan` in place of `selective_scan_2d` within the block."""
    original = modeling_lung_srad.selective_scan_2d
    modeling_lung_srad.selective_scan_2d = scan
    try:
        yield
    finally:
        modeling_lung_srad.selective_scan_2d = original


def build_lung_srad(size: str, backend: str) -> LungSradForAudioClassification:
    """A Lung-SRAD network of a named size with random weights."""
    return LungSradForAudioClassification(SIZES[size](scan_backend=backend))


def build_ast_base() -> ASTForAudioClassification:
    """AST-base of transformers with random weights; it takes 1024 frames, no more and no less."""
    return ASTForAudioClassification(ASTConfig(num_labels=NUM_LABELS))  # type: ignore[call-arg]


def _traverse(maps: torch.Tensor) -> torch.Tensor:
    """Four maps `(4, batch, height, width, channels)` as sequences `(batch, 4, channels, length)`: rows, columns, and
    both backwards."""
    rows, columns = maps[0::2].flatten(2, 3), maps[1::2].transpose(2, 3).flatten(2, 3)
    sequences = torch.stack((rows[0], columns[0], rows[1].flip(1), columns[1].flip(1)), dim=1)
    return sequences.transpose(2, 3).contiguous()


def _sequential_scan(u, delta, A, B, C, D, delta_bias) -> torch.Tensor:
    """`u` and `delta` `(batch, channels, length)`, `A` `(channels, states)`, `B` and `C` `(batch, channels, states,
    length)`."""
    delta = F.softplus(delta + delta_bias.unsqueeze(-1))
    decay = torch.exp(torch.einsum("bcl,cn->bcln", delta, A))
    drive = torch.einsum("bcl,bcnl,bcl->bcln", delta, B, u)
    state = A.new_zeros(u.shape[0], *A.shape)
    outputs = []
    for decay_here, drive_here, C_here in zip(decay.unbind(2), drive.unbind(2), C.unbind(3), strict=True):
        state = decay_here * state + drive_here
        outputs.append(torch.einsum("bcn,bcn->bc", state, C_here))
    return torch.stack(outputs, dim=2) + u * D.unsqueeze(-1)
