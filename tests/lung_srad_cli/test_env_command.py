"""`lung-srad env`: it names every package, and works where some are missing or broken."""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lung_srad_cli import env_command

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / ".github/ISSUE_TEMPLATE/bug_report.md"


def lines_of(output):
    return dict(re.split(r":\s+", line, maxsplit=1) for line in output.splitlines())


def test_it_prints_a_line_for_each_package_and_for_the_scan(run):
    outcome = run("env")
    assert outcome.exit_code == 0
    lines = lines_of(outcome.output)
    assert set(lines) >= {"lung-srad", "python", "platform", "processor", *env_command.PACKAGES, "libsndfile", "cuda"}
    assert lines["torch"] == importlib.metadata.version("torch")
    assert re.match(r"\d+, ", lines["torch threads"])
    assert "auto takes" in lines["scan, CPU"]


def test_a_package_that_is_missing_is_said_to_be(run, monkeypatch):
    monkeypatch.setattr(env_command, "PACKAGES", ("no-such-package",))
    assert lines_of(run("env").output)["no-such-package"] == "not installed"


def test_an_error_is_the_value_of_its_line_and_the_others_are_there(run, monkeypatch):
    def fail():
        raise OSError("libsndfile.so:\nno such file")

    monkeypatch.setattr(env_command, "_libsndfile", fail)
    lines = lines_of(run("env").output)
    assert lines["libsndfile"] == "unknown (libsndfile.so: no such file)"
    assert "scan, CPU" in lines


def test_a_broken_numba_is_told_with_its_reason(tmp_path):
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba/__init__.py").write_text("raise SystemError('Numba needs NumPy 1.9 or less')")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "lung_srad_cli", "env"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    reason = "numba cannot be imported (Numba needs NumPy 1.9 or less) (pip install numba)"
    assert lines_of(done.stdout)["scan, CPU"] == f"torch; auto takes torch; numba cannot run: {reason}"


@pytest.mark.skipif(not TEMPLATE.exists(), reason="needs the checkout")
def test_bug_reports_are_asked_for_its_output():
    assert "`lung-srad env`" in TEMPLATE.read_text(encoding="utf-8")


@pytest.mark.parametrize("chosen", [None, "ACTIVE"])
def test_threads_wait_asleep_unless_the_user_says_otherwise(run, monkeypatch, chosen):
    monkeypatch.setenv("OMP_WAIT_POLICY", chosen or "")
    if chosen is None:
        monkeypatch.delenv("OMP_WAIT_POLICY")
    assert f"OMP_WAIT_POLICY={chosen or 'PASSIVE'}" in run("env").output
