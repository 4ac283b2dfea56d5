"""`lung-srad demo`: what it refuses, and that it serves the page and ends when it is interrupted."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

import space_demo.app
import space_demo.static.build
import space_demo.static.server
from lung_srad_cli import demo_command
from modeling_lung_srad.checkpoint_loading import DEFAULT_CHECKPOINT
from tests.conftest import FIXTURES

ROOT = FIXTURES.parents[1]
SECONDS_TO_START = 120


@pytest.fixture
def calls(monkeypatch):
    """Keeps the arguments of the page instead of starting it."""
    calls = []
    monkeypatch.setattr(space_demo.app, "main", lambda *arguments: calls.append(arguments))
    return calls


@pytest.fixture
def taken_port():
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server.getsockname()[1]


def test_page_is_started_with_what_is_given(run, calls):
    pytest.importorskip("gradio")
    assert run("demo").exit_code == 0
    checkpoint = str(DEFAULT_CHECKPOINT)
    assert run("demo", "--checkpoint", checkpoint, "--host", "localhost").exit_code == 0
    assert calls == [([], "127.0.0.1", None), ([checkpoint], "localhost", None)]


@pytest.mark.parametrize("name", ["nosuch", "nobody/no-such-model", "./nosuch"])
def test_a_checkpoint_that_is_missing_starts_no_page(run, calls, name):
    pytest.importorskip("gradio")
    outcome = run("demo", "--checkpoint", str(DEFAULT_CHECKPOINT), "--checkpoint", name)
    assert outcome.exit_code == 2
    (line,) = outcome.errors
    assert line.startswith(f"lung-srad: error: {name}: ")
    assert calls == []


def test_port_that_is_taken_is_one_line(run, calls, taken_port):
    pytest.importorskip("gradio")
    outcome = run("demo", "--port", taken_port)
    assert outcome.exit_code == 2
    (line,) = outcome.errors
    assert line.startswith(f"lung-srad: error: 127.0.0.1:{taken_port}: cannot listen there (")
    assert calls == []


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--port", "0"), "'0' is not a port from 1 to 65535"),
        (("--port", "65536"), "'65536' is not a port"),
        (("--port", "web"), "'web' is not a port"),
        (("--checkpoint", ""), "the path is empty"),
        (("--host", "no such host"), "no such host: cannot listen there"),
        (("--share",), "unrecognized arguments: --share"),
        (("--static", "--checkpoint", "x"), "argument --checkpoint: not allowed with argument --static"),
    ],
)
def test_wrong_argument_is_one_line(run, calls, arguments, problem):
    pytest.importorskip("gradio")
    outcome = run("demo", *arguments)
    assert outcome.exit_code == 2
    (line,) = outcome.errors
    assert problem in line
    assert calls == []


def test_static_page_is_built_and_served_until_interrupted(run, monkeypatch, tmp_path):
    served = []
    monkeypatch.setattr(space_demo.app, "stopped_by_signals", lambda: "stopped")
    monkeypatch.setattr(space_demo.static.build, "build_site", lambda: tmp_path)
    monkeypatch.setattr(demo_command, "check_address", lambda *address: None)  # another page may be running
    monkeypatch.setattr(space_demo.static.server, "serve_site", lambda *arguments: served.append(arguments))
    assert run("demo", "--static", "--port", "8123").exit_code == 0
    assert run("demo", "--static").exit_code == 0
    assert served == [(tmp_path, "stopped", "127.0.0.1", port) for port in (8123, 7860)]


def test_missing_gradio_is_one_line(run, calls, monkeypatch):
    find = __import__("importlib.util").util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "gradio" else find(name))
    outcome = run("demo")
    assert outcome.exit_code == 2
    assert outcome.errors == ['lung-srad: error: gradio: not installed; run pip install "lung-srad[demo]"']


def test_page_is_served_until_interrupted_and_a_wrong_checkpoint_is_said(tmp_path):
    """One of the variable, which a Space has, does not stop the page."""
    pytest.importorskip("gradio")
    environment = os.environ | {"TMPDIR": str(tmp_path), "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
    environment["LUNG_SRAD_CHECKPOINTS"] = "nobody/no-such-model"
    command = [sys.executable, "-m", "lung_srad_cli", "demo"]
    with (tmp_path / "log.txt").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
    try:
        said = wait_for(process, tmp_path / "log.txt", "Ready")
        address = said.split("Listening on ")[1].split()[0]
        assert b"Lung-SRAD" in urllib.request.urlopen(address, timeout=60).read()
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 0
        assert "Traceback" not in (tmp_path / "log.txt").read_text()
        assert list(tmp_path.glob("lung-srad-*")) == []
    finally:
        process.kill()
        process.wait()


def wait_for(process, log, text):
    """Waits until the process has said a text, and returns all that it has said."""
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline and process.poll() is None and text not in log.read_text():
        time.sleep(0.1)
    said = log.read_text()
    assert text in said
    return said
