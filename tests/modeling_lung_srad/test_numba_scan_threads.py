"""Compiled code on several threads: all of them work, in servers, in forked processes, and after an interruption."""

import ctypes
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from modeling_lung_srad import numba_scan
from modeling_lung_srad.numba_scan import run_on_threads

ROOT = Path(__file__).parents[2]
FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


@pytest.fixture
def on_pool(monkeypatch):
    """As where torch has no OpenMP library of GNU."""
    monkeypatch.setattr(numba_scan, "_openmp_of_torch", lambda: None)


def run_python(function, threads, number=0):
    """Has [`run_on_threads`] call a function of Python, and returns the number that it was given, as it is then."""
    compiled, call = FUNCTION(function), (ctypes.c_int64 * 1)(number)
    run_on_threads(ctypes.cast(compiled, ctypes.c_void_p).value, call, threads)
    return call[0]


def meeting(threads):
    """A function that returns once as many threads are in it, and the names of those."""
    barrier, names = threading.Barrier(threads, timeout=20), []

    def meet(pointer):
        names.append(threading.current_thread().name)
        barrier.wait()

    return meet, names


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_all_threads_run_it_at_once(on_pool, threads):
    meet, names = meeting(threads)
    run_python(meet, threads)
    assert len(names) == threads
    assert threading.current_thread().name in names


def test_it_gets_the_address_of_its_argument(on_pool):
    def add_one(pointer):
        ctypes.cast(pointer, ctypes.POINTER(ctypes.c_int64))[0] += 1

    assert run_python(add_one, 1, number=41) == 42


def test_several_threads_of_python_may_run_it_at_once(on_pool):
    meet, names = meeting(4)
    with ThreadPoolExecutor(2) as executor:
        for _ in range(2):
            executor.submit(run_python, meet, 2)
    assert len(names) == 4


def test_it_waits_for_all_threads_when_it_is_interrupted(on_pool, monkeypatch):
    """Their memory would otherwise be used again while they write to it."""
    entered, may_end, ended = threading.Event(), threading.Event(), []

    def work(pointer):
        if threading.current_thread() is not threading.main_thread():
            entered.set()
            may_end.wait(20)
            ended.append(True)

    def interrupt(function, call, arrays):
        function(ctypes.addressof(call))
        if threading.current_thread() is threading.main_thread():
            entered.wait(20)
            threading.Timer(0.1, may_end.set).start()
            raise KeyboardInterrupt

    monkeypatch.setattr(numba_scan, "_call", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_python(work, 2)
    assert ended == [True]


def test_an_interruption_while_it_waits_waits_as_well(on_pool):
    class Helper:
        waits = 0

        def cancel(self):
            return False

        def done(self):
            return self.waits > 1

        def exception(self):
            self.waits += 1
            if self.waits == 1:
                raise KeyboardInterrupt

    helper = Helper()
    with pytest.raises(KeyboardInterrupt):
        numba_scan._wait_for([helper])
    assert helper.waits == 2


def test_without_further_threads_the_calling_one_does_it_alone(on_pool, monkeypatch):
    class Exhausted:
        def submit(self, work):
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(numba_scan, "_pool", lambda process: Exhausted())
    names = []
    run_python(lambda pointer: names.append(threading.current_thread().name), 3)
    assert names == [threading.current_thread().name]


SCANS = """
import multiprocessing, sys, threading
import torch
from modeling_lung_srad import numba_scan
from modeling_lung_srad.selective_scan import selective_scan_2d

torch.set_num_threads(2)
torch.manual_seed(0)
shapes = [(2, 3, 4, 40), (4, 2, 3, 4, 2), (4, 40, 2), (4, 40), (4, 40, 1), (4, 2, 3, 4, 1), (4, 2, 3, 4, 1), (4, 40)]
maps = [-torch.rand(shape) for shape in shapes]
expected = selective_scan_2d(*maps, backend="torch")

def check():
    torch.testing.assert_close(selective_scan_2d(*maps, backend="numba"), expected)

"""


def run_script(script):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.run(
        [sys.executable, "-c", SCANS + script], env=environment, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
    return process.stdout


def test_torch_and_the_scan_share_threads_and_several_threads_of_python_agree():
    script = """
check()
threads = [threading.Thread(target=check) for _ in range(3)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(numba_scan._openmp_of_torch() is not None, numba_scan._pool.cache_info().currsize)
"""
    pytest.importorskip("numba", reason="needs the extra `fast`")
    has_openmp, pools = run_script(script).split()
    assert (has_openmp, pools) in {("True", "0"), ("False", "1")}


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_process_scans_on_one_thread_or_on_a_pool_of_its_own():
    """The OpenMP threads of its parent are not there, and torch itself waits for them for ever: one thread, as data
    loaders have it, is all that torch can do in such a process."""
    script = """
import ctypes
check()
def check_in_child():
    torch.set_num_threads(1)
    check()
    barrier = threading.Barrier(2, timeout=60)
    meet = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda pointer: barrier.wait() and None)
    numba_scan.run_on_threads(ctypes.cast(meet, ctypes.c_void_p).value, (ctypes.c_int64 * 1)(), 2)
    sys.exit(numba_scan._pool.cache_info().currsize)
child = multiprocessing.get_context("fork").Process(target=check_in_child, daemon=True)
child.start()
child.join(120)
print(child.exitcode)
"""
    pytest.importorskip("numba", reason="needs the extra `fast`")
    assert run_script(script) == "1\n"
