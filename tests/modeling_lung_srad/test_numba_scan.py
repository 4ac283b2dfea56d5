"""The compiled scan against reference numbers and the plain loop, and what happens where it cannot be used."""

import functools
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.utils.checkpoint import checkpoint

from modeling_lung_srad import LungSradConfig, LungSradForAudioClassification, selective_scan
from modeling_lung_srad.selective_scan import choose_cpu_backend, selective_scan_2d
from tests.conftest import FIXTURES, tiny_config
from tests.modeling_lung_srad.test_selective_scan import (
    ARGUMENTS,
    loop_scan,
    loop_scan_2d,
    random_inputs,
    random_map,
)

pytest.importorskip("numba", reason="needs the extra `fast`")
from modeling_lung_srad import numba_kernels, numba_scan

ROOT = Path(__file__).parents[2]
MODULE = sys.modules[selective_scan_2d.__module__]
by_numba = functools.partial(selective_scan, backend="numba")
by_numba_2d = functools.partial(selective_scan_2d, backend="numba")


@pytest.fixture(autouse=True)
def no_fallback(monkeypatch):
    """A scan by torch instead fails, except where a test takes the warnings."""
    texts = []
    monkeypatch.setattr(MODULE.logger, "warning_once", texts.append)
    yield texts
    assert texts == []


def in_double(inputs):
    return [x.detach().double().requires_grad_() for x in inputs]


def assert_same(scan, slow_scan, inputs, atol=1e-5, rtol=1e-5):
    """Values with and without gradients, and gradients, of float32 inputs and of the slow loop in float64.

    `rtol` is of the largest value of a gradient, since a sum over thousands of positions rounds like its largest part.
    """
    leaves, doubled = [x.detach().clone().requires_grad_() for x in inputs], in_double(inputs)
    y, expected = scan(*leaves), slow_scan(*doubled)
    torch.testing.assert_close(y.double(), expected, atol=atol, rtol=rtol)
    with torch.no_grad():
        torch.testing.assert_close(scan(*inputs), y.detach(), atol=0, rtol=0)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(5))
    grads = torch.autograd.grad(y, leaves, upstream), torch.autograd.grad(expected, doubled, upstream.double())
    for grad, value in zip(*grads, strict=True):
        torch.testing.assert_close(grad.double(), value, atol=atol + rtol * value.abs().max().item(), rtol=0)


def test_values_and_gradients_match_the_reference_implementation():
    golden = load_file(FIXTURES / "selective_scan.safetensors")
    inputs = [golden[f"n1.{name}"].clone().requires_grad_() for name in ARGUMENTS]
    y = by_numba(*inputs)
    y.backward(golden["n1.grad_y"])
    torch.testing.assert_close(y, golden["n1.y"], atol=1e-4, rtol=0)
    for name, tensor in zip(ARGUMENTS, inputs, strict=True):
        torch.testing.assert_close(tensor.grad, golden[f"n1.grad_{name}"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("length", [*range(1, 9), 31, 32, 33, 63, 64, 65, 70])
def test_every_length_has_the_values_and_gradients_of_the_loop(length):
    inputs = random_inputs(2, 2, 3, 1, length, seed=length)
    assert_same(by_numba, loop_scan, [inputs[name] for name in ARGUMENTS])


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("channels", [1, 7, 15, 16, 17, 24, 33, 96, 97, 200])
def test_channels_need_not_fill_vectors_or_blocks(batch, channels):
    inputs = random_inputs(batch, 2, channels, 1, 6, seed=channels)
    assert_same(by_numba, loop_scan, [inputs[name] for name in ARGUMENTS])


@pytest.mark.parametrize(
    ("height", "width", "batch", "channels"),
    [(1, 1, 1, 5), (1, 6, 3, 24), (5, 1, 3, 17), (3, 7, 1, 40), (8, 13, 2, 5)],
)
def test_four_directions_are_four_scans_put_back_in_place(height, width, batch, channels):
    arguments = random_map(height, width, channels=channels, batch=batch, state_size=1)
    assert_same(by_numba_2d, loop_scan_2d, arguments, atol=5e-5)


@pytest.mark.parametrize("elements_at_once", [1, 32 * 4 * 3 * 5 * 2])
def test_a_map_may_be_scanned_in_pieces(elements_at_once, monkeypatch):
    arguments = random_map(9, 15, state_size=1)
    whole = by_numba_2d(*arguments)
    monkeypatch.setattr(numba_scan, "STEP_SIZES_AT_ONCE", elements_at_once)
    torch.testing.assert_close(by_numba_2d(*arguments), whole)
    assert_same(by_numba_2d, loop_scan_2d, arguments, atol=5e-5)


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_the_division_into_blocks_does_not_change_the_result(threads, monkeypatch):
    arguments = random_map(4, 9, channels=72, state_size=1, batch=1)
    expected = by_numba_2d(*arguments)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    run = numba_scan.run_on_threads
    monkeypatch.setattr(numba_scan, "run_on_threads", lambda address, call, _, arrays: run(address, call, 1, arrays))
    torch.testing.assert_close(by_numba_2d(*arguments), expected, atol=0, rtol=0)
    assert_same(by_numba_2d, loop_scan_2d, arguments, atol=5e-5)


def test_a_long_sequence_keeps_its_precision():
    """Against the torch scan in float64, which other tests compare with the loop."""
    inputs = random_inputs(1, 1, 3, 1, 8192)
    assert_same(by_numba, functools.partial(selective_scan, backend="torch"), [inputs[name] for name in ARGUMENTS])


@pytest.mark.parametrize("step", [1e-6, 1e-3, 1.0, 30.0, 1000.0])
def test_step_sizes_from_a_millionth_to_a_thousand(step):
    """The larger ones make decays that underflow."""
    inputs = random_inputs(1, 2, 9, 1, 40)
    inputs["delta"] *= 0.1
    inputs["delta_bias"] = torch.full_like(inputs["delta_bias"], step + math.log(-math.expm1(-step)))
    scale = max(1.0, step)
    assert_same(by_numba, loop_scan, [inputs[name] for name in ARGUMENTS], atol=2e-5 * scale)


def test_states_may_grow():
    inputs = random_inputs(1, 1, 4, 1, 12)
    inputs["A"] = inputs["A"].abs() / 4
    assert_same(by_numba, loop_scan, [inputs[name] for name in ARGUMENTS], atol=1e-3)


def test_bias_and_skip_may_be_left_out():
    inputs = random_inputs(2, 1, 4, 1, 20) | {"D": None, "delta_bias": None}
    torch.testing.assert_close(by_numba(**inputs).double(), loop_scan(**inputs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [{"batch": 0}, {"height": 0}, {"width": 0}, {"channels": 0}])
def test_an_empty_map_gives_an_empty_result_and_gradients_of_zero(shape):
    arguments = random_map(**{"height": 3, "width": 4, "state_size": 1, **shape})
    leaves = [x.requires_grad_() for x in arguments]
    merged = by_numba_2d(*leaves)
    assert merged.shape == arguments[0].shape
    assert all((grad == 0).all() for grad in torch.autograd.grad(merged.sum(), leaves))


def test_a_map_and_its_gradient_may_lie_in_memory_channels_first():
    maps, *others = random_map(4, 6, state_size=1)
    upstream = torch.randn(maps.shape, generator=torch.Generator().manual_seed(2))
    grads = []
    for layout in (lambda x: x, lambda x: x.permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)):
        leaf = maps.clone().requires_grad_()
        merged = layout(by_numba_2d(layout(leaf), *others))
        grads.append(torch.autograd.grad(merged, leaf, layout(upstream))[0])
    torch.testing.assert_close(*grads, atol=0, rtol=0)


@pytest.mark.parametrize("index", range(8))
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_spreads_no_further_than_the_definition_says(index, value):
    arguments = random_map(4, 5, state_size=1)
    arguments[index][tuple(size // 2 for size in arguments[index].shape)] = value
    finite = by_numba_2d(*arguments).isfinite()
    assert (finite == loop_scan_2d(*arguments).isfinite()).all()
    assert finite.any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype):
    inputs = {name: tensor.to(dtype) for name, tensor in random_inputs(1, 2, 3, 1, 64).items()}
    y = by_numba(**inputs)
    assert y.dtype == dtype
    torch.testing.assert_close(y, loop_scan(**inputs).to(dtype), atol=1e-2, rtol=1e-2)
    arguments = [x.to(dtype) for x in random_map(3, 4, state_size=1)]
    merged = by_numba_2d(*arguments)
    assert merged.dtype == torch.float32
    expected = loop_scan_2d(*(x.double() for x in arguments))
    torch.testing.assert_close(merged.double(), expected, atol=5e-5, rtol=1e-5)


def test_autocast_changes_neither_values_nor_gradients():
    leaves = [x.requires_grad_() for x in random_map(4, 6, state_size=1)]
    y = by_numba_2d(*leaves)
    upstream = torch.ones_like(y)
    expected = torch.autograd.grad(y, leaves, upstream)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = by_numba_2d(*leaves)
        grads = torch.autograd.grad(under_autocast, leaves, upstream)
    torch.testing.assert_close(under_autocast, y, atol=0, rtol=0)
    for grad, value in zip(grads, expected, strict=True):
        torch.testing.assert_close(grad, value, atol=0, rtol=0)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_computes_the_same_again(use_reentrant):
    grads = []
    for scan in (by_numba_2d, lambda *leaves: checkpoint(by_numba_2d, *leaves, use_reentrant=use_reentrant)):
        leaves = [x.requires_grad_() for x in random_map(3, 5, state_size=1)]
        grads.append(torch.autograd.grad(scan(*leaves).sum(), leaves) if not use_reentrant else backward(scan, leaves))
    for grad, expected in zip(*grads, strict=True):
        torch.testing.assert_close(grad, expected, atol=0, rtol=0)


def backward(scan, leaves):
    """Gradients of leaves; checkpoints of the older kind do not go with `torch.autograd.grad`."""
    leaves = [x.detach().clone().requires_grad_() for x in leaves]
    scan(*leaves).sum().backward()
    return [x.grad for x in leaves]


def test_a_graph_is_of_torch_operations_and_nothing_is_said():
    class Scan(torch.nn.Module):
        def forward(self, *arguments):
            return by_numba_2d(*arguments)

    arguments = random_map(3, 5, state_size=1)
    exported = torch.export.export(Scan(), arguments).module()
    torch.testing.assert_close(exported(*arguments), by_numba_2d(*arguments), atol=1e-5, rtol=1e-5)
    compiled = torch.compile(by_numba_2d, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(*arguments), by_numba_2d(*arguments), atol=1e-5, rtol=1e-5)


def test_forward_derivatives_are_refused_as_by_torch():
    arguments = random_map(3, 5, state_size=1)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(arguments[0], torch.ones_like(arguments[0]))
        with pytest.raises(RuntimeError, match="forward"):
            by_numba_2d(dual, *arguments[1:])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda x: x.double(), "numba, as the tensors are float64"),
        (lambda x: x.to("meta"), "numba, as the tensors are on meta"),
    ],
)
def test_other_tensors_are_scanned_by_torch_with_one_sentence(change, reason, no_fallback):
    arguments = [change(x) for x in random_map(3, 5, state_size=1)]
    assert by_numba_2d(*arguments).shape == arguments[0].shape
    assert [reason in text for text in set(no_fallback)] == [True]
    no_fallback.clear()


def test_larger_states_are_scanned_by_torch_with_one_sentence(no_fallback):
    inputs = random_inputs(1, 1, 2, 4, 5)
    torch.testing.assert_close(by_numba(**inputs), selective_scan(**inputs, backend="torch"), atol=0, rtol=0)
    assert "numba, as the state size is 4" in no_fallback[0]
    by_numba(**random_inputs(1, 1, 2, 1, 5), delta_softplus=False)
    assert "numba, as delta_softplus is False" in no_fallback[1]
    no_fallback.clear()


@pytest.fixture
def without_numba(monkeypatch):
    """As in a process in which it is not installed."""
    for name in ("numba_scan", "numba_kernels"):
        monkeypatch.delitem(sys.modules, f"modeling_lung_srad.{name}")
    monkeypatch.setitem(sys.modules, "numba", None)
    MODULE._load_kernels.cache_clear()
    yield
    MODULE._load_kernels.cache_clear()


def test_without_numba_auto_says_nothing_and_numba_gives_the_reason(without_numba, no_fallback):
    leaves = [x.requires_grad_() for x in random_map(3, 5, state_size=1)]
    expected = selective_scan_2d(*leaves, backend="torch")
    torch.testing.assert_close(selective_scan_2d(*leaves), expected, atol=0, rtol=0)
    assert no_fallback == []
    assert choose_cpu_backend(math.inf) == "torch"
    torch.testing.assert_close(by_numba_2d(*leaves), expected, atol=0, rtol=0)
    assert "not by numba, as numba cannot be imported" in no_fallback[0]
    assert "(pip install numba)" in no_fallback[0]
    no_fallback.clear()


@pytest.fixture
def scanned(monkeypatch):
    """A process that has scanned nothing yet; lists the scans by numba."""
    calls = []

    def load(backend):
        calls.append(backend)
        return {"scan_1d": None, "scan_2d": numba_scan.scan_2d}, None

    monkeypatch.setattr(MODULE, "_load_kernels", load)
    monkeypatch.setattr(MODULE, "_elements_scanned", 0)
    monkeypatch.delitem(sys.modules, "modeling_lung_srad.numba_scan")
    return calls


def test_auto_takes_numba_for_gradients_at_once(scanned):
    leaves = [x.requires_grad_() for x in random_map(3, 5, state_size=1)]
    selective_scan_2d(*leaves)
    assert "numba" in scanned


def test_auto_takes_numba_for_inference_once_enough_was_scanned(scanned, monkeypatch):
    arguments = random_map(3, 5, state_size=1)
    monkeypatch.setattr(MODULE, "ELEMENTS_BEFORE_NUMBA_PAYS", 2 * arguments[0].numel())
    selective_scan_2d(*arguments)
    selective_scan_2d(*arguments)
    assert scanned == []
    selective_scan_2d(*arguments)
    assert "numba" in scanned


def test_auto_goes_on_with_numba_once_it_is_loaded(scanned, monkeypatch):
    arguments = random_map(3, 5, state_size=1)
    monkeypatch.setitem(sys.modules, "modeling_lung_srad.triton_scan", None)
    selective_scan_2d(*arguments)
    assert scanned == []
    monkeypatch.setitem(sys.modules, "modeling_lung_srad.numba_scan", numba_scan)
    selective_scan_2d(*arguments)
    assert "numba" in scanned


def scan_backends(model):
    return {module.scan_backend for module in model.modules() if hasattr(module, "scan_backend")}


def test_a_job_of_known_size_gets_a_backend_for_all_of_it():
    clip = 1024
    for frames, backend in ((clip, "torch"), (40 * clip, "torch"), (60 * clip, "numba"), (math.inf, "numba")):
        model = LungSradForAudioClassification(LungSradConfig.tiny())
        model.fix_scan_backend(frames)
        assert scan_backends(model) == {backend}
        assert model.config.scan_backend == "auto"


@pytest.mark.parametrize(
    ("settings", "backend"), [({"scan_backend": "torch"}, "torch"), ({"ssm_state_size": 2}, "torch")]
)
def test_a_job_keeps_the_backend_of_its_model(settings, backend):
    model = LungSradForAudioClassification(tiny_config(**settings))
    model.fix_scan_backend(math.inf)
    assert scan_backends(model) == {backend}


def test_a_model_on_another_device_is_left_alone():
    model = LungSradForAudioClassification(tiny_config()).to("meta")
    model.fix_scan_backend(math.inf)
    assert scan_backends(model) == {"auto"}


SCAN = """
import torch
from modeling_lung_srad.selective_scan import selective_scan_2d
shapes = [(1, 3, 4, 5), (4, 1, 3, 4, 2), (4, 5, 2), (4, 5), (4, 5, 1), (4, 1, 3, 4, 1), (4, 1, 3, 4, 1), (4, 5)]
maps = [-torch.ones(shape) for shape in shapes]
by_numba, by_torch = (selective_scan_2d(*maps, backend=backend) for backend in ("numba", "torch"))
print((by_numba - by_torch).abs().max().item() < 1e-5)
"""


def start(script, **environment):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | environment
    return subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_two_processes_compile_at_once_and_the_next_one_loads_what_they_kept(tmp_path):
    cache = {"NUMBA_CACHE_DIR": str(tmp_path)}
    for process in [start(SCAN, **cache), start(SCAN, **cache)]:
        output, errors = process.communicate()
        assert (output, process.returncode) == ("True\n", 0)
        assert set(errors.splitlines()) <= {numba_kernels.COMPILING}
    compiled = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nb?")}
    assert len(compiled) == 4
    assert start(SCAN, **cache).communicate()[0] == "True\n"
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nb?")} == compiled


def test_where_nothing_can_be_kept_one_sentence_says_so_and_it_is_compiled(monkeypatch, no_fallback):
    def cfunc(*signature, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function:\nno locator available")
        return lambda function: function.__name__

    monkeypatch.setattr(numba_kernels, "cfunc", cfunc)
    monkeypatch.setattr(numba_kernels.logger, "warning_once", no_fallback.append)
    assert numba_kernels.compile_kernels() == ("scan", "scan_gradients")
    assert [text.partition(";")[0] for text in no_fallback] == [
        "The compiled scan cannot be kept on disk (cannot cache function: no locator available)"
    ]
    no_fallback.clear()


def test_a_broken_numba_is_said_in_one_sentence(tmp_path):
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba/__init__.py").write_text("raise SystemError('Numba needs\\nNumPy 1.9 or less')")
    output, errors = start(SCAN, PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}").communicate()
    assert output == "True\n"
    assert len(errors.splitlines()) == 1
    assert "not by numba, as numba cannot be imported (Numba needs NumPy 1.9 or less)" in errors


def test_a_compilation_that_fails_is_said_in_one_sentence(monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("LLVM knows\nno such processor")

    monkeypatch.setattr(numba_kernels, "cfunc", fail)
    with pytest.raises(ImportError, match=r"numba cannot compile it \(LLVM knows no such processor\)"):
        numba_scan.compile_kernels()


def test_a_long_compilation_is_announced(monkeypatch, no_fallback):
    def compile_slowly(function, cache):
        time.sleep(0.2)

    monkeypatch.setattr(numba_kernels.logger, "warning_once", no_fallback.append)
    monkeypatch.setattr(numba_kernels, "SECONDS_BEFORE_A_WORD", 0.01)
    monkeypatch.setattr(numba_kernels, "_compile", compile_slowly)
    numba_scan.compile_kernels()
    assert no_fallback == [numba_kernels.COMPILING]
    no_fallback.clear()
