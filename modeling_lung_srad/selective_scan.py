"""Selective scan of a state space model, by the back end that is fastest where the tensors are.

Equations: Mamba (arXiv 2312.00752, equation 2 with the discretisation of `selective_scan_fn`) and the four traversals
of VMamba (arXiv 2401.10166, section 4.2). `torch_scan.py` runs on any device, `numba_scan.py` on a CPU,
`triton_scan.py` and the package mamba_ssm on CUDA; each has `scan_1d` for sequences and `scan_2d` for a map.
"""

import functools
import os
import sys
from collections.abc import Callable

import torch
from transformers.utils import logging

from .errors import one_line
from .torch_scan import dtype_of_scan, is_plain_cpu_tensor
from .torch_scan import scan_1d as torch_scan_1d
from .torch_scan import scan_2d as torch_scan_2d

logger = logging.get_logger(__name__)

SCAN_BACKENDS = ("auto", "torch", "numba", "triton", "mamba_ssm")
# Elements of maps whose scans take as much longer in torch as numba takes to be loaded, some eight minutes of sound
# through the tiny network (`docs/speed.md`).
ELEMENTS_BEFORE_NUMBA_PAYS = 2**25

_elements_scanned = 0


def selective_scan(
    u: torch.Tensor,
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor | None = None,
    delta_bias: torch.Tensor | None = None,
    delta_softplus: bool = True,
    backend: str = "auto",
) -> torch.Tensor:
    r"""
    Runs `h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t`, `y_t = C_t h_t + D u_t` along the last axis.

    Half precision inputs are computed in float32, float64 inputs in float64. Differentiable once in every argument.

    Args:
        u (`torch.Tensor` of shape `(batch, groups * channels, length)`): input.
        delta (`torch.Tensor` of shape `(batch, groups * channels, length)`): step sizes, before bias and softplus.
        A (`torch.Tensor` of shape `(groups * channels, state_size)`): negative decay rates.
        B (`torch.Tensor` of shape `(batch, groups, state_size, length)`): input weights.
        C (`torch.Tensor` of shape `(batch, groups, state_size, length)`): output weights.
        D (`torch.Tensor` of shape `(groups * channels,)`, *optional*): skip weights.
        delta_bias (`torch.Tensor` of shape `(groups * channels,)`, *optional*): added to `delta`.
        delta_softplus (`bool`, *optional*, defaults to `True`): whether softplus makes the step sizes positive.
        backend (`str`, *optional*, defaults to `"auto"`):
            `"torch"`, `"numba"` (CPU, state size 1, if the package is installed), `"triton"` (CUDA, state size 1) or
            `"mamba_ssm"` (CUDA, if the package is installed); one that cannot run here falls back to torch and says
            so once. `"auto"` takes, on CUDA, the first of triton, mamba_ssm and torch that can; on a CPU numba where
            it can and pays: for gradients, and once the process has scanned enough to be worth loading it.

    Returns:
        `torch.Tensor` of shape `(batch, groups * channels, length)` in the dtype of `u`.

    Raises:
        ValueError: if shapes do not fit each other or the back end is unknown; the message names the argument.
        OverflowError: if the result is too large for the float16 of `u`.

    Example:

    ```python
    >>> import torch
    >>> from modeling_lung_srad import selective_scan

    >>> u = torch.ones(1, 2, 5)
    >>> A, B = -torch.ones(2, 1), torch.ones(1, 1, 1, 5)
    >>> selective_scan(u, torch.zeros_like(u), A, B, B).shape
    torch.Size([1, 2, 5])

    ```"""
    _check_shapes(u, delta, A, B, C, D, delta_bias)
    scan_1d = _choose_scan("scan_1d", backend, (u, delta, A, B, C, D, delta_bias), A.shape[1], delta_softplus)
    if u.numel() == 0:  # The gradients of what is not empty are zero.
        others = [x.sum() for x in (A, B, C, D, delta_bias) if x is not None]
        return (u * delta + sum(others)).to(u.dtype)
    y = scan_1d(u, delta, A, B, C, D, delta_bias, delta_softplus).to(u.dtype)
    if u.dtype == torch.float16 and not torch.compiler.is_compiling() and not y.isfinite().all():
        given = (x for x in (u, delta, A, B, C, D, delta_bias) if x is not None)
        if all(x.isfinite().all() for x in given):
            raise OverflowError(
                "The result is too large for float16, the dtype of `u`: give it in bfloat16 or float32."
            )
    return y


def selective_scan_2d(
    hidden_states: torch.Tensor,
    low_rank_delta: torch.Tensor,
    delta_weight: torch.Tensor,
    delta_bias: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    D: torch.Tensor,
    backend: str = "auto",
) -> torch.Tensor:
    r"""
    Scans a feature map along four directions (row-major, column-major, and both reversed) and sums the results.

    Half precision inputs are computed in float32, float64 inputs in float64. Differentiable once in every argument.

    Args:
        hidden_states (`torch.Tensor` of shape `(batch, height, width, channels)`): the map, read by all directions.
        low_rank_delta (`torch.Tensor` of shape `(4, batch, height, width, rank)`): step sizes before their projection.
        delta_weight (`torch.Tensor` of shape `(4, channels, rank)`): projection of the step sizes.
        delta_bias (`torch.Tensor` of shape `(4, channels)`): added to them, before softplus.
        A (`torch.Tensor` of shape `(4, channels, state_size)`): negative decay rates.
        B (`torch.Tensor` of shape `(4, batch, height, width, state_size)`): input weights.
        C (`torch.Tensor` of shape `(4, batch, height, width, state_size)`): output weights.
        D (`torch.Tensor` of shape `(4, channels)`): skip weights.
        backend (`str`, *optional*, defaults to `"auto"`): as for [`selective_scan`].

    Returns:
        `torch.Tensor` of shape `(batch, height, width, channels)`, in float32 or float64; from a CUDA kernel, if
        `hidden_states` is in bfloat16, in bfloat16.

    Raises:
        ValueError: if shapes do not fit each other or the back end is unknown; the message names the argument.
    """
    arguments = (hidden_states, low_rank_delta, delta_weight, delta_bias, A, B, C, D)
    _check_map_shapes(*arguments)
    scan_2d = _choose_scan("scan_2d", backend, arguments, A.shape[2])
    if hidden_states.numel() == 0:
        return (hidden_states * sum(x.sum() for x in arguments[1:])).to(dtype_of_scan(hidden_states, low_rank_delta))
    if hidden_states.dtype == torch.float16:  # A sum over thousands of positions can be too large for it.
        hidden_states, low_rank_delta, B, C = (x.float() for x in (hidden_states, low_rank_delta, B, C))
    return scan_2d(hidden_states, low_rank_delta, delta_weight, delta_bias, A, B, C, D)


def choose_cpu_backend(elements: float) -> str:
    """
    The back end on a CPU for a job of known size; `"auto"` goes by what the process has scanned so far.

    Args:
        elements (`float`): elements of all maps that are to be scanned.

    Returns:
        `str`: `"numba"` if it can be loaded and pays, otherwise `"torch"`.
    """
    return "numba" if elements > ELEMENTS_BEFORE_NUMBA_PAYS and not _load_kernels("numba")[1] else "torch"


def reason_to_leave_out(backend: str) -> str | None:
    """
    Why a back end cannot run in this process, or `None`. Loads it.

    Args:
        backend (`str`): one of `SCAN_BACKENDS` other than `"auto"`.
    """
    if backend == "torch":
        return None
    if backend == "triton" and torch.version.hip:
        return "its kernels are written for NVIDIA cards"
    return _load_kernels(backend)[1]


def _choose_scan(
    name: str, backend: str, arguments: tuple[torch.Tensor | None, ...], state_size: int, delta_softplus: bool = True
) -> Callable:
    """`scan_1d` or `scan_2d`, by `name`, of the back end to use, which is torch for empty tensors."""
    if backend not in SCAN_BACKENDS:
        raise ValueError(f"`scan_backend` is {backend!r}; this version has {', '.join(SCAN_BACKENDS)}.")
    in_torch = {"scan_1d": torch_scan_1d, "scan_2d": torch_scan_2d}[name]
    u = arguments[0]
    if backend == "torch" or u is None or u.numel() == 0:
        return in_torch
    if backend == "auto" and not u.is_cuda:
        pays = is_plain_cpu_tensor(u) and _numba_pays(arguments)
        is_used = pays and not _why_not("numba", arguments, state_size, delta_softplus)
        return _load_kernels("numba")[0][name] if is_used else in_torch
    reasons = []
    for candidate in ("triton", "mamba_ssm") if backend == "auto" else (backend,):
        if not (reason := _why_not(candidate, arguments, state_size, delta_softplus)):
            return _load_kernels(candidate)[0][name]
        reasons.append(f"{candidate}, as {reason}")
    # A graph always consists of torch operations.
    if not torch.compiler.is_compiling():
        logger.warning_once(
            f"The selective scan runs as plain torch operations, which are slower, not by {'; nor by '.join(reasons)}."
        )
    return in_torch


def _numba_pays(arguments: tuple[torch.Tensor | None, ...]) -> bool:
    """Training always takes long enough. Counts what is scanned otherwise, so that short commands do without."""
    global _elements_scanned
    if torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in arguments):
        return True
    _elements_scanned += arguments[0].numel() if arguments[0] is not None else 0
    return _elements_scanned > ELEMENTS_BEFORE_NUMBA_PAYS or f"{__package__}.numba_scan" in sys.modules


def _why_not(
    backend: str, arguments: tuple[torch.Tensor | None, ...], state_size: int, delta_softplus: bool
) -> str | None:
    u, delta = arguments[:2]
    if u is None or delta is None:
        return None
    if backend == "numba" and not is_plain_cpu_tensor(u):
        return f"the tensors are {'part of a graph' if u.device.type == 'cpu' else f'on {u.device}'}"
    interpreted = backend == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
    if backend != "numba" and not (u.is_cuda or interpreted):
        return f"the tensors are on {u.device}"
    if dtype_of_scan(u, delta) == torch.float64:
        return "the tensors are float64"
    if backend in ("numba", "triton") and state_size != 1:
        return f"the state size is {state_size}"
    if backend == "numba" and not delta_softplus:
        return "delta_softplus is False"
    return reason_to_leave_out(backend)


@functools.cache
def _load_kernels(backend: str) -> tuple[dict[str, Callable], str | None]:
    """`scan_1d` and `scan_2d` of a back end, and why there are none if it cannot be used."""
    scan_1d: Callable
    scan_2d: Callable
    try:
        # Saving a model copies the files that such lines name.
        if backend == "numba":
            from .numba_scan import scan_1d, scan_2d
        elif backend == "triton":
            from .triton_scan import scan_1d, scan_2d
        else:
            scan_1d, scan_2d = _load_mamba()
    except ImportError as error:
        return {}, f"{one_line(error).rstrip('.')} (pip install {backend.replace('_', '-')})"
    return {"scan_1d": scan_1d, "scan_2d": scan_2d}, None


def _load_mamba() -> tuple[Callable, Callable]:
    """`scan_1d` and `scan_2d` by the CUDA kernel of the package mamba_ssm."""
    try:  # Loading a checkpoint, with which this file is saved, must not ask for a package of CUDA machines.
        from mamba_ssm.ops.selective_scan_interface import selective_scan_fn
    except Exception as error:  # A build for another CUDA or torch fails to load in many ways.
        raise ImportError("mamba_ssm cannot be imported.") from error

    def scan_1d(u, delta, A, B, C, D, delta_bias, delta_softplus) -> torch.Tensor:
        """[`selective_scan`]; its arguments, already checked. The kernel takes parameters in float32."""
        dtype = torch.promote_types(u.dtype, delta.dtype)
        u, delta, B, C = (x.to(dtype).contiguous() for x in (u, delta, B, C))
        A, D, delta_bias = (None if x is None else x.float().contiguous() for x in (A, D, delta_bias))
        return selective_scan_fn(u, delta, A, B, C, D, None, delta_bias, delta_softplus)

    def scan_2d(hidden_states, low_rank_delta, delta_weight, delta_bias, A, B, C, D) -> torch.Tensor:
        """[`selective_scan_2d`]; its arguments, already checked. The kernel needs the traversals, channels first."""
        batch, height, width, channels = hidden_states.shape
        u = _traverse(hidden_states.expand(4, -1, -1, -1, -1))
        delta = torch.einsum("kcr,bkrl->bkcl", delta_weight.to(low_rank_delta.dtype), _traverse(low_rank_delta))
        y = scan_1d(
            u.flatten(1, 2),
            delta.flatten(1, 2),
            A.flatten(0, 1),
            _traverse(B),
            _traverse(C),
            D.flatten(),
            delta_bias.flatten(),
            delta_softplus=True,
        ).unflatten(1, (4, channels))
        rows, columns = y[:, 0] + y[:, 2].flip(-1), y[:, 1] + y[:, 3].flip(-1)
        merged = rows + columns.unflatten(-1, (width, height)).transpose(2, 3).flatten(2)
        return merged.transpose(1, 2).reshape(batch, height, width, channels)

    return scan_1d, scan_2d


def _traverse(maps: torch.Tensor) -> torch.Tensor:
    """Four maps `(4, batch, height, width, channels)` as sequences `(batch, 4, channels, length)`."""
    rows, columns = maps[0::2].flatten(2, 3), maps[1::2].transpose(2, 3).flatten(2, 3)
    sequences = torch.stack((rows[0], columns[0], rows[1].flip(1), columns[1].flip(1)), dim=1)
    return sequences.transpose(2, 3)


def _check_shapes(u, delta, A, B, C, D, delta_bias) -> None:
    if u.ndim != 3:
        raise ValueError(f"`u` must have shape (batch, groups * channels, length), got {tuple(u.shape)}.")
    batch, width, length = u.shape
    if A.ndim != 2 or A.shape[0] != width:
        raise ValueError(f"`A` must have shape ({width}, state_size) to fit `u`, got {tuple(A.shape)}.")
    groups = B.shape[1] if B.ndim == 4 else 0
    if groups < 1 or width % groups:
        raise ValueError(
            f"`B` must have shape (batch, groups, state_size, length) with groups dividing {width}, "
            f"got {tuple(B.shape)}."
        )
    sequence, weights = (batch, width, length), (batch, groups, A.shape[1], length)
    expected = {"u": (u, sequence), "delta": (delta, sequence), "A": (A, (width, A.shape[1]))}
    expected |= {"B": (B, weights), "C": (C, weights), "D": (D, (width,)), "delta_bias": (delta_bias, (width,))}
    _check_tensors(expected)


def _check_map_shapes(hidden_states, low_rank_delta, delta_weight, delta_bias, A, B, C, D) -> None:
    if hidden_states.ndim != 4:
        raise ValueError(
            f"`hidden_states` must have shape (batch, height, width, channels), got {tuple(hidden_states.shape)}."
        )
    *grid, channels = hidden_states.shape
    rank, states = low_rank_delta.shape[-1:], A.shape[-1:]
    weights = (4, *grid, *states)
    expected = {"hidden_states": (hidden_states, (*grid, channels))}
    expected |= {"low_rank_delta": (low_rank_delta, (4, *grid, *rank))}
    expected |= {"delta_weight": (delta_weight, (4, channels, *rank)), "delta_bias": (delta_bias, (4, channels))}
    expected |= {"A": (A, (4, channels, *states)), "B": (B, weights), "C": (C, weights), "D": (D, (4, channels))}
    _check_tensors(expected)


def _check_tensors(expected: dict[str, tuple[torch.Tensor | None, tuple[int, ...]]]) -> None:
    """Checks shape, dtype and device of each tensor; all must be on the device of the first."""
    first, (reference, _) = next(iter(expected.items()))
    for name, (tensor, shape) in expected.items():
        if tensor is None:
            continue
        if not tensor.is_floating_point():
            raise ValueError(f"`{name}` must be a floating point tensor, got {tensor.dtype}.")
        if tuple(tensor.shape) != shape:
            raise ValueError(f"`{name}` must have shape {shape} to fit `{first}` and `A`, got {tuple(tensor.shape)}.")
        if reference is not None and tensor.device != reference.device:
            raise ValueError(
                f"`{name}` is on {tensor.device} but `{first}` on {reference.device}; move them to one device."
            )
