"""Threads for compiled code: those that torch keeps awake where they can be had, otherwise a pool of ours.

The OpenMP threads of torch wait for their next work by spinning, 20 ms on end. A pool beside them gets half a
processor on a busy machine. On Linux the code therefore runs on these same threads, by `GOMP_parallel` of the library
that torch uses.
"""

import ctypes
import functools
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

_process = os.getpid()


def run_on_threads(address: int, call: ctypes.Array, threads: int, arrays: Sequence[torch.Tensor] = ()) -> None:
    """
    Runs the C function `void (int64_t *)` at an address on some threads at once, and returns when all have ended.

    The interpreter lock is not held meanwhile. Safe in several threads at once and in a forked process.

    Args:
        address (`int`): of the function, which shares its work out by itself, so that fewer calls will do.
        call (`ctypes.Array`): its argument.
        threads (`int`): how many at most; the calling one is among them.
        arrays (sequence of `torch.Tensor`, *optional*): what the function writes to, kept while a thread may do so.

    Raises:
        KeyboardInterrupt: where the process was interrupted meanwhile; by then, all threads have ended.
    """
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address)
    parallel = _openmp_of_torch() if threads > 1 and os.getpid() == _process else None
    if threads <= 1:
        function(ctypes.addressof(call))
    elif parallel is not None:
        parallel(address, ctypes.addressof(call), threads, 0)
    else:
        _run_on_pool(functools.partial(_run, function, call, arrays), threads)


def _run(function: Callable[[int], None], call: ctypes.Array, arrays: Sequence[torch.Tensor]) -> None:
    """One of the calls; it holds what the function works on."""
    function(ctypes.addressof(call))


def _run_on_pool(work: Callable[[], None], threads: int) -> None:
    helpers: list[Future] = []
    try:
        try:
            for _ in range(threads - 1):
                helpers.append(_pool(os.getpid()).submit(work))
        except RuntimeError:  # The interpreter is shutting down, or the system gives no more threads.
            pass
        work()
    finally:
        _wait_for(helpers)


def _wait_for(helpers: Sequence[Future]) -> None:
    """An interruption has to wait as well: what the helpers write to is used again."""
    interruption = None
    for helper in helpers:
        # One that has not begun by now has nothing left to do.
        while not helper.cancel() and not helper.done():
            try:
                helper.exception()
            except KeyboardInterrupt as error:
                interruption = error
    if interruption is not None:
        raise interruption


@functools.lru_cache(maxsize=1)
def _pool(process: int) -> ThreadPoolExecutor:
    """The threads of this process: a forked one has none of its parent's."""
    return ThreadPoolExecutor(os.cpu_count(), "lung-srad-scan")


@functools.cache
def _openmp_of_torch() -> Callable[[int, int, int, int], None] | None:
    """`GOMP_parallel`, which runs a function on a team of threads, from the OpenMP library that torch is linked to.

    Another package, such as scikit-learn, may have loaded a second one with threads of its own.
    """
    if sys.platform != "linux":
        return None
    try:
        library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib/libtorch_cpu.so"), os.RTLD_NOLOAD)
        parallel = library.GOMP_parallel
    except (OSError, AttributeError):
        return None
    parallel.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    parallel.restype = None
    return parallel
