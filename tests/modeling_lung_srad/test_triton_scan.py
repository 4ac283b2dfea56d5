"""The Triton kernels against the torch scan and a plain loop, on CUDA or else in the interpreter of Triton."""

import pytest
import torch
from safetensors.torch import load_file

from modeling_lung_srad import selective_scan
from modeling_lung_srad.selective_scan import selective_scan_2d
from tests.conftest import FIXTURES
from tests.modeling_lung_srad.interpreted_kernels import DEVICE, ON_CUDA, import_kernels
from tests.modeling_lung_srad.test_selective_scan import ARGUMENTS, loop_scan, random_inputs

pytest.importorskip("triton", reason="Triton is published for Linux only")
triton_scan = import_kernels("modeling_lung_srad.triton_scan")
MAP_ARGUMENTS = ("hidden_states", "projected", "delta_weight", "delta_bias", "A", "D")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """Several tiles, programs and channel blocks on maps that the interpreter can walk in a second."""
    if not ON_CUDA:
        monkeypatch.setattr(triton_scan, "TILE", 4)
        monkeypatch.setattr(triton_scan, "CHAIN_TILE", 2)
        for settings in triton_scan.SETTINGS.values():
            monkeypatch.setitem(settings, "BLOCK_C", 4)
    for name in ("summarize", "output", "gradient"):
        monkeypatch.setitem(triton_scan.SETTINGS[name], "TILES", 2)


def random_map(height, width, channels, rank, batch=2, dtype=torch.float32, parameter_dtype=torch.float32):
    """Leaves: a map, what the model projects from it for four directions, and parameters."""
    generator = torch.Generator().manual_seed(7)
    shapes = {
        "hidden_states": (batch, height, width, channels),
        "projected": (batch, height, width, 4 * (rank + 2)),
        "delta_weight": (4, channels, rank),
        "delta_bias": (4, channels),
        "A": (4, channels, 1),
        "D": (4, channels),
    }
    inputs = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    inputs["A"] = -torch.exp(inputs["A"])
    dtypes = {"hidden_states": dtype, "projected": dtype}
    return {
        name: tensor.to(DEVICE, dtypes.get(name, parameter_dtype)).requires_grad_() for name, tensor in inputs.items()
    }


def scan_map(scan, inputs):
    """Calls a scan with strided views of one projected tensor, as the model does."""
    rank = inputs["delta_weight"].shape[-1]
    projected = inputs["projected"].unflatten(-1, (4, -1)).movedim(-2, 0)
    low_rank, B, C = projected.split([rank, 1, 1], dim=-1)
    weight, bias, A, D = (inputs[name] for name in MAP_ARGUMENTS[2:])
    return scan(inputs["hidden_states"], low_rank, weight, bias, A, B, C, D)


def torch_scan(*arguments):
    return selective_scan_2d(*arguments, backend="torch")


def assert_same_values_and_gradients(inputs, tolerance):
    """Compares with the torch scan in float32 from the same numbers, relative to the largest of each tensor."""
    references = {name: tensor.detach().float().requires_grad_() for name, tensor in inputs.items()}
    y, expected = scan_map(triton_scan.scan_2d, inputs), scan_map(torch_scan, references)
    assert y.dtype == inputs["hidden_states"].dtype
    grad_y = torch.randn(y.shape, generator=torch.Generator().manual_seed(8)).to(DEVICE, y.dtype)
    gradients = torch.autograd.grad(y, list(inputs.values()), grad_y)
    expected_gradients = torch.autograd.grad(expected, list(references.values()), grad_y.float())
    for actual, reference in zip((y, *gradients), (expected, *expected_gradients), strict=True):
        scale = max(reference.abs().max().item(), 1.0)
        torch.testing.assert_close(actual.float(), reference, atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize(
    ("height", "width", "channels", "rank"),
    [(1, 1, 3, 1), (1, 6, 5, 1), (5, 1, 4, 3), (3, 7, 5, 3), (7, 4, 2, 24)],
)
def test_a_map_gives_the_values_and_gradients_of_the_torch_scan(height, width, channels, rank):
    batch = 1 if rank == 24 else 2
    assert_same_values_and_gradients(random_map(height, width, channels, rank, batch), tolerance=1e-5)


def test_half_precision_is_computed_in_float32():
    assert_same_values_and_gradients(random_map(2, 3, 5, 3, 1, dtype=torch.float16), tolerance=2e-3)


@pytest.mark.skipif(not ON_CUDA, reason="the interpreter multiplies no bfloat16 matrices")
@pytest.mark.parametrize(
    ("height", "width", "channels", "rank"), [(32, 64, 96, 6), (16, 40, 192, 12), (8, 20, 384, 24), (4, 9, 768, 48)]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_sizes_of_the_model_agree_with_the_torch_scan_on_cuda(height, width, channels, rank, dtype):
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    assert_same_values_and_gradients(random_map(height, width, channels, rank, dtype=dtype), tolerance)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_changes_neither_values_nor_dtype(dtype):
    inputs = random_map(2, 3, 4, 2, batch=1)
    with torch.autocast(DEVICE, dtype=dtype):
        y = scan_map(triton_scan.scan_2d, inputs)
    torch.testing.assert_close(y, scan_map(triton_scan.scan_2d, inputs), atol=0, rtol=0)


def test_a_half_precision_map_beside_float32_projections_keeps_its_dtype():
    inputs = random_map(2, 3, 4, 2, batch=1)
    inputs["hidden_states"] = inputs["hidden_states"].detach().bfloat16()
    y = scan_map(triton_scan.scan_2d, inputs)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), scan_map(torch_scan, inputs).float(), atol=2e-2, rtol=1e-2)


def test_unrelated_tensors_give_the_result_of_views_of_one():
    inputs = random_map(3, 3, 4, 2, batch=1)
    expected = scan_map(triton_scan.scan_2d, inputs)
    y = scan_map(lambda u, *rest: triton_scan.scan_2d(u, *(x.clone() for x in rest)), inputs)
    torch.testing.assert_close(y, expected, atol=0, rtol=0)


def test_one_long_row_agrees_with_a_plain_loop_in_both_directions():
    inputs = random_map(1, 13, 3, 2, batch=1)
    with torch.no_grad():
        y = scan_map(triton_scan.scan_2d, inputs)
    u, projected, weight, bias, A, D = (inputs[name].detach().cpu().double() for name in MAP_ARGUMENTS)
    projected = projected.unflatten(-1, (4, -1))[0, 0]
    expected = torch.zeros(1, 3, 13, dtype=torch.float64)
    for k in range(4):
        low_rank, B, C = projected[:, k].T.split([2, 1, 1])

        def walk(x, k=k):
            return x.flip(-1) if k >= 2 else x

        delta = weight[k] @ low_rank
        sequences = (walk(x) for x in (u[:, 0].mT, delta[None], B[None, None], C[None, None]))
        u_walk, delta_walk, B_walk, C_walk = sequences
        expected += walk(loop_scan(u_walk, delta_walk, A[k], B_walk, C_walk, D[k], bias[k]))
    torch.testing.assert_close(y[:, 0].cpu().double(), expected.mT, atol=1e-5, rtol=1e-5)


def test_a_sequence_gives_the_values_and_gradients_of_the_reference_implementation(monkeypatch):
    monkeypatch.setattr(triton_scan, "TILE", 16)
    if not ON_CUDA:
        for settings in triton_scan.SETTINGS.values():
            monkeypatch.setitem(settings, "BLOCK_C", 8)
    golden = load_file(FIXTURES / "selective_scan.safetensors")
    inputs = [golden[f"n1.{name}"].to(DEVICE).requires_grad_() for name in ARGUMENTS]
    y = triton_scan.scan_1d(*inputs)
    y.backward(golden["n1.grad_y"].to(DEVICE))
    torch.testing.assert_close(y.cpu(), golden["n1.y"], atol=1e-4, rtol=0)
    for name, tensor in zip(ARGUMENTS, inputs, strict=True):
        torch.testing.assert_close(tensor.grad.cpu(), golden[f"n1.grad_{name}"], atol=1e-4, rtol=0)


@pytest.mark.parametrize(("length", "softplus"), [(1, True), (9, False)])
def test_optional_arguments_of_a_sequence_may_be_left_out(length, softplus):
    inputs = random_inputs(2, 2, 3, 1, length) | {"D": None, "delta_bias": None}
    inputs["delta"] = inputs["delta"].abs()
    on_device = {name: None if tensor is None else tensor.to(DEVICE) for name, tensor in inputs.items()}
    y = triton_scan.scan_1d(**on_device, delta_softplus=softplus)
    expected = selective_scan(**inputs, delta_softplus=softplus, backend="torch")
    torch.testing.assert_close(y.cpu(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("problem", ["float64", "state size"])
def test_what_the_kernels_cannot_compute_is_an_error_that_names_the_remedy(problem):
    inputs = random_inputs(1, 1, 2, 2 if problem == "state size" else 1, 4)
    if problem == "float64":
        inputs["u"] = inputs["u"].double()
    with pytest.raises(ValueError, match=f"{problem}.*backend='torch'"):
        triton_scan.scan_1d(**inputs)
