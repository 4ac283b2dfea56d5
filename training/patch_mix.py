"""Patch-Mix: patches of one sample take the place of another's after the patch embedding.

Source: Patch-Mix CL (arXiv 2305.14032, section 3.2) for single patches of AST; Lung-SRAD (arXiv 2606.11922) for whole
columns (time) and rows (mel) of the grid of a state space backbone.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

AXES = ("time", "mel", "2d")


@dataclass(frozen=True)
class PatchMix:
    """
    One draw, the same for all samples of a batch.

    Args:
        index (`torch.Tensor` of shape `(batch,)`): the sample that sample `i` takes patches from.
        mask (`torch.Tensor`): `True` where a patch is taken; it broadcasts against the patches.
        lam (`float`): true share of the patches that a sample keeps.
    """

    index: torch.Tensor
    mask: torch.Tensor
    lam: float

    def mix(self, patches: torch.Tensor) -> torch.Tensor:
        """The mixed patches, of the shape of `patches`."""
        return torch.where(self.mask, patches[self.index], patches)


def draw_patch_mix(patches: torch.Tensor, axis: str, alpha: float = 1.0) -> PatchMix:
    r"""
    Draws `lam` from Beta(alpha, alpha), a permutation of the batch, and `int(size * (1 - lam))` columns, rows or
    patches; `lam` then becomes the share that is truly kept. All draws come from torch's global CPU generator.

    Args:
        patches (`torch.Tensor` of shape `(batch, channels, mel, time)` or `(batch, patches, channels)`):
            patches of a batch, as a grid (DASS) or in a row (AST).
        axis (`str`): `"time"` for columns, `"mel"` for rows, `"2d"` for single patches.
        alpha (`float`, *optional*, defaults to 1.0): parameter of the Beta distribution.

    Raises:
        ValueError: an unknown axis, or one that patches in a row do not have.

    Example:

    ```python
    >>> import torch
    >>> from training.patch_mix import draw_patch_mix

    >>> patches = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 1, 2, 8)
    >>> patch_mix = draw_patch_mix(patches, "time")
    >>> mixed = patch_mix.mix(patches)
    >>> mixed.shape
    torch.Size([3, 1, 2, 8])
    >>> kept = (mixed == patches)[patch_mix.index != torch.arange(3)]
    >>> bool((kept.float().mean((1, 2, 3)) == patch_mix.lam).all())
    True

    ```"""
    shape = _mask_shape(patches, axis)
    size = shape.numel()
    lam = float(torch.distributions.Beta(alpha, alpha).sample())
    index = torch.randperm(patches.shape[0])
    taken = int(size * (1 - lam))
    mask = torch.zeros(size, dtype=torch.bool)
    mask[torch.randperm(size)[:taken]] = True
    return PatchMix(index.to(patches.device), mask.view(shape).to(patches.device), 1 - taken / size)


@contextmanager
def mixed_patches(patch_embeddings: nn.Module, axes: Sequence[str], alpha: float = 1.0) -> Iterator[list[PatchMix]]:
    r"""
    While the block runs, a forward pass of a batch that is repeated `1 + len(axes)` times goes on with the clean
    patches of the batch, followed by a mixed copy for each axis: all views share one pass through the network, and
    the patches are embedded once.

    Args:
        patch_embeddings (`nn.Module`): what `get_input_embeddings` of the model returns.
        axes (sequence of `str`): a draw for each, in this order.
        alpha (`float`, *optional*, defaults to 1.0): as for [`draw_patch_mix`].

    Yields:
        `list[PatchMix]`: filled by the forward pass, a draw for each axis.

    Example:

    ```python
    >>> import torch
    >>> from modeling_lung_srad import LungSradConfig, LungSradModel
    >>> from training.patch_mix import mixed_patches

    >>> model, input_values = LungSradModel(LungSradConfig.tiny()), torch.randn(2, 256, 128)
    >>> with mixed_patches(model.get_input_embeddings(), ("time", "mel")) as draws:
    ...     features = model(input_values.repeat(3, 1, 1)).pooler_output
    >>> features.shape, len(draws)
    (torch.Size([6, 192]), 2)

    ```"""
    draws: list[PatchMix] = []

    def keep_one_copy(module: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        return (inputs[0][: len(inputs[0]) // (1 + len(axes))],)

    def append_mixed(module: nn.Module, inputs: Any, patches: torch.Tensor) -> torch.Tensor:
        draws[:] = [draw_patch_mix(patches, axis, alpha) for axis in axes]
        return torch.cat([patches, *(draw.mix(patches) for draw in draws)])

    handles = [
        patch_embeddings.register_forward_pre_hook(keep_one_copy),
        patch_embeddings.register_forward_hook(append_mixed),
    ]
    try:
        yield draws
    finally:
        for handle in handles:
            handle.remove()


def _mask_shape(patches: torch.Tensor, axis: str) -> torch.Size:
    if axis not in AXES:
        raise ValueError(f"axis: {axis!r} is not one of {', '.join(AXES)}")
    if patches.ndim == 4:
        mel, time = patches.shape[2:]
        return torch.Size({"time": (1, 1, 1, time), "mel": (1, 1, mel, 1), "2d": (1, 1, mel, time)}[axis])
    if axis != "2d":
        raise ValueError(f"axis: {axis!r} needs patches in a grid, which this backbone does not have; use '2d'")
    return torch.Size((1, patches.shape[1], 1))
