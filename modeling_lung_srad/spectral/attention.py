"""Effect of a token mixer on spatial frequencies: effective attention of the scan, and the response of a matrix.

Sources: the analysis of Lung-SRAD (arXiv 2606.11922), whose effective attention is that of VMamba (arXiv 2401.10166).
`spectral_layers.py` takes the matrices from the layers of a model, `spectral_figures.py` draws them.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from ..errors import InputError

NUM_DIRECTIONS = 4
DEFINITIONS = ("published", "exact")
LARGEST_MATRIX_BYTES = 2**29
BYTES_PER_ENTRY = 8
# Up to this many positions, all pairs are computed one by one; beyond, by matrix products.
PAIRED_POSITIONS = 8
# Size of a float64 tensor; a few exist at once.
ELEMENTS_AT_ONCE = 2**20
# Share of the largest magnitude below which differences are rounding.
FLAT = 1e-12
HALF_NYQUIST = 0.25


@dataclass(frozen=True)
class SpectralSummary:
    """
    The response of a matrix in four figures. They are of the magnitudes before min-max normalisation, which would
    subtract what a layer lets pass of every frequency.

    Args:
        zero_share (`float`): part of the summed magnitude that is at frequency 0, the mean of the grid: 1 for a matrix
            that only averages. Min-max normalisation of the matrix changes this frequency and no other.
        high_share (`float`): part that is above half the Nyquist frequency; just under 0.5 for a matrix that treats
            all frequencies alike.
        cutoff (`float`): the -3 dB point in cycles per patch: the highest frequency at which the magnitude is at least
            1/sqrt(2) of the largest one. 0 where no frequency comes near frequency 0, 0.5 for all frequencies alike.
        high_to_low (`float`): mean magnitude above half the Nyquist frequency, divided by that up to it, with 0.
    """

    zero_share: float
    high_share: float
    cutoff: float
    high_to_low: float

    @property
    def high_share_above_zero(self) -> float:
        """`high_share` of what is not at frequency 0; 0 where there is nothing else."""
        return self.high_share / (1 - self.zero_share) if self.zero_share < 1 else 0.0


@torch.no_grad()
def effective_attention(
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    grid: tuple[int, int],
    delta_bias: torch.Tensor | None = None,
    delta_softplus: bool = True,
    definition: str = "published",
    normalize: bool = True,
) -> torch.Tensor:
    r"""
    How much each position of the grid enters the output of the four-direction scan at each other one: averaged over
    the channels, summed over the directions. The skip weights `D` are not part of it. Without gradients.

    In a direction, `M[t, s] = sum_n C[n, t] exp(S[n, t] - S[n, s]) B[n, s]` for `s <= t`, where `S` is the cumulative
    sum of step sizes times `A`. All exponents are at most 0, so that nothing overflows at any length.

    Args:
        delta (`torch.Tensor` of shape `(batch, 4 * channels, positions)`): step sizes, each direction (row-major,
            column-major, and both reversed) in the order in which it is scanned, as for [`selective_scan`].
        A (`torch.Tensor` of shape `(4 * channels, state_size)`): negative decay rates.
        B (`torch.Tensor` of shape `(batch, 4, state_size, positions)`): input weights.
        C (`torch.Tensor` of shape `(batch, 4, state_size, positions)`): output weights.
        grid (`tuple[int, int]`): rows (mel) and columns (time), whose product is `positions`.
        delta_bias (`torch.Tensor` of shape `(4 * channels,)`, *optional*): added to `delta`.
        delta_softplus (`bool`, *optional*, defaults to `True`): whether softplus makes the step sizes positive.
        definition (`str`, *optional*, defaults to `"published"`):
            `"exact"` is the Jacobian of the scan for its input, with `delta`, `B` and `C` held fixed: `B` is
            multiplied by the step size. `"published"` is what the reference implementation computes. It leaves the
            step size out and, on a grid that is not square, puts what the column-major directions read at wrong
            positions, since it takes columns to be as long as rows. Both are kept, to reproduce published figures.
        normalize (`bool`, *optional*, defaults to `True`): whether each matrix is min-max normalised, as published.

    Returns:
        `torch.Tensor` of shape `(batch, positions, positions)` in float64: to (row), from (column) the position
        `mel * columns + time`.

    Raises:
        InputError: where shapes do not fit, or the matrix would be too large.

    Example:

    ```python
    >>> import torch
    >>> from modeling_lung_srad.spectral import effective_attention

    >>> delta, A, B = torch.zeros(1, 4 * 3, 2 * 5), -torch.ones(4 * 3, 1), torch.ones(1, 4, 1, 2 * 5)
    >>> effective_attention(delta, A, B, B, grid=(2, 5)).shape
    torch.Size([1, 10, 10])

    ```"""
    _check_shapes(delta, A, B, C, grid, delta_bias, definition)
    check_matrix_size(delta.shape[2], f"a grid of {grid[0]} x {grid[1]}", copies=len(delta))
    scans = list(_read_scans(delta, A, B, C, delta_bias, delta_softplus, definition))
    merged, by_columns = scans[0].step.new_zeros(2, len(delta), delta.shape[2], delta.shape[2])
    for direction, scan in enumerate(scans):
        scan.add_to(by_columns if direction % 2 else merged)
    rows_view, columns_view = _views(merged, by_columns, grid, definition)
    rows_view += columns_view
    return min_max_normalize(merged) if normalize else merged


@torch.no_grad()
def directional_attention(
    delta: torch.Tensor,
    A: torch.Tensor,
    B: torch.Tensor,
    C: torch.Tensor,
    grid: tuple[int, int],
    delta_bias: torch.Tensor | None = None,
    delta_softplus: bool = True,
    definition: str = "published",
) -> torch.Tensor:
    r"""
    The four matrices whose sum is [`effective_attention`], not normalised.

    Args:
        delta, A, B, C, grid, delta_bias, delta_softplus, definition: as for [`effective_attention`].

    Returns:
        `torch.Tensor` of shape `(batch, 4, positions, positions)` in float64, at row-major positions.

    Raises:
        InputError: where shapes do not fit, or a matrix would be too large.
    """
    _check_shapes(delta, A, B, C, grid, delta_bias, definition)
    check_matrix_size(delta.shape[2], f"a grid of {grid[0]} x {grid[1]}", copies=NUM_DIRECTIONS * len(delta))
    scans = list(_read_scans(delta, A, B, C, delta_bias, delta_softplus, definition))
    matrices = scans[0].step.new_zeros(len(delta), NUM_DIRECTIONS, delta.shape[2], delta.shape[2])
    for direction, scan in enumerate(scans):
        of_direction = matrices[:, direction]
        if direction % 2 == 0:
            scan.add_to(of_direction)
            continue
        by_columns = torch.zeros_like(of_direction)
        scan.add_to(by_columns)
        rows_view, columns_view = _views(of_direction, by_columns, grid, definition)
        rows_view += columns_view
    return matrices


def min_max_normalize(matrix: torch.Tensor) -> torch.Tensor:
    """Shifts and scales each matrix of `(..., rows, columns)` to 0 to 1; a constant one becomes zero."""
    lowest, highest = matrix.amin((-2, -1), keepdim=True), matrix.amax((-2, -1), keepdim=True)
    span = highest - lowest
    return (matrix - lowest) / torch.where(span > 0, span, torch.ones_like(span))


def spectral_response(matrix: torch.Tensor, num_frequencies: int) -> tuple[torch.Tensor, torch.Tensor]:
    r"""
    The response curve of a matrix as published: `|F M F^-1|`, with the DFT matrix `F`, averaged over the columns, its
    first `num_frequencies // 2 + 1` values mirrored and min-max normalised.

    The positions are those of the flattened grid, so the frequencies are along rows of the grid, one after the other:
    what repeats from row to row is seen at multiples of `1 / columns`.

    Args:
        matrix (`torch.Tensor` of shape `(positions, positions)`): to (row), from (column); any token mixer.
        num_frequencies (`int`): the `n` of the frequencies `k / n`. They are true only where it is the number of
            positions; for another one, the curve is stretched, as in the reference implementation.

    Returns:
        `tuple[torch.Tensor, torch.Tensor]`: frequency in cycles per patch, from -0.5 to 0.5, and magnitude from 0 to
        1, both of shape `(2 * (num_frequencies // 2) + 1,)` in float64. A matrix that treats all frequencies alike,
        such as the identity, has magnitude 1 everywhere.

    Raises:
        InputError: where the matrix is not square or not finite, or has fewer positions than frequencies are asked
            for.

    Example:

    ```python
    >>> import torch
    >>> from modeling_lung_srad.spectral import spectral_response

    >>> frequency, magnitude = spectral_response(torch.full((4, 4), 0.25), num_frequencies=4)
    >>> frequency.tolist(), magnitude.tolist()
    ([-0.5, -0.25, 0.0, 0.25, 0.5], [0.0, 0.0, 1.0, 0.0, 0.0])

    ```"""
    magnitudes = response_magnitudes(matrix)
    positions, highest = len(matrix), num_frequencies // 2
    if not 0 < highest < positions:
        raise InputError(
            "num_frequencies",
            f"{num_frequencies} does not go with a matrix of {positions} positions",
            f"give a number from 2 to {2 * positions - 1}; {positions} gives the true frequencies",
        )
    order = torch.arange(highest + 1)
    # The transform of a real matrix is symmetric, so that frequencies beyond half the positions are there already.
    half = normalize_response(magnitudes[torch.minimum(order, positions - order)])
    frequency = order.double() / num_frequencies
    return torch.cat((-frequency[1:].flip(0), frequency)), torch.cat((half[1:].flip(0), half))


def response_magnitudes(matrix: torch.Tensor) -> torch.Tensor:
    """
    The response before it is mirrored and normalised.

    Args:
        matrix (`torch.Tensor` of shape `(positions, positions)`): to (row), from (column).

    Returns:
        `torch.Tensor` of shape `(positions // 2 + 1,)` in float64: magnitude at the frequencies `k / positions`.

    Raises:
        InputError: where the matrix is not square or not finite.
    """
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise InputError("matrix", f"has shape {tuple(matrix.shape)}", "give a square one of at least 2 positions")
    if not torch.isfinite(matrix).all():
        raise InputError("matrix", "has NaN or infinite entries", "check the weights and the input that it is made of")
    matrix, at_once = matrix.detach().cpu().double(), max(1, ELEMENTS_AT_ONCE // len(matrix))
    over_rows = torch.empty(len(matrix) // 2 + 1, len(matrix), dtype=torch.complex128)
    for columns, transformed in zip(matrix.split(at_once, dim=1), over_rows.split(at_once, dim=1), strict=True):
        transformed.copy_(torch.fft.rfft(columns, dim=0))
    return torch.cat([torch.fft.ifft(rows, dim=1).abs().mean(1) for rows in over_rows.split(at_once)])


def normalize_response(magnitudes: torch.Tensor) -> torch.Tensor:
    """Shifts and scales magnitudes to 0 to 1; equal ones become 1, or 0 where they are all zero."""
    lowest, highest = magnitudes.amin(), magnitudes.amax()
    if highest - lowest <= FLAT * highest:
        return (magnitudes > 0).double()
    return (magnitudes - lowest) / (highest - lowest)


def summarize_response(magnitudes: torch.Tensor, positions: int) -> SpectralSummary:
    """
    Four figures for a response.

    Args:
        magnitudes (`torch.Tensor` of shape `(positions // 2 + 1,)`): from [`response_magnitudes`].
        positions (`int`): of the matrix.

    Raises:
        InputError: for fewer than 4 positions, which cannot show a frequency above half Nyquist, or where the
            response is zero.
    """
    if positions < 4:
        raise InputError("matrix", f"has {positions} positions", "at least 4 are needed to compare high and low")
    if not magnitudes.any():
        raise InputError("matrix", "is zero, so its response is undefined", "check the weights")
    frequency = torch.arange(len(magnitudes), dtype=torch.float64) / positions
    is_high = frequency > HALF_NYQUIST
    passed = frequency[magnitudes >= magnitudes.max() / 2**0.5]
    return SpectralSummary(
        zero_share=float(magnitudes[0] / magnitudes.sum()),
        high_share=float(magnitudes[is_high].sum() / magnitudes.sum()),
        cutoff=float(passed[-1]),
        high_to_low=float(magnitudes[is_high].mean() / magnitudes[~is_high].mean()),
    )


def check_matrix_size(positions: int, what: str, copies: int = 1) -> None:
    """
    Checks that a dense matrix over a grid may be made.

    Args:
        positions (`int`): of the grid.
        what (`str`): what the message begins with, such as the grid and the layer that it is of.
        copies (`int`, *optional*, defaults to 1): matrices that are kept at once.

    Raises:
        InputError: naming the size that it would take.
    """
    size = positions**2 * BYTES_PER_ENTRY
    if size * copies > LARGEST_MATRIX_BYTES:
        raise InputError(
            what,
            f"{positions} positions make a dense matrix of {size * copies / 2**30:,.1f} GiB, more than the "
            f"{LARGEST_MATRIX_BYTES / 2**30:.1f} GiB that are allowed",
            "give a shorter input or take a later stage",
        )


@dataclass(frozen=True)
class _Scan:
    """
    One direction, all along positions of the row-major or, every second one, the column-major order.

    Args:
        step (`torch.Tensor` of shape `(batch, positions, channels)`): step sizes.
        A (`torch.Tensor` of shape `(channels, state_size)`): decay rates.
        entering (`torch.Tensor` of shape `(batch, positions, state_size)`): B.
        leaving (`torch.Tensor` of shape `(batch, positions, state_size)`): C.
        is_weighted (`bool`): whether what enters is multiplied by the step size.
        is_reversed (`bool`): whether the scan goes from the last position to the first.
    """

    step: torch.Tensor
    A: torch.Tensor
    entering: torch.Tensor
    leaving: torch.Tensor
    is_weighted: bool
    is_reversed: bool

    def add_to(self, matrices: torch.Tensor) -> None:
        """Adds the matrix of each sample to `(batch, positions, positions)`."""
        channels, states = self.A.shape
        at_once = max(1, ELEMENTS_AT_ONCE // (self.step.shape[1] * states))
        for matrix, step, entering, leaving in zip(matrices, self.step, self.entering, self.leaving, strict=True):
            for step_piece, A_piece in zip(step.split(at_once, dim=1), self.A.split(at_once), strict=True):
                decay = step_piece.unsqueeze(-1) * A_piece
                log_decay = (decay.flip(0).cumsum(0).flip(0) if self.is_reversed else decay.cumsum(0)).flatten(1)
                weight = step_piece.unsqueeze(-1) if self.is_weighted else torch.ones_like(step_piece).unsqueeze(-1)
                into = (weight * entering.unsqueeze(1)).flatten(1)
                out = (leaving / channels).unsqueeze(1).expand_as(decay).flatten(1)
                if self.is_reversed:
                    # Backwards in time is the transposed matrix: what enters and what leaves change places.
                    _add_decayed_products(matrix.T, -log_decay, out, into)
                else:
                    _add_decayed_products(matrix, log_decay, into, out)


def _read_scans(delta, A, B, C, delta_bias, delta_softplus: bool, definition: str) -> Iterator[_Scan]:
    """The four directions, in float64, those of the reversed scans turned round."""
    delta = delta.double() if delta_bias is None else delta.double() + delta_bias.double().unsqueeze(-1)
    step = (F.softplus(delta) if delta_softplus else delta).unflatten(1, (NUM_DIRECTIONS, -1)).mT
    A = A.double().unflatten(0, (NUM_DIRECTIONS, -1))
    for direction in range(NUM_DIRECTIONS):
        sequences = step[:, direction], B[:, direction].mT.double(), C[:, direction].mT.double()
        is_reversed = direction >= 2
        ordered_step, entering, leaving = (x.flip(1) if is_reversed else x for x in sequences)
        yield _Scan(ordered_step, A[direction], entering, leaving, definition == "exact", is_reversed)


def _add_decayed_products(matrix, log_decay, entering, leaving) -> None:
    """
    Adds `sum_c leaving[t, c] exp(log_decay[t, c] - log_decay[s, c]) entering[s, c]` for all `s <= t`.

    From the first half of the positions to the second, the decay is that to the middle times that from there, which
    makes a product of matrices of it, and neither exponent is positive. Each half is then done in the same way.
    """
    positions = len(matrix)
    if positions <= PAIRED_POSITIONS:
        # Above the diagonal, which is cut off, exponents are positive.
        decay = (log_decay.unsqueeze(1) - log_decay).clamp_max_(0).exp_()
        matrix += ((decay * entering) @ leaving.unsqueeze(-1)).squeeze(-1).tril_()
        return
    middle = positions // 2
    to_middle = entering[:middle] * (log_decay[middle - 1] - log_decay[:middle]).exp_()
    from_middle = leaving[middle:] * (log_decay[middle:] - log_decay[middle - 1]).exp_()
    matrix[middle:, :middle].addmm_(from_middle, to_middle.T)
    for half in (slice(0, middle), slice(middle, positions)):
        _add_decayed_products(matrix[half, half], log_decay[half], entering[half], leaving[half])


def _views(by_rows: torch.Tensor, by_columns: torch.Tensor, grid: tuple[int, int], definition: str):
    """Both `(batch, positions, positions)` in one order of axes, so that entries of the same positions meet."""
    rows, columns = grid
    # The reference implementation takes the sequence for rows although it goes down the columns.
    outer, inner = (rows, columns) if definition == "published" else (columns, rows)
    view_of_columns = by_columns.unflatten(2, (outer, inner)).unflatten(1, (outer, inner)).permute(0, 2, 1, 4, 3)
    return by_rows.unflatten(2, view_of_columns.shape[3:]).unflatten(1, view_of_columns.shape[1:3]), view_of_columns


def _check_shapes(delta, A, B, C, grid, delta_bias, definition: str) -> None:
    if definition not in DEFINITIONS:
        raise InputError("definition", f"{definition!r} is not one of {', '.join(DEFINITIONS)}", "give one of them")
    if delta.ndim != 3 or delta.shape[1] % NUM_DIRECTIONS or 0 in delta.shape:
        raise InputError(
            "delta", f"has shape {tuple(delta.shape)}", f"give (batch, {NUM_DIRECTIONS} * channels, positions)"
        )
    batch, width, positions = delta.shape
    if grid[0] * grid[1] != positions or min(grid) < 1:
        raise InputError(
            "grid", f"{grid[0]} x {grid[1]} does not have the {positions} positions of delta", "give both"
        )
    if A.ndim != 2 or len(A) != width or 0 in A.shape:
        raise InputError("A", f"has shape {tuple(A.shape)}", f"give ({width}, state_size), as delta has {width} rows")
    weights = (batch, NUM_DIRECTIONS, A.shape[1], positions)
    expected = {"B": (B, weights), "C": (C, weights), "delta_bias": (delta_bias, (width,))}
    for name, (tensor, shape) in expected.items():
        if tensor is not None and tuple(tensor.shape) != shape:
            raise InputError(name, f"has shape {tuple(tensor.shape)}", f"give {shape}, to fit delta and A")
