"""Layers that run otherwise than torch's, beside torch's."""

import pytest
import torch
import torch.nn.functional as F

from modeling_lung_srad import layers_lung_srad
from modeling_lung_srad.layers_lung_srad import LungSradLinear


@pytest.mark.parametrize("is_intel", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_is_the_same_on_every_processor(is_intel, bias, monkeypatch):
    monkeypatch.setattr(layers_lung_srad, "_is_processor_of_intel", lambda: is_intel)
    torch.manual_seed(0)
    layer = LungSradLinear(64, 96, bias=bias)
    hidden_states = torch.randn(2, 3, 5, 64, requires_grad=True)
    assert layer._is_faster_as_convolution(hidden_states) != is_intel
    leaves = [hidden_states, *layer.parameters()]
    output, expected = layer(hidden_states), F.linear(hidden_states, layer.weight, layer.bias)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    grads = (torch.autograd.grad(x.square().sum(), leaves) for x in (output, expected))
    for grad, value in zip(*grads, strict=True):
        torch.testing.assert_close(grad, value, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "expected"), [("Intel Xeon", True), ("AMD EPYC 9R14", False), ("", False)], ids=["intel", "amd", "none"]
)
def test_the_processor_is_known_by_its_name(name, expected, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"cpu_name": name} if name else {}, raising=False)
    assert layers_lung_srad._is_processor_of_intel.__wrapped__() is expected


class Quantized(torch.Tensor):
    """A weight that, as those of torchao, can be used in a linear layer and not be reshaped."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function.__name__ not in ("__get__", "linear"):
            raise NotImplementedError(function.__name__)
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))


def test_a_quantized_weight_goes_into_a_linear_layer(monkeypatch):
    monkeypatch.setattr(layers_lung_srad, "_is_processor_of_intel", lambda: False)
    layer = LungSradLinear(64, 96).requires_grad_(False)
    hidden_states = torch.randn(2, 3, 5, 64)
    expected = layer(hidden_states)
    weight = layer.weight.detach().as_subclass(Quantized)
    del layer.weight
    layer.weight = weight
    torch.testing.assert_close(layer(hidden_states), expected, atol=1e-5, rtol=1e-5)
