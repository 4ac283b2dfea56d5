"""The command line of `python -m benchmarks.onnx_latency`."""

import pytest

pytest.importorskip("onnxscript", reason="needs the extra `export`")
pytest.importorskip("onnx", reason="needs the extra `export`")
pytest.importorskip("onnxruntime", reason="needs the extra `export`")
from benchmarks import onnx_latency
from tests.conftest import tiny_config


@pytest.fixture
def measured(monkeypatch):
    """Keeps the requested measurements instead of running them."""
    calls = []
    monkeypatch.setattr(onnx_latency, "measure", lambda *arguments: calls.append(arguments))
    return calls


@pytest.mark.parametrize(
    ("arguments", "expected"), [((), ("medium", 2, 20)), (("tiny", "1", "3"), ("tiny", 1, 3))], ids=str
)
def test_size_threads_and_rounds_may_be_given(measured, arguments, expected):
    onnx_latency.main(arguments)
    assert measured == [expected]


def test_each_session_is_set_beside_torch(capsys, monkeypatch):
    shallow = tiny_config(depths=(1, 1, 1, 1), gaussian_blocks=())
    monkeypatch.setattr(onnx_latency.LungSradConfig, "tiny", lambda: shallow)
    monkeypatch.setattr(onnx_latency, "FRAMES", 64)
    onnx_latency.main(("tiny", "1", "1"))
    first, *lines = capsys.readouterr().out.splitlines()
    assert first.startswith("tiny, 1 threads, ")
    kinds = ("float32", "float16", "int8")
    assert [line.split(":")[0] for line in lines] == ["torch", *(f"onnxruntime, {kind}" for kind in kinds)]
    assert lines[0].endswith("1.00 times torch, logits within 0.0e+00")
    assert " MB, session opened in " in lines[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("huge",), "invalid choice: 'huge'"),
        (("tiny", "x"), "invalid int value: 'x'"),
        (("tiny", "0"), "threads and rounds must be positive"),
        (("tiny", "1", "0"), "threads and rounds must be positive"),
    ],
    ids=str,
)
def test_what_cannot_be_measured_is_said(measured, capsys, arguments, message):
    with pytest.raises(SystemExit):
        onnx_latency.main(arguments)
    assert message in capsys.readouterr().err
    assert measured == []
