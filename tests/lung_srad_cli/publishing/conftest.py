"""A local Hub that the command talks to, in this process and in others, and an evaluation report."""

import json
import os
import socket
import subprocess
import sys

import pytest
from huggingface_hub import constants

from dataset_scripts.prepare import prepare_simulated
from tests.local_hub import READ_TOKEN, WRITE_TOKEN, LocalHub

TOKENS = (WRITE_TOKEN, READ_TOKEN)
# -I keeps the checkout and PYTHONPATH out; -S and the paths given here leave out the editable install.
WITHOUT_PACKAGE = "import sys; sys.path[:] = [path for path in sys.path if path] + sys.argv.pop().split(':')\n"
SITE_PACKAGES = ":".join(path for path in sys.path if path.endswith(("site-packages", "dist-packages")))


@pytest.fixture
def hub(monkeypatch):
    """A Hub of its own for a test, to which this process is logged in."""
    monkeypatch.setenv("HF_TOKEN", WRITE_TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    # The command sets it when the server has no Xet storage.
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    with LocalHub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        yield hub


@pytest.fixture
def publish(run):
    """Runs `lung-srad publish` in this process; no token may ever be printed."""

    def publish_here(*arguments):
        outcome = run("publish", *arguments)
        assert not any(token in outcome.output + "".join(outcome.errors) for token in TOKENS)
        return outcome

    return publish_here


@pytest.fixture
def environment(hub, tmp_path):
    """Variables for another process: an empty home, no cache, the address of the Hub, and the token."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "HF_HOME": str(tmp_path / "huggingface"),
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": WRITE_TOKEN,
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def run_elsewhere(environment, tmp_path):
    """Runs Python code in a process without this package; gives what it printed last, from JSON."""

    def run_code(code, *arguments, **variables):
        command = [sys.executable, "-I", "-S", "-c", WITHOUT_PACKAGE + code, *map(str, arguments), SITE_PACKAGES]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            env=environment | variables,
            cwd=tmp_path,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads([line for line in done.stdout.splitlines() if line.startswith("{")][-1])

    return run_code


@pytest.fixture(scope="session")
def prepared_folder(tmp_path_factory):
    """Simulated cycles as `lung-srad prepare simulated` writes them: 4 training and 4 test cycles; read only."""
    folder = tmp_path_factory.mktemp("prepared") / "simulated"
    size = {"patients": 2, "recordings_per_patient": 1, "cycles_per_recording": 4}
    return prepare_simulated(folder, **size, cache_dir=tmp_path_factory.mktemp("datasets"))


@pytest.fixture
def report():
    """The parts of an evaluation report that a card uses; the rates follow from the confusion matrix."""
    counts = {"cycles": 100, "recordings": 20, "patients": 5}
    return {
        "checkpoint": "/somewhere/else",
        "data": "/somebody/ICBHI",
        "split": "official",
        "part": "test",
        "selection": "validation",
        "data_notes": ["Incomplete ICBHI 2017: 20 of 381 recordings; not comparable with published ICBHI scores."],
        **counts,
        "specificity": 0.9,
        "sensitivity": 0.25,
        "score": 0.575,
        "sensitivity_any_abnormal": 0.4,
        "score_any_abnormal": 0.65,
        "confusion_matrix": [[54, 3, 2, 1], [6, 5, 3, 2], [9, 1, 2, 0], [9, 0, 0, 3]],
        "intervals_95": {
            "specificity": [0.8, 1.0],
            "sensitivity": [0.1, 0.4],
            "score": [0.5, 0.65],
            "sensitivity_any_abnormal": [0.3, 0.5],
            "score_any_abnormal": [0.6, 0.7],
        },
        "subgroups": {"device": {"Meditron": {"cycles": 60}, "Litt3200": {"cycles": 40}}},
    }


@pytest.fixture
def write_report(tmp_path):
    """Writes a report as `lung-srad evaluate --output` does, and gives its folder."""

    def write(report):
        folder = tmp_path / "report"
        folder.mkdir(exist_ok=True)
        (folder / "evaluation.json").write_text(json.dumps(report), encoding="utf-8")
        return folder

    return write


@pytest.fixture
def free_port():
    """A port of this machine that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
