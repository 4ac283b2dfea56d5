"""The loops of the selective scan with state size 1 for numba, which compiles them for the processor at hand.

See `numba_scan.py`, which calls them. Each loop takes one position after another and, for a block of channels, does in
one pass all that the definition says: step size, decay, recurrence and weighted output, or their gradients. A task is
such a block of one sample, with all directions, so that no two tasks write to the same place.

Tasks of the same sample run at once. So what they write at each step lies by block of channels: a processor fetches
cache lines in pairs, and two threads that write to the two lines of a pair wait for each other.

Arrays that the loops share are float32 and contiguous, their sizes in [`Sizes`]:

    u, grad_out               (batch, length, channels)             by position on the map
    out, grad_u               (blocks, batch, length, width)        likewise, added to
    order                     (directions, length)                  position of each step, int64
    weights                   (directions, batch, length, columns)  by step; B and C are the last two columns
    delta                     (directions, batch, steps, channels)  step sizes from `start` on, without bias, softplus
    rates, bias               (directions, variants, channels)      sample b has variant b % variants
                              delta, rates (that is A) and bias are times log2(e)
    states, carry             (blocks, batch, directions, width)    before the first step; afterwards, after the last
    grad_rates, grad_bias     (blocks, batch, directions, width)    added to
    kept                      (directions, batch, length / STEPS_KEPT, channels)    one state of each STEPS_KEPT steps
"""

import functools
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from transformers.utils import logging

from .errors import one_line

try:  # Where this file is saved with a checkpoint, loading that must not ask for an optional package.
    from numba import carray, cfunc, njit, types
    from numba.core import cgutils
    from numba.extending import intrinsic
except Exception as error:  # A numba for another Python or numpy fails to import in many ways.
    raise ImportError(f"numba cannot be imported ({error})") from error

logger = logging.get_logger(__name__)

SECONDS_BEFORE_A_WORD = 2.0
COMPILING = "Compiling the selective scan for this processor takes some seconds, the first time."
NOT_KEPT = "The compiled scan cannot be kept on disk ({}); NUMBA_CACHE_DIR may name another folder for it."
LONGEST_WAIT_SECONDS = 120.0
# Steps between the states that the forward pass keeps. The backward pass computes those between them again.
STEPS_KEPT = 64

# Added to a float32, it rounds to a whole number and leaves that number in the lowest bits of the sum.
ROUNDING = np.float32(1.5 * 2**23)
# Turns these bits, shifted by 23, into those of a power of two.
EXPONENT_BIAS = np.int32(127 - 0x4B400000)
MANTISSA_BITS = np.int32(23)
LOWEST_EXPONENT, HIGHEST_EXPONENT = np.float32(-127.0), np.float32(128.0)
ZERO, ONE, TWO = np.float32(0), np.float32(1), np.float32(2)
LN_2 = np.float32(0.6931471805599453)
# Polynomials of least relative error: 2 ** x on [-1/2, 1/2] within 8e-8, 2 atanh(s) / s in s * s on [0, 1/9], 4e-9.
P0, P1, P2, P3, P4, P5 = np.array(
    [1.000000072, 0.6931469671, 0.2402211972, 0.05550713274, 0.009675541334, 0.001327647187], np.float32
)
Q0, Q1, Q2, Q3, Q4 = np.array([2.0000000079, 0.6666631468, 0.4002491028, 0.2796060272, 0.2817833504], np.float32)

# A product and a sum may become one instruction. No other liberty: rounding by addition depends on the order.
exact = functools.partial(njit, fastmath={"contract"}, error_model="numpy")
# Sums over channels may be taken in any order. Inlined, so that no reference is counted at each position.
inlined = functools.partial(njit, fastmath={"contract", "reassoc"}, error_model="numpy", inline="always")


@exact
def exp2_below(x):
    """`2 ** x` within 2.5e-7 of it for up to 128; 0 below -126.5, NaN for NaN. Branchless, so vectorised."""
    x = LOWEST_EXPONENT if x < LOWEST_EXPONENT else x
    rounded = np.float32(x + ROUNDING)
    f = x - (rounded - ROUNDING)
    power = np.int32((rounded.view(np.int32) + EXPONENT_BIAS) << MANTISSA_BITS).view(np.float32)
    return power * (P0 + f * (P1 + f * (P2 + f * (P3 + f * (P4 + f * P5)))))


@exact
def exp2(x):
    """As [`exp2_below`], for any number; infinite from 127.5 on."""
    return exp2_below(HIGHEST_EXPONENT if x > HIGHEST_EXPONENT else x)


@exact
def softplus(x, s):
    """`log(1 + 2 ** x)`, given `s = e / (2 + e)` of `e = 2 ** -|x|`."""
    q = s * s
    return LN_2 * (ZERO if x < ZERO else x) + s * (Q0 + q * (Q1 + q * (Q2 + q * (Q3 + q * Q4))))


@intrinsic
def use_widest_vectors(typing_context):
    """Makes the function at hand use vectors of 512 bits where the processor has them; many compile for 256."""

    def codegen(context, builder, signature, arguments):
        attributes = builder.function.attributes
        if isinstance(attributes, set):
            set.add(attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), codegen


@inlined
def advance(u, delta, bias, rate, state, out, input_weight, output_weight):
    """One step of the recurrence, for the channels of a block. `rate` is A times log2(e)."""
    for i in range(len(state)):
        x = delta[i] + bias[i]
        e = exp2_below(-abs(x))
        step = softplus(x, e / (TWO + e))
        h = exp2(step * rate[i]) * state[i] + step * u[i] * input_weight
        state[i] = h
        out[i] += h * output_weight


@inlined
def advance_and_keep(u, delta, bias, rate, state, input_weight, steps, slopes, decays, before):
    """As [`advance`], without output; keeps what the gradients of the step need."""
    for i in range(len(state)):
        x = delta[i] + bias[i]
        e = exp2_below(-abs(x))
        inverse = ONE / ((ONE + e) * (TWO + e))  # A division costs as much as ten other operations.
        step = softplus(x, e * (ONE + e) * inverse)
        slopes[i] = (e if x < ZERO else ONE) * (TWO + e) * inverse
        steps[i] = step
        decay = exp2(step * rate[i])
        decays[i] = decay
        before[i] = state[i]
        state[i] = decay * state[i] + step * u[i] * input_weight


@inlined
def differentiate(
    u, grad_out, rate, input_weight, output_weight, steps, slopes, decays, before, carry, grad_u, grad_delta,
    grad_rate, grad_bias,
):  # fmt: skip
    """Gradients of a step, given in `carry` that of its state from the steps after it. Returns those of B and C."""
    grad_input_weight, grad_output_weight = ZERO, ZERO
    for i in range(len(carry)):
        step, decay, previous = steps[i], decays[i], before[i]
        driven = step * u[i]
        grad_state = grad_out[i] * output_weight + carry[i]
        grad_output_weight += grad_out[i] * (decay * previous + driven * input_weight)
        grad_input_weight += grad_state * driven
        grad_driven = grad_state * input_weight
        carry[i] = decay * grad_state
        grad_exponent = carry[i] * previous
        grad_rate[i] += grad_exponent * step
        grad_u[i] += grad_driven * step
        # `rate` times log(2) is A again.
        grad_x = (grad_driven * u[i] + grad_exponent * rate[i] * LN_2) * slopes[i]
        grad_bias[i] += grad_x
        grad_delta[i] = grad_x
    return grad_input_weight, grad_output_weight


@intrinsic
def as_pointer(typing_context, address):
    """An address as `void *`, which `carray` takes."""

    def codegen(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), codegen


@intrinsic
def take_number(typing_context, call, index):
    """The number of a call at an index, which is raised by one at once for all threads."""

    def codegen(context, builder, signature, arguments):
        place = builder.gep(arguments[0], [arguments[1]])
        return builder.atomic_rmw("add", place, context.get_constant(types.int64, 1), "monotonic")

    return types.int64(types.CPointer(types.int64), types.int64), codegen


class Sizes(NamedTuple):
    """The whole numbers of a call of a kernel. The addresses of its arrays follow them."""

    next_task: int
    next_worker: int  # each thread takes one number
    tasks: int
    width: int  # channels of a task
    start: int
    directions: int
    batch: int
    length: int
    channels: int
    columns: int
    steps: int
    variants: int
    chunks: int


NUM_SIZES = len(Sizes._fields)
NEXT_TASK, NEXT_WORKER, TASKS, WIDTH, START, DIRECTIONS, BATCH, LENGTH, CHANNELS, COLUMNS, STEPS, VARIANTS, CHUNKS = (
    range(NUM_SIZES)
)


@inlined
def read_inputs(call, num_arrays):
    """Sizes, addresses and the arrays that both kernels read."""
    sizes = carray(call, (NUM_SIZES,))
    at = carray(call, (NUM_SIZES + num_arrays,))[NUM_SIZES:]
    directions, batch, length, channels = sizes[DIRECTIONS], sizes[BATCH], sizes[LENGTH], sizes[CHANNELS]
    u = carray(as_pointer(at[0]), (batch, length, channels), np.float32)
    delta = carray(as_pointer(at[1]), (directions, batch, sizes[STEPS], channels), np.float32)
    weights = carray(as_pointer(at[2]), (directions, batch, length, sizes[COLUMNS]), np.float32)
    rates = carray(as_pointer(at[3]), (directions, sizes[VARIANTS], channels), np.float32)
    bias = carray(as_pointer(at[4]), (directions, sizes[VARIANTS], channels), np.float32)
    order = carray(as_pointer(at[5]), (directions, length), np.int64)
    kept = carray(as_pointer(at[6]), (directions, batch, sizes[CHUNKS], channels), np.float32)
    return sizes, at, u, delta, weights, rates, bias, order, kept


def scan(call):
    """
    Runs the tasks of a scan until none is left.

    Arrays: u, delta, weights, rates, bias, order, kept, which is filled unless it is empty, states and out.
    """
    use_widest_vectors()
    sizes, at, u, delta, weights, rates, bias, order, kept = read_inputs(call, 9)
    width, start, channels = sizes[WIDTH], sizes[START], sizes[CHANNELS]
    blocks = (channels + width - 1) // width
    states = carray(as_pointer(at[7]), (blocks, sizes[BATCH], sizes[DIRECTIONS], width), np.float32)
    out = carray(as_pointer(at[8]), (blocks, sizes[BATCH], sizes[LENGTH], width), np.float32)
    B, C = sizes[COLUMNS] - 2, sizes[COLUMNS] - 1
    while True:
        task = take_number(call, NEXT_TASK)
        if task >= sizes[TASKS]:
            break
        block, b = task // sizes[BATCH], task % sizes[BATCH]
        c = block * width
        end, variant = min(c + width, channels), b % rates.shape[1]
        n = end - c
        for k in range(len(delta)):
            state, rate, offset = states[block, b, k, :n], rates[k, variant, c:end], bias[k, variant, c:end]
            for t in range(delta.shape[2]):
                step = start + t
                if step % STEPS_KEPT == 0 and kept.shape[2] > 0:
                    kept[k, b, step // STEPS_KEPT, c:end] = state
                position = order[k, step]
                advance(
                    u[b, position, c:end],
                    delta[k, b, t, c:end],
                    offset,
                    rate,
                    state,
                    out[block, b, position, :n],
                    weights[k, b, step, B],
                    weights[k, b, step, C],
                )


def scan_gradients(call):
    """
    Runs the tasks of the gradients of [`scan`], from the last step that `delta` has back to step `start`.

    Arrays: u, delta, weights, rates, bias, order, kept; grad_out; carry, the gradient of the states; scratch
    `(threads, STEPS_KEPT + 1, 4, width)`, memory to work in; and those that are filled: grad_u, grad_delta, which may
    be the memory of delta, grad_weights `(blocks, directions, batch, length, 2)` of B and C, grad_rates and grad_bias.
    """
    use_widest_vectors()
    sizes, at, u, delta, weights, rates, bias, order, kept = read_inputs(call, 15)
    width, start, channels = sizes[WIDTH], sizes[START], sizes[CHANNELS]
    directions, batch, length = sizes[DIRECTIONS], sizes[BATCH], sizes[LENGTH]
    B, C = sizes[COLUMNS] - 2, sizes[COLUMNS] - 1
    blocks = (channels + width - 1) // width
    grad_out = carray(as_pointer(at[7]), u.shape, np.float32)
    by_task = (blocks, batch, directions, width)
    carry = carray(as_pointer(at[8]), by_task, np.float32)
    memory = as_pointer(at[9] + 4 * (STEPS_KEPT + 1) * 4 * width * take_number(call, NEXT_WORKER))
    scratch = carray(memory, (STEPS_KEPT + 1, 4, width), np.float32)
    grad_u = carray(as_pointer(at[10]), (blocks, batch, length, width), np.float32)
    grad_delta = carray(as_pointer(at[11]), delta.shape, np.float32)
    grad_weights = carray(as_pointer(at[12]), (blocks, directions, batch, length, 2), np.float32)
    grad_rates = carray(as_pointer(at[13]), by_task, np.float32)
    grad_bias = carray(as_pointer(at[14]), by_task, np.float32)
    while True:
        task = take_number(call, NEXT_TASK)
        if task >= sizes[TASKS]:
            break
        block, b = task // batch, task % batch
        c = block * width
        end, variant = min(c + width, channels), b % rates.shape[1]
        n = end - c
        state = scratch[STEPS_KEPT, 0, :n]
        for k in range(directions):
            rate, offset = rates[k, variant, c:end], bias[k, variant, c:end]
            for chunk in range((delta.shape[2] - 1) // STEPS_KEPT, -1, -1):
                first, last = chunk * STEPS_KEPT, min((chunk + 1) * STEPS_KEPT, delta.shape[2])
                state[:] = kept[k, b, start // STEPS_KEPT + chunk, c:end]
                for t in range(first, last):
                    advance_and_keep(
                        u[b, order[k, start + t], c:end],
                        delta[k, b, t, c:end],
                        offset,
                        rate,
                        state,
                        weights[k, b, start + t, B],
                        scratch[t - first, 0, :n],
                        scratch[t - first, 1, :n],
                        scratch[t - first, 2, :n],
                        scratch[t - first, 3, :n],
                    )
                for t in range(last - 1, first - 1, -1):
                    step = start + t
                    position = order[k, step]
                    grad_B, grad_C = differentiate(
                        u[b, position, c:end],
                        grad_out[b, position, c:end],
                        rate,
                        weights[k, b, step, B],
                        weights[k, b, step, C],
                        scratch[t - first, 0, :n],
                        scratch[t - first, 1, :n],
                        scratch[t - first, 2, :n],
                        scratch[t - first, 3, :n],
                        carry[block, b, k, :n],
                        grad_u[block, b, position, :n],
                        grad_delta[k, b, t, c:end],
                        grad_rates[block, b, k, :n],
                        grad_bias[block, b, k, :n],
                    )
                    grad_weights[block, k, b, step, 0] = grad_B
                    grad_weights[block, k, b, step, 1] = grad_C


def compile_kernels() -> tuple[Any, Any]:
    """
    Compiles [`scan`] and [`scan_gradients`], or loads what an earlier process kept on disk.

    Says so where it takes long, and where the result cannot be kept. Processes that do it at once wait for each other.

    Returns:
        `tuple`: functions of numba, whose `address` takes a pointer to [`Sizes`] and addresses, 64 bits each.

    Raises:
        ImportError: where numba cannot compile them.
    """
    timer = threading.Timer(SECONDS_BEFORE_A_WORD, logger.warning_once, (COMPILING,))
    timer.daemon = True
    timer.start()
    try:
        with _alone():
            try:
                return _compile(scan, cache=True), _compile(scan_gradients, cache=True)
            except Exception as error:  # No folder can be written, the disk is full, or a file there is damaged.
                kernels = _compile(scan, cache=False), _compile(scan_gradients, cache=False)
                logger.warning_once(NOT_KEPT.format(one_line(error)))
                return kernels
    except Exception as error:  # numba or LLVM does not support this machine.
        raise ImportError(f"numba cannot compile it ({one_line(error)})") from error
    finally:
        timer.cancel()


def _compile(function: Callable, cache: bool) -> Any:
    signature = types.void(types.CPointer(types.int64))
    options = {"nopython": True, "fastmath": {"contract", "reassoc"}, "error_model": "numpy"}
    return cfunc(signature, cache=cache, **options)(function)


@contextmanager
def _alone() -> Iterator[None]:
    """Keeps other processes of this user from compiling the same at once, where that is possible."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    with ExitStack() as stack:
        with suppress(OSError, Timeout):
            path = Path(tempfile.gettempdir(), f"compiled-scan-of-lung-srad-{user}.lock")
            stack.enter_context(FileLock(path, timeout=LONGEST_WAIT_SECONDS))
        yield
