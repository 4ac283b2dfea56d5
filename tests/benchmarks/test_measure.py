"""Timing, ratios, exponents and memory; nothing here asserts a time."""

import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from benchmarks import measure
from benchmarks.measure import (
    fit_exponent,
    in_process_of_its_own,
    is_out_of_memory,
    median_ratio,
    peak_bytes,
    time_interleaved,
)

ROOT = Path(__file__).parents[2]
PARENT = f"""
from benchmarks.measure import in_process_of_its_own
from {__name__} import print_id_and_sleep
in_process_of_its_own(print_id_and_sleep)
"""


def print_id_and_sleep() -> None:
    print(os.getpid(), flush=True)
    time.sleep(60)


@pytest.fixture
def no_cuda(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)


def test_steps_are_interleaved_and_warmed_up():
    calls: list[str] = []
    steps = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = time_interleaved(steps, {"a": 3, "b": 2, "c": 1})
    assert "".join(calls) == "aabbcc" + "aabb" + "aa"
    assert {name: len(times) for name, times in seconds.items()} == {"a": 3, "b": 2, "c": 1}


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_a_known_exponent_is_recovered(exponent):
    lengths = [1000, 3000, 10000, 60000]
    noise = [1.02, 0.98, 1.01, 0.99]
    costs = [3e-4 * length**exponent * factor for length, factor in zip(lengths, noise, strict=True)]
    assert math.isclose(fit_exponent(lengths, costs), exponent, abs_tol=0.02)


def test_ratios_are_taken_within_a_round():
    assert median_ratio([2, 40, 6], [1, 10, 2]) == 3
    assert median_ratio([8], [2, 1000]) == 4


def test_peak_memory_counts_what_a_step_frees_again(no_cuda):
    size = 200 * 2**20

    def step() -> None:
        torch.empty(size, dtype=torch.uint8).fill_(1)

    assert size * 0.9 < peak_bytes(step) < size * 1.6


def test_a_process_of_its_own_is_another_one():
    assert in_process_of_its_own(os.getpid) != os.getpid()
    with pytest.raises(ValueError, match="math domain"):
        in_process_of_its_own(math.sqrt, -1)


def test_a_process_of_its_own_ends_when_its_parent_is_killed():
    with subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, cwd=ROOT) as parent:
        child = int(parent.stdout.readline())
        parent.kill()
        try:
            # The child has the other end of the pipe, too: it is read to its end when both are gone.
            parent.communicate(timeout=20)
        except subprocess.TimeoutExpired:
            os.kill(child, signal.SIGKILL)
            raise


def test_want_of_memory_is_told_from_other_errors():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def test_the_peak_is_that_of_this_process(monkeypatch, no_cuda):
    resident = iter([5_000, 9_000])
    monkeypatch.setattr(measure, "_highest_resident_bytes", lambda: next(resident))
    assert peak_bytes(lambda: None) == 4_000
