"""The scan against reference numbers, a slow loop in float64, and numerical gradients."""

import pytest
import torch
from safetensors.torch import load_file

from modeling_lung_srad import selective_scan
from modeling_lung_srad.selective_scan import selective_scan_2d
from tests.conftest import FIXTURES

ARGUMENTS = ("u", "delta", "A", "B", "C", "D", "delta_bias")


def loop_scan(u, delta, A, B, C, D=None, delta_bias=None, delta_softplus=True):
    """The definition, one position after another, in float64."""
    u, delta, A, B, C = (x.double() for x in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.double()[:, None]
    if delta_softplus:
        delta = torch.log1p(torch.exp(delta))
    repeats = u.shape[1] // B.shape[1]
    B, C = B.repeat_interleave(repeats, 1), C.repeat_interleave(repeats, 1)
    state = torch.zeros(*u.shape[:2], A.shape[1], dtype=torch.float64)
    outputs = []
    for t in range(u.shape[2]):
        state = torch.exp(delta[..., t, None] * A) * state + (delta[..., t] * u[..., t])[..., None] * B[..., t]
        outputs.append((state * C[..., t]).sum(-1))
    y = torch.stack(outputs, -1)
    return y if D is None else y + D.double()[:, None] * u


def random_inputs(batch, groups, channels, state_size, length, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    width = groups * channels
    shapes = {
        "u": (batch, width, length),
        "delta": (batch, width, length),
        "A": (width, state_size),
        "B": (batch, groups, state_size, length),
        "C": (batch, groups, state_size, length),
        "D": (width,),
        "delta_bias": (width,),
    }
    inputs = {name: torch.randn(shape, generator=generator, dtype=dtype) for name, shape in shapes.items()}
    inputs["A"] = -torch.exp(inputs["A"])
    return inputs


@pytest.mark.parametrize("case", ["n1", "n4"])
def test_values_and_gradients_match_the_reference_implementation(case):
    golden = load_file(FIXTURES / "selective_scan.safetensors")
    inputs = [golden[f"{case}.{name}"].clone().requires_grad_() for name in ARGUMENTS]
    y = selective_scan(*inputs)
    y.backward(golden[f"{case}.grad_y"])
    torch.testing.assert_close(y, golden[f"{case}.y"], atol=1e-4, rtol=0)
    for name, tensor in zip(ARGUMENTS, inputs, strict=True):
        torch.testing.assert_close(tensor.grad, golden[f"{case}.grad_{name}"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("length", [1, 2, 3, 7, 16, 17, 61, 100, 251])
@pytest.mark.parametrize("state_size", [1, 3])
def test_every_length_agrees_with_a_plain_loop(length, state_size):
    inputs = random_inputs(2, 2, 3, state_size, length)
    torch.testing.assert_close(selective_scan(**inputs).double(), loop_scan(**inputs), atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("softplus", [True, False])
def test_optional_arguments_may_be_left_out(softplus):
    inputs = random_inputs(1, 1, 4, 2, 20)
    inputs |= {"D": None, "delta_bias": None, "delta": inputs["delta"].abs()}
    y = selective_scan(**inputs, delta_softplus=softplus)
    torch.testing.assert_close(y.double(), loop_scan(**inputs, delta_softplus=softplus), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("state_size", [1, 2])
def test_gradients_are_those_of_finite_differences(state_size):
    inputs = random_inputs(2, 2, 2, state_size, 11, dtype=torch.float64)
    arguments = [inputs[name].requires_grad_() for name in ARGUMENTS]
    assert torch.autograd.gradcheck(selective_scan, arguments)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 6), (5, 1), (4, 12), (3, 7), (7, 16)])
def test_four_directions_are_four_scans_put_back_in_place(height, width):
    generator = torch.Generator().manual_seed(3)
    batch, channels, rank, state_size = 2, 5, 3, 2
    maps = torch.randn(batch, height, width, channels, generator=generator)
    low_rank, B, C = (
        torch.randn(4, batch, height, width, size, generator=generator) for size in (rank, state_size, state_size)
    )
    weight = torch.randn(4, channels, rank, generator=generator)
    bias, D = torch.randn(4, channels, generator=generator), torch.randn(4, channels, generator=generator)
    A = -torch.exp(torch.randn(4, channels, state_size, generator=generator))
    merged = selective_scan_2d(maps, low_rank, weight, bias, A, B, C, D)

    expected = torch.zeros(batch, height, width, channels, dtype=torch.float64)
    for k in range(4):

        def walk(x, k=k):
            x = x.transpose(1, 2) if k % 2 else x
            x = x.flatten(1, 2).transpose(1, 2)
            return x.flip(-1) if k >= 2 else x

        delta = torch.einsum("bhwr,cr->bhwc", low_rank[k], weight[k])
        y = loop_scan(walk(maps), walk(delta), A[k], walk(B[k])[:, None], walk(C[k])[:, None], D[k], bias[k])
        y = y.flip(-1) if k >= 2 else y
        shape = (width, height) if k % 2 else (height, width)
        y = y.transpose(1, 2).unflatten(1, shape)
        expected += y.transpose(1, 2) if k % 2 else y
    torch.testing.assert_close(merged.double(), expected, atol=5e-5, rtol=1e-5)


def test_strong_decay_over_a_long_sequence_stays_finite():
    inputs = random_inputs(1, 1, 2, 1, 5000)
    inputs["A"] = torch.tensor([[-50.0], [-1e-6]])
    arguments = {name: tensor.requires_grad_() for name, tensor in inputs.items()}
    y = selective_scan(**arguments)
    y.sum().backward()
    assert torch.isfinite(y).all()
    assert all(torch.isfinite(tensor.grad).all() for tensor in arguments.values())
    torch.testing.assert_close(y.double(), loop_scan(**inputs), atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32_and_returned_as_given(dtype):
    inputs = {name: tensor.to(dtype) for name, tensor in random_inputs(1, 2, 3, 1, 64).items()}
    y = selective_scan(**inputs)
    assert y.dtype == dtype
    torch.testing.assert_close(y, loop_scan(**inputs).to(dtype), atol=1e-2, rtol=1e-2)


def test_autocast_does_not_lower_the_precision():
    inputs = random_inputs(1, 2, 3, 1, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = selective_scan(**inputs)
    torch.testing.assert_close(y, selective_scan(**inputs), atol=0, rtol=0)


def test_an_empty_batch_gives_an_empty_result():
    inputs = random_inputs(2, 2, 3, 1, 8)
    inputs |= {name: inputs[name][:0] for name in ("u", "delta", "B", "C")}
    assert selective_scan(**inputs).shape == (0, 6, 8)


@pytest.mark.parametrize(
    ("name", "shape"),
    [("u", (3, 8)), ("delta", (1, 6, 7)), ("A", (5, 1)), ("B", (1, 4, 1, 8)), ("C", (1, 2, 2, 8)), ("D", (1,))],
)
def test_a_wrong_shape_is_an_error_that_names_the_argument(name, shape):
    inputs = random_inputs(1, 2, 3, 1, 8)
    inputs[name] = torch.zeros(shape)
    with pytest.raises(ValueError, match=f"`{name}`"):
        selective_scan(**inputs)


def test_an_unknown_backend_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match="auto, torch"):
        selective_scan(**random_inputs(1, 1, 1, 1, 4), backend="cudnn")
