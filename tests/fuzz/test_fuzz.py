"""A few hundred inputs for each target, the same ones every time; `make fuzz` is the long run."""

import signal
from types import SimpleNamespace

import pytest

from modeling_lung_srad.errors import InputError
from tests.fuzz.__main__ import run_target
from tests.fuzz.mutation import mutate_bytes
from tests.fuzz.session import Session, Target, save_finding
from tests.fuzz.targets import TARGETS
from tests.fuzz.worker import HEAD, STATE_BYTES

INPUTS = 300
# Those that load a network or ask a server for each input.
FEW = {"configuration": 60, "overrides": 60, "config": 60, "preprocessor_config": 20, "weights": 30, "convert_pth": 50}


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "page"])
def test_changed_inputs_are_taken_or_refused_with_a_message(name, tmp_path):
    session = Session(TARGETS[name](tmp_path), seed=0)
    for _ in range(FEW.get(name, INPUTS)):
        session.step(session.next_input())
    assert session.findings == {}
    assert session.accepted > 0
    assert session.refused > session.tried / 4


def test_odd_requests_to_the_page_are_answered_or_refused(tmp_path, monkeypatch):
    pytest.importorskip("gradio", reason="needs gradio: pip install -e '.[demo]'")
    # Set by the target; this brings the old value back.
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    target = TARGETS["page"](tmp_path)
    session = Session(target, seed=0)
    try:
        for _ in range(40):
            session.step(session.next_input())
    finally:
        target.close()
    assert session.findings == {}
    assert session.accepted > 0


def planted(data):
    """Refuses zeros, and breaks on a byte that no seed has."""
    if 0 in data:
        raise InputError("data", "has a zero")
    if 0xEE in data:
        raise KeyError(data)


def test_planted_bug_is_found_once_and_kept_with_its_input(tmp_path):
    session = Session(Target([bytes(range(1, 200))], mutate_bytes, planted), seed=0)
    texts = [text for text in (session.step(session.next_input()) for _ in range(500)) if text]
    assert len(texts) == len(session.findings) == 1
    (data,) = session.findings.values()
    assert 0xEE in data
    path = save_finding(tmp_path, "planted", data, texts[0])
    assert path.read_bytes() == data
    assert "KeyError" in path.with_suffix(".txt").read_text()
    assert session.tried == 500
    assert session.refused > 50
    assert session.accepted > 50


def test_seed_decides_the_inputs():
    def first(seed):
        session = Session(Target([b"a" * 50], mutate_bytes, lambda data: None), seed)
        inputs = [session.next_input()]
        session.step(inputs[0])
        return inputs + [session.next_input() for _ in range(20)]

    assert first(1) == first(1)
    assert first(1) != first(2)


def test_warning_of_numpy_and_message_of_two_lines_are_findings():
    def warns(data):
        import numpy as np

        np.float32(3e38) * np.float32(10)

    def rambles(data):
        error = InputError("a", "b")
        error.args = ("first\nsecond",)
        raise error

    for run in (warns, rambles):
        session = Session(Target([b"a"], mutate_bytes, run), seed=0)
        assert session.step(b"a")
        assert len(session.findings) == 1


def test_process_that_an_input_ends_is_a_finding_with_that_input(tmp_path, monkeypatch):
    def end(command, **kwargs):
        state = HEAD.pack(7, 4, 3, 0, 6) + b"killer"
        (tmp_path / "annotations.state").write_bytes(state.ljust(STATE_BYTES, b"\0"))
        return SimpleNamespace(returncode=-signal.SIGPROF)

    monkeypatch.setattr("tests.fuzz.__main__.FOLDER", tmp_path)
    monkeypatch.setattr("tests.fuzz.__main__.subprocess.run", end)
    counts = run_target("annotations", 1e-3, seed=0)
    assert counts.findings == (counts.tried - counts.findings) / 7 >= 1
    (text,) = (tmp_path / "annotations").glob("*.txt")
    assert text.read_text() == "The process takes more than 10 s"
    assert text.with_suffix("").read_bytes() == b"killer"


def test_memory_beyond_the_limit_is_a_finding(monkeypatch):
    monkeypatch.setattr("tests.fuzz.session.MEMORY_BYTES", 50_000_000)
    session = Session(Target([b"a"], mutate_bytes, lambda data: bytes(bytearray(300_000_000))), seed=0)
    assert "took more than" in session.step(b"a")
