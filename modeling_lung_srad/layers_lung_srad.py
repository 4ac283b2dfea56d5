"""Faster variants of torch layers: which kernel runs depends on the hardware, the results agree within rounding."""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN

from .configuration_lung_srad import LungSradConfig

# Smaller maps are not worth a kernel launch (measured on an H200).
LAYER_NORM_KERNEL_FROM = 2**23
# The C library returns memory of more than 32 MB to the system after every use, and getting it again costs more than
# the computation in it.
ELEMENTS_AT_ONCE = 2**22


class LungSradLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of `(batch, mel, time, channels)`, before a linear layer.

    On CUDA, large maps run as a Triton kernel, where that can be imported, as torch takes several times as long for
    rows as short as these. The kernel returns the dtype of the weights or, under autocast, of the linear layer.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        layer_norm = self._choose_kernel(hidden_states)
        if layer_norm is not None:
            dtype = self._dtype_under_autocast() if torch.is_autocast_enabled("cuda") else self.weight.dtype
            return layer_norm(hidden_states, self.weight, self.bias, self.eps, dtype)
        if self.weight.dtype != torch.float32:  # Torch takes these for no other input, and the scan returns float32.
            hidden_states = hidden_states.to(self.weight.dtype)
        return super().forward(hidden_states)

    def _choose_kernel(self, hidden_states: torch.Tensor) -> Callable | None:
        if not hidden_states.is_cuda or torch.compiler.is_compiling():
            return None
        if hidden_states.numel() < LAYER_NORM_KERNEL_FROM:
            return None
        layer_norm, is_supported = _load_layer_norm_kernel()
        return layer_norm if is_supported(hidden_states, self.weight, self.bias) else None

    def _dtype_under_autocast(self) -> torch.dtype:
        return torch.get_autocast_dtype("cuda")


class LungSradLayerNorm2d(LungSradLayerNorm):
    """Layer norm over the channels of `(batch, channels, mel, time)`, before the residual stream or the pooling.

    There, autocast on CUDA keeps float32, as torch does.
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden_states.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def _dtype_under_autocast(self) -> torch.dtype:
        return torch.float32


@functools.cache
def _load_layer_norm_kernel() -> tuple[Callable | None, Callable]:
    """The kernel and which tensors it takes; none where Triton cannot be imported."""
    try:
        from .triton_layer_norm import is_supported, layer_norm
    except ImportError:
        return None, lambda *tensors: False
    return layer_norm, is_supported


class LungSradLinear(nn.Linear):
    """Linear layer over the channels of `(batch, mel, time, channels)`.

    On a CPU that is not Intel's it runs as a 1x1 convolution, which torch gives to oneDNN. A float32 `nn.Linear` goes
    to MKL, which is a tenth faster on Intel's and half as fast on others (`docs/speed.md`).
    """

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not self._is_faster_as_convolution(hidden_states):
            return super().forward(hidden_states)
        # With one thread, torch keeps a 1x1 convolution from oneDNN unless it is dilated, which changes nothing else.
        weight = self.weight[:, :, None, None]
        return F.conv2d(hidden_states.permute(0, 3, 1, 2), weight, self.bias, dilation=2).permute(0, 2, 3, 1)

    def _is_faster_as_convolution(self, hidden_states: torch.Tensor) -> bool:
        return (
            not torch.compiler.is_compiling()
            and hidden_states.device.type == "cpu"
            and hidden_states.dtype == self.weight.dtype == torch.float32
            and min(self.in_features, self.out_features) >= 48
            and torch.backends.mkldnn.is_available()
            and not _is_processor_of_intel()
        )


@functools.cache
def _is_processor_of_intel() -> bool:
    # Torch 2.9 lacks this function.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return capabilities.get("cpu_name", "").startswith("Intel")


class LungSradMLP(nn.Module):
    """Two linear layers over the channels of `(batch, mel, time, channels)`."""

    def __init__(self, config: LungSradConfig, width: int):
        super().__init__()
        self.fc1 = LungSradLinear(width, int(config.mlp_ratio * width))
        self.act = ACT2FN[config.hidden_act]
        self.fc2 = LungSradLinear(int(config.mlp_ratio * width), width)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        elements = hidden_states[..., 0].numel() * self.fc1.out_features
        return in_pieces(self._apply_layers, hidden_states, dim=1, elements=elements)

    def _apply_layers(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.fc2(self.act(self.fc1(hidden_states)))


def in_pieces(
    function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor, dim: int, elements: int
) -> torch.Tensor:
    """
    `function(x)`, on a CPU without gradients in pieces along `dim`.

    Args:
        function (`Callable`): treats each entry along `dim` alone.
        x (`torch.Tensor`): its input.
        dim (`int`): the dimension to cut.
        elements (`int`): of the largest tensor that `function(x)` makes; that of a piece has `ELEMENTS_AT_ONCE`.
    """
    if x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return function(x)
    size = max(1, ELEMENTS_AT_ONCE * x.shape[dim] // max(1, elements))
    return function(x) if size >= x.shape[dim] else torch.cat([function(piece) for piece in x.split(size, dim)], dim)
