"""Layers of the Lung-SRAD model: torch's in ways that run faster, stochastic depth, and the Gaussian convolution."""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from .configuration_lung_srad import LungSradConfig

# Below, on an H200, starting the kernel takes longer than it saves.
LAYER_NORM_KERNEL_FROM = 2**23


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
    # Torch 2.9 has no such function.
    capabilities: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return capabilities.get("cpu_name", "").startswith("Intel")


class LungSradDropPath(nn.Module):
    """Stochastic depth per sample (arXiv 1603.09382); identity outside training."""

    def __init__(self, drop_prob: float = 0.0):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if self.drop_prob == 0.0 or not self.training:
            return hidden_states
        keep_prob = 1 - self.drop_prob
        shape = (hidden_states.shape[0],) + (1,) * (hidden_states.ndim - 1)
        return hidden_states * hidden_states.new_empty(shape).bernoulli_(keep_prob).div_(keep_prob)

    def extra_repr(self) -> str:
        return f"p={self.drop_prob}"


class LungSradGaussianBlur(nn.Module):
    """Spectral-aware layer regularization: a fixed separable Gaussian convolution over mel and time, zero padded.

    Takes and returns `(batch, mel, time, channels)`.
    """

    def __init__(self, config: LungSradConfig):
        super().__init__()
        self.kernel_size = config.gaussian_kernel_size
        self.sigma = config.gaussian_sigma
        self.at_inference = config.gaussian_at_inference

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        if not (self.training or self.at_inference):
            return hidden_states
        radius = self.kernel_size // 2
        offsets = torch.arange(-radius, radius + 1, device=hidden_states.device, dtype=torch.float32)
        kernel = torch.softmax(-offsets.square() / (2 * self.sigma**2), dim=0).to(hidden_states.dtype)
        channels = hidden_states.shape[-1]
        hidden_states = hidden_states.permute(0, 3, 1, 2)
        over_mel = kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1)
        over_time = kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1)
        hidden_states = F.conv2d(hidden_states, over_mel, padding=(radius, 0), groups=channels)
        hidden_states = F.conv2d(hidden_states, over_time, padding=(0, radius), groups=channels)
        return hidden_states.permute(0, 2, 3, 1)

    def extra_repr(self) -> str:
        return f"kernel_size={self.kernel_size}, sigma={self.sigma}, at_inference={self.at_inference}"
