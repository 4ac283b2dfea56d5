"""The layer norm kernels against torch in float64, on CUDA or else in the interpreter of Triton."""

import sys
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from modeling_lung_srad import LungSradModel
from modeling_lung_srad.layers_lung_srad import LungSradLayerNorm, LungSradLayerNorm2d, _load_layer_norm_kernel
from tests.conftest import tiny_config
from tests.modeling_lung_srad.interpreted_kernels import DEVICE, ON_CUDA, import_kernels

pytest.importorskip("triton", reason="Triton is published for Linux only")
kernels = import_kernels("modeling_lung_srad.triton_layer_norm")
# So large that even one channel, with a variance of zero, is well conditioned.
EPS = 1e-2
TOLERANCES = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several tiles and programs, of which each goes over several tiles, with few rows."""
    if not ON_CUDA:
        monkeypatch.setattr(kernels, "FORWARD_TILE", 256)
        monkeypatch.setattr(kernels, "GRADIENT_TILE", 128)
    monkeypatch.setattr(kernels, "GRADIENT_PROGRAMS", 2)


@pytest.fixture
def choose_kernel(monkeypatch):
    """Makes the modules call the kernel, also on a CPU, where the interpreter runs it, or, given `None`, torch."""
    return lambda kernel: monkeypatch.setattr(LungSradLayerNorm, "_choose_kernel", lambda *arguments: kernel)


def random_inputs(shape, dtype=torch.float32, parameter_dtype=torch.float32):
    """Leaves: an input far from zero mean, weights and offsets."""
    generator = torch.Generator().manual_seed(3)
    x = 2 * torch.randn(shape, generator=generator) + 3
    weight, bias = torch.randn(2, shape[-1], generator=generator)
    dtypes = (dtype, parameter_dtype, parameter_dtype)
    return [x.to(DEVICE, dtype).requires_grad_() for x, dtype in zip((x, weight, bias), dtypes, strict=True)]


def assert_same_values_and_gradients(inputs, dtype=torch.float32, view=lambda x: x):
    """Compares with torch in float64 from the same numbers, relative to the largest of each tensor."""
    references = [tensor.detach().double().requires_grad_() for tensor in inputs]
    y = kernels.layer_norm(view(inputs[0]), *inputs[1:], EPS, dtype)
    expected = F.layer_norm(view(references[0]), y.shape[-1:], *references[1:], EPS)
    assert (y.dtype, y.shape) == (dtype, expected.shape)
    assert y.is_contiguous()
    grad_y = torch.randn(y.shape, generator=torch.Generator().manual_seed(4)).to(DEVICE, dtype)
    gradients = torch.autograd.grad(y, inputs, grad_y)
    expected_gradients = torch.autograd.grad(expected, references, grad_y.double())
    for actual, reference in zip((y, *gradients), (expected, *expected_gradients), strict=True):
        scale = max(reference.abs().max().item(), 1.0)
        torch.testing.assert_close(actual.double(), reference, atol=TOLERANCES[actual.dtype] * scale, rtol=0)
    for tensor, gradient in zip(inputs, gradients, strict=True):
        assert (gradient.dtype, gradient.shape) == (tensor.dtype, tensor.shape)


@pytest.mark.parametrize("channels", [1, 3, 24, 96, 100, 1024])
@pytest.mark.parametrize("rows", [1, 7, 37])
def test_values_and_gradients_are_those_of_torch(rows, channels):
    assert_same_values_and_gradients(random_inputs((rows, channels)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("parameter_dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("result_dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dtypes_may_be_combined_and_are_computed_in_float32(dtype, parameter_dtype, result_dtype):
    assert_same_values_and_gradients(random_inputs((5, 24), dtype, parameter_dtype), result_dtype)


def test_a_permuted_map_is_normalised_over_its_last_axis():
    generator = torch.Generator().manual_seed(5)
    maps = torch.randn(2, 12, 3, 5, generator=generator).to(DEVICE).requires_grad_()
    _, weight, bias = random_inputs((1, 12))
    assert_same_values_and_gradients([maps, weight, bias], view=lambda x: x.permute(0, 2, 3, 1))


def test_a_gradient_need_not_be_contiguous():
    inputs = random_inputs((4, 6, 10))
    y = kernels.layer_norm(*inputs, EPS, torch.float32)
    expected = F.layer_norm(inputs[0], (10,), *inputs[1:], EPS)
    for actual, reference in zip(
        torch.autograd.grad(y.mean(1).sum(), inputs), torch.autograd.grad(expected.mean(1).sum(), inputs), strict=True
    ):
        torch.testing.assert_close(actual, reference, atol=1e-5, rtol=0)


def test_no_rows_give_none_and_zero_gradients():
    inputs = random_inputs((0, 4, 24))
    y = kernels.layer_norm(*inputs, EPS, torch.bfloat16)
    assert (y.shape, y.dtype) == ((0, 4, 24), torch.bfloat16)
    grad_x, grad_weight, grad_bias = torch.autograd.grad(y.sum(), inputs)
    assert grad_x.shape == (0, 4, 24)
    assert not grad_weight.any()
    assert not grad_bias.any()


@pytest.mark.parametrize(("shape", "dtype"), [((2, 1025), torch.float32), ((2, 8), torch.float64)])
def test_what_the_kernels_cannot_compute_is_an_error_that_names_the_remedy(shape, dtype):
    with pytest.raises(ValueError, match=r"`x`.*use `F\.layer_norm`"):
        kernels.layer_norm(*random_inputs(shape, dtype), EPS, torch.float32)


@pytest.mark.skipif(not ON_CUDA, reason="the sizes of the model take the interpreter minutes")
@pytest.mark.parametrize(("rows", "channels"), [(8192, 96), (2048, 192), (512, 384), (128, 768)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_sizes_of_the_model_agree_with_torch_on_cuda(monkeypatch, rows, channels, dtype):
    monkeypatch.undo()
    assert_same_values_and_gradients(random_inputs((2, rows, channels), dtype), dtype)


def test_the_model_gives_the_same_values_and_gradients_with_the_kernels(choose_kernel, monkeypatch):
    monkeypatch.setattr(kernels, "FORWARD_TILE", 4096)
    monkeypatch.setattr(kernels, "GRADIENT_TILE", 4096)
    torch.manual_seed(0)
    model = LungSradModel(tiny_config()).to(DEVICE)
    input_values = torch.randn(1, 32, 128, generator=torch.Generator().manual_seed(0)).to(DEVICE)

    def pooled_and_gradients(kernel):
        choose_kernel(kernel)
        pooled = model(input_values).pooler_output
        return [pooled, *torch.autograd.grad(pooled.square().sum(), list(model.parameters()))]

    results = pooled_and_gradients(kernels.layer_norm), pooled_and_gradients(None)
    for actual, expected in zip(*results, strict=True):
        torch.testing.assert_close(actual, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_in_half_precision_take_the_float32_of_the_scan(choose_kernel, dtype):
    norm = LungSradLayerNorm(24).to(DEVICE, dtype)
    scanned = torch.randn(2, 3, 24, generator=torch.Generator().manual_seed(0)).to(DEVICE)
    choose_kernel(kernels.layer_norm)
    with_kernel = norm(scanned)
    choose_kernel(None)
    without = norm(scanned)
    assert with_kernel.dtype == without.dtype == dtype
    torch.testing.assert_close(with_kernel, without, atol=3e-2, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_under_autocast_only_what_feeds_a_linear_layer_is_in_half_precision(choose_kernel, monkeypatch, dtype):
    choose_kernel(kernels.layer_norm)
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device_type: device_type == "cuda")
    monkeypatch.setattr(torch, "get_autocast_dtype", lambda device_type: dtype)
    hidden_states = torch.randn(2, 8, 8, 8, device=DEVICE)
    assert LungSradLayerNorm(8).to(DEVICE)(hidden_states).dtype == dtype
    assert LungSradLayerNorm2d(8).to(DEVICE)(hidden_states.to(dtype)).dtype == torch.float32


def test_on_a_cpu_the_layer_norm_is_that_of_torch():
    x = random_inputs((5, 24))[0].cpu()
    torch.testing.assert_close(LungSradLayerNorm(24)(x), F.layer_norm(x, (24,)), atol=0, rtol=0)


def test_without_triton_a_map_on_cuda_is_left_to_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "modeling_lung_srad.triton_layer_norm", None)
    _load_layer_norm_kernel.cache_clear()
    norm = LungSradLayerNorm(24)
    try:
        assert norm._choose_kernel(SimpleNamespace(is_cuda=True, numel=lambda: 2**30)) is None
    finally:
        _load_layer_norm_kernel.cache_clear()
