"""Faster variants of torch layers: which kernel runs depends on the hardware, the results agree within rounding."""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers.activations import ACT2FN

from .configuration_lung_srad import LungSradConfig

# The C library returns memory of more than 32 MB to the system after every use, and getting it again costs more than
# the computation in it.
ELEMENTS_AT_ONCE = 2**22


class LungSradLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of `(batch, mel, time, channels)`, in the dtype of its weights."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        # Torch takes these for no other input, and the scan returns float32.
        return super().forward(hidden_states.to(self.weight.dtype))


class LungSradLayerNorm2d(LungSradLayerNorm):
    """Layer norm over the channels of `(batch, channels, mel, time)`, before the residual stream or the pooling."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden_states.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


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
            # Tensors of quantizers know linear layers alone.
            and type(self.weight) in (nn.Parameter, torch.Tensor)
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
