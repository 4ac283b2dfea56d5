"""The scan against reference numbers, a slow loop in float64, and numerical gradients."""

import re
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors.torch import load_file

from modeling_lung_srad import selective_scan, torch_scan
from modeling_lung_srad.selective_scan import selective_scan_2d
from tests.conftest import FIXTURES

MODULE = sys.modules[selective_scan_2d.__module__]
ARGUMENTS = ("u", "delta", "A", "B", "C", "D", "delta_bias")


def loop_scan(u, delta, A, B, C, D=None, delta_bias=None, delta_softplus=True):
    """The definition, one position after another, in float64."""
    u, delta, A, B, C = (x.double() for x in (u, delta, A, B, C))
    if delta_bias is not None:
        delta = delta + delta_bias.double()[:, None]
    if delta_softplus:
        delta = torch.logaddexp(delta, torch.zeros_like(delta))
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


@pytest.fixture(autouse=True)
def by_torch(monkeypatch):
    """On a CPU, `auto` is torch here; `test_numba_scan.py` has the other one."""
    monkeypatch.setattr(MODULE, "_numba_pays", lambda arguments: False)


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


def random_map(height, width, channels=5, rank=3, state_size=2, batch=3, dtype=torch.float32):
    """Arguments of the scan of a map; as in the model, three of them are views of one tensor."""
    generator = torch.Generator().manual_seed(3)
    sizes = [rank, state_size, state_size]
    projected = torch.randn(batch, height, width, 4, sum(sizes), generator=generator, dtype=dtype).movedim(3, 0)
    maps = torch.randn(batch, height, width, channels, generator=generator, dtype=dtype)
    low_rank, B, C = projected.split(sizes, dim=-1)
    weight = torch.randn(4, channels, rank, generator=generator, dtype=dtype)
    bias, D = torch.randn(2, 4, channels, generator=generator, dtype=dtype)
    A = -torch.exp(torch.randn(4, channels, state_size, generator=generator, dtype=dtype))
    return maps, low_rank, weight, bias, A, B, C, D


def loop_scan_2d(maps, low_rank, weight, bias, A, B, C, D):
    """Four loops put back in place, in float64."""
    height, width = maps.shape[1:3]
    merged = 0
    for k in range(4):

        def walk(x, k=k):
            x = x.transpose(1, 2) if k % 2 else x
            x = x.flatten(1, 2).transpose(1, 2)
            return x.flip(-1) if k >= 2 else x

        delta = torch.einsum("bhwr,cr->bhwc", low_rank[k], weight[k])
        y = loop_scan(walk(maps), walk(delta), A[k], walk(B[k])[:, None], walk(C[k])[:, None], D[k], bias[k])
        y = y.flip(-1) if k >= 2 else y
        y = y.transpose(1, 2).unflatten(1, (width, height) if k % 2 else (height, width))
        merged = merged + (y.transpose(1, 2) if k % 2 else y)
    return merged


@pytest.mark.parametrize("elements_at_once", [2**20, 1, 200])
@pytest.mark.parametrize(
    ("height", "width"), [(1, 1), (1, 6), (5, 1), (4, 12), (3, 7), (7, 16), (17, 2), (32, 3), (34, 3)]
)
def test_four_directions_are_four_scans_put_back_in_place(height, width, elements_at_once, monkeypatch):
    """Parametrized: the map in one piece, block by block, or a few blocks or samples at once."""
    monkeypatch.setattr(torch_scan, "ELEMENTS_AT_ONCE", elements_at_once)
    arguments = random_map(height, width)
    merged = selective_scan_2d(*arguments)
    torch.testing.assert_close(merged.double(), loop_scan_2d(*arguments), atol=5e-5, rtol=1e-5)


def test_a_map_and_its_gradient_may_lie_in_memory_channels_first():
    maps, *others = random_map(4, 6)
    upstream = torch.randn(maps.shape, generator=torch.Generator().manual_seed(2))
    grads = []
    for layout in (lambda x: x, lambda x: x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)):
        leaf = maps.clone().requires_grad_()
        merged = layout(selective_scan_2d(layout(leaf), *others))
        grads.append(torch.autograd.grad(merged, leaf, layout(upstream))[0])
    torch.testing.assert_close(*grads, atol=0, rtol=0)


@pytest.mark.parametrize("bias", [-200.0, 100.0])
def test_step_sizes_whose_exponential_is_infinite_or_zero_are_those_of_the_loops(bias):
    arguments = random_map(4, 5)
    arguments[3].fill_(bias)
    merged = selective_scan_2d(*arguments)
    torch.testing.assert_close(merged.double(), loop_scan_2d(*arguments), atol=1e-2, rtol=1e-5)


@pytest.mark.parametrize("state_size", [1, 2])
@pytest.mark.parametrize("elements_at_once", [2**20, 1, 240])
@pytest.mark.parametrize(("height", "width"), [(3, 5), (17, 2), (32, 2)])
def test_gradients_of_a_map_are_those_of_the_loops(height, width, state_size, elements_at_once, monkeypatch):
    """Parametrized: in one piece, block by block, or by two samples of three, each of several blocks."""
    monkeypatch.setattr(torch_scan, "ELEMENTS_AT_ONCE", elements_at_once)
    grads = []
    for scan in (selective_scan_2d, loop_scan_2d):
        arguments = random_map(height, width, channels=2, state_size=state_size, dtype=torch.float64)
        leaves = [x.requires_grad_() for x in arguments]
        upstream = torch.randn(leaves[0].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        grads.append(torch.autograd.grad(scan(*leaves), leaves, upstream))
    for grad, expected in zip(*grads, strict=True):
        torch.testing.assert_close(grad, expected)


def test_kept_memory_serves_inference_training_other_sizes_and_other_dtypes_in_turn():
    small, large = random_map(3, 4), random_map(16, 80, channels=256)
    expected = selective_scan_2d(*small)
    with torch.inference_mode():
        torch.testing.assert_close(selective_scan_2d(*small), expected, atol=0, rtol=0)
        selective_scan_2d(*large)
        selective_scan_2d(*(x.double() for x in small))
    leaves = [x.requires_grad_() for x in small]
    merged = selective_scan_2d(*leaves)
    torch.testing.assert_close(merged, expected, atol=0, rtol=0)
    assert all(grad.isfinite().all() for grad in torch.autograd.grad(merged.sum(), leaves))


def test_threads_do_not_share_memory():
    inputs = [random_map(5, 40, channels=channels) for channels in (16, 24)] * 4
    expected = [selective_scan_2d(*arguments) for arguments in inputs]
    with ThreadPoolExecutor(2) as executor:
        for merged, value in zip(executor.map(lambda x: selective_scan_2d(*x), inputs), expected, strict=True):
            torch.testing.assert_close(merged, value, atol=0, rtol=0)


def test_another_default_device_does_no_harm():
    arguments = random_map(3, 4)
    expected = selective_scan_2d(*arguments)
    torch_scan._kept.__dict__.clear()
    with torch.device("meta"):
        torch.testing.assert_close(selective_scan_2d(*arguments), expected, atol=0, rtol=0)


@pytest.mark.parametrize("state_size", [1, 2])
def test_what_is_not_finite_spreads_no_further_than_the_definition_says(state_size):
    arguments = random_map(4, 5, state_size=state_size)
    for index, value in ((6, torch.inf), (5, torch.nan)):
        arguments[index][1, 0, 2, 3] = value
        finite = selective_scan_2d(*arguments).isfinite()
        assert (finite == loop_scan_2d(*arguments).isfinite()).all()
        assert finite.any()


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


@pytest.mark.parametrize("state_size", [1, 3])
def test_autocast_does_not_lower_the_precision(state_size):
    inputs = random_inputs(1, 2, 3, state_size, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = selective_scan(**inputs)
    torch.testing.assert_close(y, selective_scan(**inputs), atol=0, rtol=0)


@pytest.mark.parametrize("state_size", [1, 3])
def test_a_backward_pass_inside_of_autocast_keeps_the_precision(state_size):
    maps, *others = random_map(4, 6, state_size=state_size)
    sequences = list(random_inputs(1, 2, 3, state_size, 64).values())
    for scan, leaves in ((selective_scan, sequences), (selective_scan_2d, [maps, *others])):
        leaves = [x.detach().clone().requires_grad_() for x in leaves]
        y = scan(*leaves)
        upstream = torch.ones_like(y)
        expected = torch.autograd.grad(y, leaves, upstream, retain_graph=True)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            grads = torch.autograd.grad(y, leaves, upstream)
        for grad, value in zip(grads, expected, strict=True):
            torch.testing.assert_close(grad, value, atol=0, rtol=0)


def test_an_empty_batch_gives_an_empty_result_and_gradients_of_zero():
    inputs = random_inputs(2, 2, 3, 1, 8)
    inputs |= {name: inputs[name][:0] for name in ("u", "delta", "B", "C")}
    inputs["u"] = inputs["u"].half()
    leaves = [inputs[name].requires_grad_() for name in ARGUMENTS]
    y = selective_scan(*leaves)
    assert (y.shape, y.dtype) == ((0, 6, 8), torch.float16)
    assert all((grad == 0).all() for grad in torch.autograd.grad(y.sum(), leaves))


@pytest.mark.parametrize("shape", [{"batch": 0}, {"height": 0}, {"width": 0}, {"channels": 0}])
def test_an_empty_map_gives_an_empty_result_and_gradients_of_zero(shape):
    arguments = random_map(**{"height": 3, "width": 4, **shape})
    leaves = [x.requires_grad_() for x in arguments]
    merged = selective_scan_2d(*leaves)
    assert merged.shape == arguments[0].shape
    assert all((grad == 0).all() for grad in torch.autograd.grad(merged.sum(), leaves))


@pytest.mark.parametrize(
    ("name", "shape"),
    [("u", (3, 8)), ("delta", (1, 6, 7)), ("A", (5, 1)), ("B", (1, 4, 1, 8)), ("C", (1, 2, 2, 8)), ("D", (1,))],
)
def test_a_wrong_shape_is_an_error_that_names_the_argument(name, shape):
    inputs = random_inputs(1, 2, 3, 1, 8)
    inputs[name] = torch.zeros(shape)
    with pytest.raises(ValueError, match=f"`{name}`"):
        selective_scan(**inputs)


@pytest.mark.parametrize(
    ("index", "shape"),
    [
        (0, (4, 3, 4)),
        (1, (4, 1, 3, 4, 3)),
        (2, (4, 5, 2)),
        (3, (5,)),
        (4, (5, 2)),
        (5, (4, 1, 3, 4, 2)),
        (6, (4, 3, 3, 4, 1)),
        (7, (5,)),
    ],
)
def test_a_wrong_shape_of_a_map_is_an_error_that_names_the_argument(index, shape):
    names = ["hidden_states", "low_rank_delta", "delta_weight", "delta_bias", "A", "B", "C", "D"]
    arguments = list(random_map(3, 4))
    arguments[index] = torch.zeros(shape)
    with pytest.raises(ValueError, match=f"`{names[index]}`|`delta_weight`|`B`"):
        selective_scan_2d(*arguments)


def test_an_unknown_backend_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match="auto, torch, numba, triton, mamba_ssm"):
        selective_scan(**random_inputs(1, 1, 1, 1, 4), backend="cudnn")


@pytest.fixture
def warnings(monkeypatch):
    texts = []
    monkeypatch.setattr(MODULE.logger, "warning_once", texts.append)
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    return texts


@pytest.mark.parametrize("backend", ["triton", "mamba_ssm"])
def test_a_backend_for_cuda_falls_back_to_torch_for_tensors_on_the_cpu_and_says_so(backend, warnings):
    inputs = random_inputs(1, 2, 3, 1, 7)
    torch.testing.assert_close(selective_scan(**inputs, backend=backend), selective_scan(**inputs), atol=0, rtol=0)
    arguments = random_map(3, 4, state_size=1)
    by_backend = selective_scan_2d(*arguments, backend=backend)
    torch.testing.assert_close(by_backend, selective_scan_2d(*arguments), atol=0, rtol=0)
    assert len(set(warnings)) == 1
    assert f"{backend}, as the tensors are on cpu" in warnings[0]


@pytest.fixture
def kernels_loaded_anew():
    MODULE._load_kernels.cache_clear()
    yield
    MODULE._load_kernels.cache_clear()


class OnCuda(torch.Tensor):
    """Says that it is on CUDA, where there is none."""

    is_cuda = True


@pytest.mark.parametrize(
    ("backend", "state_size", "dtype", "reason"),
    [
        ("triton", 2, torch.float32, "triton, as the state size is 2"),
        ("triton", 1, torch.float64, "triton, as the tensors are float64"),
        ("mamba_ssm", 1, torch.float32, r"mamba_ssm, as mamba_ssm cannot be imported \(pip install mamba-ssm\)"),
        (
            "auto",
            3,
            torch.float32,
            "triton, as the state size is 3; nor by mamba_ssm, as mamba_ssm cannot be imported",
        ),
    ],
)
def test_it_says_why_a_backend_is_not_used_on_cuda(
    backend, state_size, dtype, reason, warnings, kernels_loaded_anew, monkeypatch
):
    monkeypatch.setitem(sys.modules, "mamba_ssm", None)
    inputs = random_inputs(1, 1, 3, state_size, 5, dtype=dtype)
    inputs["u"] = inputs["u"].as_subclass(OnCuda)
    y = selective_scan(**inputs, backend=backend)
    assert re.search(reason, warnings[0])
    expected = loop_scan(**inputs).as_subclass(torch.Tensor)
    torch.testing.assert_close(y.as_subclass(torch.Tensor).double(), expected, atol=1e-5, rtol=1e-5)


def test_a_result_too_large_for_float16_is_an_error_that_names_the_remedy():
    inputs = {name: tensor.half() for name, tensor in random_inputs(1, 1, 2, 1, 50).items()}
    inputs |= {"u": inputs["u"] + 3000, "B": inputs["B"] * 0 + 10, "C": inputs["C"] * 0 + 10}
    with pytest.raises(OverflowError, match="bfloat16"):
        selective_scan(**inputs)
    inputs["u"] = inputs["u"] * torch.nan
    assert selective_scan(**inputs).isnan().all()


def test_a_skip_too_large_for_float16_is_an_error_as_well():
    inputs = {name: tensor.half() for name, tensor in random_inputs(1, 1, 2, 1, 50).items()}
    with pytest.raises(OverflowError, match="bfloat16"):
        selective_scan(**inputs | {"u": inputs["u"] * 0 + 3000, "D": inputs["D"] * 0 + 30})


def test_a_graph_of_torch_export_gives_the_same_for_other_batches():
    arguments = random_map(3, 5, batch=2)

    class Scan(torch.nn.Module):
        def forward(self, hidden_states, low_rank, weight, bias, A, B, C, D):
            return selective_scan_2d(hidden_states, low_rank, weight, bias, A, B, C, D)

    batch = torch.export.Dim("batch", min=1, max=8)
    shapes = {
        name: {0: batch} if name == "hidden_states" else {1: batch} for name in ("hidden_states", "low_rank", "B", "C")
    }
    shapes |= dict.fromkeys(("weight", "bias", "A", "D"))
    exported = torch.export.export(Scan(), arguments, dynamic_shapes=shapes).module()
    others = random_map(3, 5, batch=3)
    torch.testing.assert_close(exported(*others), selective_scan_2d(*others))


def test_compiled_without_graph_break_it_has_the_same_gradients():
    """From the second width on, torch would compile for any."""
    compiled = torch.compile(selective_scan_2d, backend="aot_eager", fullgraph=True)
    for width in (4, 20, 33):
        grads = []
        for scan in (compiled, selective_scan_2d):
            leaves = [x.requires_grad_() for x in random_map(3, width)]
            grads.append(torch.autograd.grad(scan(*leaves).square().sum(), leaves))
        for grad, expected in zip(*grads, strict=True):
            torch.testing.assert_close(grad, expected, atol=1e-4, rtol=1e-4)


def test_every_back_end_is_given_maps_of_float16_in_float32(monkeypatch):
    given = []

    def scan_2d(*arguments):
        given.extend(arguments)
        return arguments[0]

    monkeypatch.setattr(sys.modules[selective_scan_2d.__module__], "_choose_scan", lambda *arguments: scan_2d)
    maps = torch.ones(1, 2, 3, 4, dtype=torch.float16)
    rank, weights = torch.ones(4, 1, 2, 3, 1, dtype=torch.float16), torch.ones(4, 4, 1)
    selective_scan_2d(maps, rank, weights, torch.zeros(4, 4), -torch.ones(4, 4, 1), rank, rank, torch.ones(4, 4))
    assert {tensor.dtype for tensor in given} == {torch.float32}
