"""The token-mixing matrix of a layer of a model: SS2D blocks of Lung-SRAD, attention layers of AST.

Nothing about the model changes: what a matrix is made of is recorded by hooks that are taken off again, also after an
error, and the weights, the modes of the modules and the random state stay as they are.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from transformers import PreTrainedModel

from ..errors import InputError
from ..saliency.evaluation_mode import evaluation_mode
from .attention import NUM_DIRECTIONS, check_matrix_size, effective_attention

LUNG_SRAD, AST = "lung_srad", "audio-spectrogram-transformer"
# CLS and distillation token, which stand before the patches.
AST_SPECIAL_TOKENS = 2
GAUSSIAN_CHOICES = ("included", "left_out", "switched_off")


class MixingLayer(NamedTuple):
    """
    Which layer of a model.

    Args:
        stage (`int`, *optional*): counted from 0; none in AST, whose layers have one grid.
        block (`int`): counted from 0, in its stage; in AST the layer.
    """

    stage: int | None
    block: int

    def __str__(self) -> str:
        return f"layer {self.block}" if self.stage is None else f"stage {self.stage} block {self.block}"


class LayerMatrix(NamedTuple):
    """
    The token-mixing matrix of a layer for a batch of inputs.

    Args:
        layer ([`MixingLayer`]): which one it is of.
        grid (`tuple[int, int]`): rows (mel, from low to high) and columns (time).
        matrix (`torch.Tensor` of shape `(batch, positions, positions)`): to (row), from (column) the position
            `mel * columns + time`, in float64.
    """

    layer: MixingLayer
    grid: tuple[int, int]
    matrix: torch.Tensor


def list_layers(model: PreTrainedModel) -> list[MixingLayer]:
    """
    All layers of a model that have a token-mixing matrix, in the order of the network.

    Raises:
        InputError: where it is neither a Lung-SRAD model nor an AST.
    """
    if model.config.model_type == LUNG_SRAD:
        depths = enumerate(model.config.depths)
        return [MixingLayer(stage, block) for stage, depth in depths for block in range(depth)]
    if model.config.model_type == AST:
        return [MixingLayer(None, layer) for layer in range(model.config.num_hidden_layers)]
    raise InputError(
        "model",
        f"is of type {model.config.model_type!r}, which has neither SS2D blocks nor the attention of AST",
        "give a Lung-SRAD model or an ASTForAudioClassification",
    )


def check_layers(model: PreTrainedModel, layers: Sequence[MixingLayer]) -> None:
    """
    Checks that a model has layers.

    Raises:
        InputError: naming the first one that it does not have, and those that it has.
    """
    existing = list_layers(model)
    for layer in layers:
        _check_exists(layer, existing)


def layer_matrices(
    model: PreTrainedModel,
    input_values: torch.Tensor,
    layers: Sequence[MixingLayer] | None = None,
    definition: str = "exact",
    gaussian: str = "included",
) -> Iterator[LayerMatrix]:
    r"""
    The matrices of layers from one forward pass, as in evaluation mode. Each is made when it is asked for.

    Args:
        model (`PreTrainedModel`): a Lung-SRAD model or an AST, with or without the classifier.
        input_values (`torch.Tensor` of shape `(batch, frames, num_mel_bins)`): what the model takes.
        layers (sequence of [`MixingLayer`], *optional*): which ones, in the order of the result; all by default.
        definition (`str`, *optional*, defaults to `"exact"`): of SS2D blocks, as for [`effective_attention`]; not
            min-max normalised. AST has the mean of the softmaxed attention over the heads, without the rows and the
            columns of the CLS and the distillation token: patches only, so rows add up to less than 1.
        gaussian (`str`, *optional*, defaults to `"included"`): what becomes of the Gaussian convolution `G` in the
            blocks that have it. `"included"`: the matrix is that of scan and convolution together, where the
            convolution acts at inference: `M G` for one before the scan (`scan_input`), `G M` for one after it
            (`scan_output`, and `block_output`, where it acts on the residual stream as well). `"left_out"`: `M` alone,
            in the network that has the convolution. `"switched_off"`: `M` in the network without any.

    Returns:
        iterator over [`LayerMatrix`].

    Raises:
        InputError: for another kind of model, a layer that it does not have, an unknown choice, or a grid too large
            for a dense matrix, at the latest when that matrix is asked for.
        ValueError: where the model refuses the input.

    Example:

    ```python
    >>> import torch
    >>> from modeling_lung_srad import LungSradConfig, LungSradModel
    >>> from modeling_lung_srad.spectral.layers import MixingLayer, layer_matrices

    >>> model = LungSradModel(LungSradConfig.tiny())
    >>> [found] = layer_matrices(model, torch.zeros(1, 256, 128), [MixingLayer(stage=2, block=1)])
    >>> found.grid, found.matrix.shape
    ((8, 16), torch.Size([1, 128, 128]))

    ```"""
    layers = list_layers(model) if layers is None else list(layers)
    check_layers(model, layers)
    if gaussian not in GAUSSIAN_CHOICES:
        raise InputError("gaussian", f"{gaussian!r} is not one of {', '.join(GAUSSIAN_CHOICES)}", "give one of them")
    if model.config.model_type == AST:
        return _ast_matrices(model, input_values, layers)
    return _ss2d_matrices(model, input_values, layers, definition, gaussian)


def _ss2d_matrices(model: Any, input_values, layers, definition: str, gaussian: str) -> Iterator[LayerMatrix]:
    blocks = {layer: model.base_model.layers[layer.stage].blocks[layer.block] for layer in layers}
    blurs = [module for module in model.modules() if type(module).__name__ == "LungSradGaussianBlur"]
    switched_off = blurs if gaussian == "switched_off" else []
    recorded = _record(model, input_values, [block.op.x_proj for block in blocks.values()], switched_off)
    for layer, block in blocks.items():
        projected = recorded.pop(block.op.x_proj)
        grid = (projected.shape[1], projected.shape[2])
        check_matrix_size(grid[0] * grid[1], f"{layer} has a grid of {grid[0]} x {grid[1]}", copies=len(projected))
        matrix = _scan_attention(block.op, projected, grid, definition)
        if gaussian == "included":
            matrix = _with_gaussian(block, matrix, grid)
        yield LayerMatrix(layer, grid, matrix)
        # Not kept while the next one is made.
        del matrix


@torch.no_grad()
def _scan_attention(op: Any, projected: torch.Tensor, grid: tuple[int, int], definition: str) -> torch.Tensor:
    """From what `x_proj` gives: the low rank step sizes, B and C of the four directions at each position of a map."""
    of_directions = projected.double().unflatten(-1, (NUM_DIRECTIONS, -1)).unbind(-2)
    sequences = torch.stack([_in_scan_order(x, direction) for direction, x in enumerate(of_directions)], dim=1)
    low_rank, B, C = sequences.split([op.rank, op.state_size, op.state_size], dim=-1)
    delta = low_rank @ op.dt_projs.weight.double().unflatten(0, (NUM_DIRECTIONS, -1)).mT
    return effective_attention(
        delta.mT.flatten(1, 2),
        -torch.exp(op.A_logs.double()),
        B.mT,
        C.mT,
        grid,
        delta_bias=op.dt_projs_bias.flatten(),
        definition=definition,
        normalize=False,
    )


def _in_scan_order(x: torch.Tensor, direction: int) -> torch.Tensor:
    """`(batch, mel, time, channels)` to `(batch, positions, channels)`."""
    sequence = (x.transpose(1, 2) if direction % 2 else x).flatten(1, 2)
    return sequence.flip(1) if direction >= 2 else sequence


@torch.no_grad()
def _with_gaussian(block: Any, matrix: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """The matrix together with the convolutions of a block, which are the same from either side: `G` is symmetric."""
    position = block.op.gaussian_position
    if position == "scan_input":
        return _blur_rows(block.op.gaussian_blur, matrix, grid)
    after_scan = block.op.gaussian_blur if position == "scan_output" else block.gaussian_blur
    if isinstance(after_scan, nn.Identity):
        return matrix
    return _blur_rows(after_scan, matrix.mT, grid).mT


def _blur_rows(blur: nn.Module, matrix: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
    """`M G`: each row of the matrices is a map of the grid."""
    with evaluation_mode(blur):
        return blur(matrix.flatten(0, 1).unflatten(-1, grid).unsqueeze(-1)).flatten(1).view_as(matrix)


def _ast_matrices(model: Any, input_values: torch.Tensor, layers) -> Iterator[LayerMatrix]:
    frames, mel_bins = model.config.max_length, model.config.num_mel_bins
    if input_values.ndim != 3 or tuple(input_values.shape[1:]) != (frames, mel_bins):
        raise InputError(
            "input_values", f"have shape {tuple(input_values.shape)}", f"this AST takes (batch, {frames}, {mel_bins})"
        )
    grid = model.base_model.embeddings.get_shape(model.config)
    attentions = {layer: model.base_model.layers[layer.block].attention for layer in layers}
    check_matrix_size(grid[0] * grid[1], f"AST has a grid of {grid[0]} x {grid[1]}", copies=len(input_values))
    modules = [module for attention in attentions.values() for module in (attention.q_proj, attention.k_proj)]
    recorded = _record(model, input_values, modules)
    for layer, attention in attentions.items():
        matrix = _mean_attention(attention, recorded.pop(attention.q_proj), recorded.pop(attention.k_proj))
        yield LayerMatrix(layer, grid, matrix[:, AST_SPECIAL_TOKENS:, AST_SPECIAL_TOKENS:].contiguous())


def _mean_attention(attention: Any, queries: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    """Softmaxed attention `(batch, tokens, tokens)`, averaged over the heads, computed one at a time."""
    total = queries.new_zeros((len(queries), queries.shape[1], queries.shape[1]), dtype=torch.float64)
    heads = zip(
        queries.double().split(attention.head_dim, dim=-1),
        keys.double().split(attention.head_dim, dim=-1),
        strict=True,
    )
    for query, key in heads:
        total += torch.softmax(query @ key.mT * attention.scaling, dim=-1)
    return total / attention.num_attention_heads


def _record(
    model: PreTrainedModel,
    input_values: torch.Tensor,
    modules: Sequence[nn.Module],
    switched_off: Sequence[nn.Module] = (),
) -> dict[nn.Module, torch.Tensor]:
    """Outputs of modules in a forward pass, in which those of `switched_off` hand on their input."""
    outputs: dict[nn.Module, list[torch.Tensor]] = {module: [] for module in modules}

    def keep(module: nn.Module, arguments: tuple, output: torch.Tensor) -> None:
        outputs[module].append(output)

    def hand_on(module: nn.Module, arguments: tuple, output: torch.Tensor) -> torch.Tensor:
        return arguments[0]

    with contextlib.ExitStack() as stack:
        stack.enter_context(torch.no_grad())
        stack.enter_context(evaluation_mode(model))
        for module in modules:
            stack.callback(module.register_forward_hook(keep).remove)
        for module in switched_off:
            stack.callback(module.register_forward_hook(hand_on).remove)
        model.base_model(input_values.to(model.device))
    # A stage may run its batch in pieces.
    return {module: torch.cat(pieces) for module, pieces in outputs.items()}


def _check_exists(layer: MixingLayer, existing: Sequence[MixingLayer]) -> None:
    if layer in existing:
        return
    if existing[0].stage is None:
        raise InputError(layer, "does not exist", f"AST has layers 0 to {existing[-1].block} here, and no stages")
    blocks = {}
    for stage, block in existing:
        blocks[stage] = block
    shown = ", ".join(f"stage {stage} has blocks 0 to {last}" for stage, last in blocks.items())
    raise InputError(layer, "does not exist", shown)
