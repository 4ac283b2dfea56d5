"""Threads for compiled code: those that torch keeps awake where they can be had, otherwise a pool of ours.

The OpenMP threads of torch wait for their next work by spinning, 20 ms on end. A pool beside them gets half a processor
on a busy machine, so on Linux the code runs on these same threads, by `GOMP_parallel` of the library that torch loaded.
"""

import ctypes
import functools
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

MEMORY_MAP = Path("/proc/self/maps")

_process = os.getpid()


def run_on_threads(address: int, call: ctypes.Array, threads: int) -> None:
    """
    Runs the C function `void (int64_t *)` at an address on some threads at once, and returns when all have ended.

    The interpreter lock is not held meanwhile. Safe in several threads at once and in a forked process.

    Args:
        address (`int`): of the function, which shares its work out by itself, so that any number of calls will do.
        call (`ctypes.Array`): its argument.
        threads (`int`): how many; the calling one is among them.
    """
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)
    pointer = ctypes.addressof(call)
    openmp = _openmp_of_torch() if threads > 1 and os.getpid() == _process else None
    if threads <= 1:
        function(pointer)
    elif openmp is not None:
        openmp.GOMP_parallel(ctypes.c_void_p(address), ctypes.c_void_p(pointer), threads, 0)
    else:
        _run_on_pool(function, pointer, threads)


def _run_on_pool(function, pointer: int, threads: int) -> None:
    try:
        helpers = [_pool(os.getpid()).submit(function, pointer) for _ in range(threads - 1)]
    except RuntimeError:  # The interpreter is shutting down.
        helpers = []
    try:
        function(pointer)
    finally:
        # One that has not begun by now has nothing left to do.
        for helper in helpers:
            if not helper.cancel():
                helper.result()


@functools.lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    """Of this process: a forked one has none of the threads of its parent."""
    return ThreadPoolExecutor(os.cpu_count(), "lung-srad-scan")


@functools.cache
def _openmp_of_torch() -> ctypes.CDLL | None:
    """GNU's OpenMP library, if one is loaded, and one alone: which of several is torch's cannot be told."""
    try:
        lines = MEMORY_MAP.read_text().splitlines()
        paths = {line.split(maxsplit=5)[-1] for line in lines if "libgomp" in line}
        return ctypes.CDLL(paths.pop()) if len(paths) == 1 else None
    except (OSError, UnicodeDecodeError):
        return None
