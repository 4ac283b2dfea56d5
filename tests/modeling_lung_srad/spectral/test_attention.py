import pytest
import torch
from safetensors.torch import load_file

from modeling_lung_srad.errors import InputError
from modeling_lung_srad.selective_scan import selective_scan_2d
from modeling_lung_srad.spectral import (
    check_matrix_size,
    directional_attention,
    effective_attention,
    min_max_normalize,
    response_magnitudes,
    spectral_response,
    summarize_response,
)
from tests.conftest import FIXTURES

GRID, CHANNELS = (3, 5), 6


@pytest.fixture(scope="module")
def golden():
    return load_file(FIXTURES / "spectral.safetensors")


def positions_in_scan_order(grid):
    """For each direction, the position `mel * columns + time` of each step, by walking over the grid."""
    rows, columns = grid
    by_row = [row * columns + column for row in range(rows) for column in range(columns)]
    by_column = [row * columns + column for column in range(columns) for row in range(rows)]
    return [by_row, by_column, by_row[::-1], by_column[::-1]]


def random_scan(grid, channels, state_size, seed=0):
    """Arguments of `selective_scan_2d` for a map of one sample, in float64, without its input and D."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return {
        "low_rank_delta": draw(4, 1, *grid, 2),
        "delta_weight": draw(4, channels, 2),
        "delta_bias": draw(4, channels) - 1,
        "A": -torch.exp(draw(4, channels, state_size)),
        "B": draw(4, 1, *grid, state_size),
        "C": draw(4, 1, *grid, state_size),
    }


def as_sequences(scan, grid):
    """The same arguments in the layout of `effective_attention`."""
    orders = positions_in_scan_order(grid)

    def sequences(maps):
        return torch.stack([maps[k, 0].flatten(0, 1)[order] for k, order in enumerate(orders)])

    delta = sequences(scan["low_rank_delta"]) @ scan["delta_weight"].mT
    return {
        "delta": delta.mT.flatten(0, 1)[None],
        "A": scan["A"].flatten(0, 1),
        "B": sequences(scan["B"]).mT[None],
        "C": sequences(scan["C"]).mT[None],
        "grid": grid,
        "delta_bias": scan["delta_bias"].flatten(),
    }


@pytest.mark.parametrize("state_size", [1, 4])
def test_exact_attention_is_the_jacobian_of_the_scan(state_size):
    scan = random_scan(GRID, CHANNELS, state_size)

    def run(hidden_states):
        return selective_scan_2d(hidden_states, **scan, D=torch.zeros(4, CHANNELS), backend="torch")

    inputs = torch.randn(1, *GRID, CHANNELS, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(run, inputs).view(15, CHANNELS, 15, CHANNELS)
    found = effective_attention(**as_sequences(scan, GRID), definition="exact", normalize=False)
    expected = torch.stack([jacobian[:, channel, :, channel] for channel in range(CHANNELS)]).mean(0)
    torch.testing.assert_close(found[0], expected, rtol=0, atol=1e-8)
    across = torch.stack([jacobian[:, channel, :, channel - 1] for channel in range(CHANNELS)])
    assert not across.any()


@pytest.mark.parametrize("state_size", [1, 3])
def test_directions_stand_at_their_positions_and_add_up(state_size):
    scan = random_scan(GRID, CHANNELS, state_size)
    sequences = as_sequences(scan, GRID)
    found = directional_attention(**sequences, definition="exact")[0]
    step = torch.nn.functional.softplus(sequences["delta"] + sequences["delta_bias"][:, None])
    for direction, order in enumerate(positions_in_scan_order(GRID)):
        rows = slice(direction * CHANNELS, (direction + 1) * CHANNELS)
        expected = torch.zeros(15, 15, dtype=torch.float64)
        for t in range(15):
            for s in range(t + 1):
                decay = torch.exp(sequences["A"][rows] * step[0, rows, s + 1 : t + 1].sum(1, keepdim=True))
                weights = sequences["C"][0, direction, :, t] * sequences["B"][0, direction, :, s]
                expected[order[t], order[s]] = ((decay * weights).sum(1) * step[0, rows, s]).mean()
        torch.testing.assert_close(found[direction], expected, rtol=0, atol=1e-12)
    merged = effective_attention(**sequences, definition="exact", normalize=False)[0]
    torch.testing.assert_close(found.sum(0), merged)


def test_published_attention_has_the_numbers_of_the_reference(golden):
    sequences = {name: golden[f"regs.{key}"] for name, key in {"delta": "dts", "B": "Bs", "C": "Cs"}.items()}
    sequences |= {"grid": tuple(golden["regs.HW"].tolist()), "delta_bias": golden["regs.delta_bias"]}
    A = -torch.exp(golden["regs.A_logs"])
    found = effective_attention(A=A, **sequences)
    torch.testing.assert_close(found[0].float(), golden["attn_all_norm_CwBw"], rtol=0, atol=1e-5)
    without_decay = effective_attention(A=torch.zeros_like(A), **sequences)
    torch.testing.assert_close(without_decay[0].float(), golden["attn_all_norm_CB"], rtol=0, atol=1e-5)


def test_definitions_differ_by_the_step_size_and_on_a_square_grid_by_nothing_else():
    sequences = as_sequences(random_scan((4, 4), CHANNELS, state_size=2), (4, 4))
    # Every step size is 0.7.
    sequences |= {"delta": torch.full_like(sequences["delta"], 0.7), "delta_bias": None, "delta_softplus": False}
    exact, published = (
        effective_attention(**sequences, definition=definition, normalize=False)
        for definition in ("exact", "published")
    )
    torch.testing.assert_close(exact, 0.7 * published)
    normalized = effective_attention(**sequences, definition="exact")
    assert (normalized.min(), normalized.max()) == (0, 1)
    torch.testing.assert_close(normalized, min_max_normalize(published))


@pytest.mark.parametrize("grid", [(8, 64), (16, 128)])
@pytest.mark.parametrize("decay", [1e-4, 1.0, 1e4])
def test_full_grids_neither_overflow_nor_lose_precision(grid, decay):
    positions = grid[0] * grid[1]
    generator = torch.Generator().manual_seed(0)
    B, C = torch.randn(2, 1, 4, 1, positions, generator=generator, dtype=torch.float64)
    delta = torch.randn(1, 8, positions, generator=generator)
    A = -decay * torch.rand(8, 1, generator=generator)
    found = directional_attention(delta, A, B, C, grid, definition="published")
    assert found.isfinite().all()
    cumulative = (torch.nn.functional.softplus(delta.double())[0, :2] * A.double()[:2]).cumsum(-1)
    for row in (0, 1, 200, positions - 1):
        decays = torch.exp(cumulative[:, row, None] - cumulative[:, : row + 1]).mean(0)
        expected = C[0, 0, 0, row] * decays * B[0, 0, 0, : row + 1]
        torch.testing.assert_close(found[0, 0, row, : row + 1], expected, rtol=1e-9, atol=1e-12)
        assert not found[0, 0, row, row + 1 :].any()


def test_pieces_of_channels_add_up(monkeypatch):
    sequences = as_sequences(random_scan(GRID, CHANNELS, state_size=4), GRID)
    whole = effective_attention(**sequences)
    monkeypatch.setattr("modeling_lung_srad.spectral.attention.ELEMENTS_AT_ONCE", 15 * 4 * 4)
    torch.testing.assert_close(effective_attention(**sequences), whole)


def test_samples_of_a_batch_are_apart():
    one, two = (as_sequences(random_scan(GRID, CHANNELS, 2, seed), GRID) for seed in (0, 1))
    two |= {"A": one["A"], "delta_bias": one["delta_bias"]}
    both = one | {name: torch.cat((one[name], two[name])) for name in ("delta", "B", "C")}
    torch.testing.assert_close(
        effective_attention(**both), torch.cat((effective_attention(**one), effective_attention(**two)))
    )


def test_weights_that_learn_are_taken_without_gradients():
    sequences = as_sequences(random_scan(GRID, CHANNELS, state_size=1), GRID)
    expected = effective_attention(**sequences)
    found = effective_attention(**(sequences | {"A": sequences["A"].clone().requires_grad_()}))
    assert not found.requires_grad
    assert torch.equal(found, expected)


def test_constant_matrix_is_normalised_to_zero():
    assert not min_max_normalize(torch.full((2, 3, 3), 0.3)).any()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"definition": "precise"}, "^definition: 'precise' is not one of published, exact; "),
        ({"delta": torch.zeros(1, 23, 15)}, r"^delta: has shape \(1, 23, 15\); give \(batch, 4 \* channels"),
        ({"grid": (4, 5)}, "^grid: 4 x 5 does not have the 15 positions of delta; "),
        ({"A": torch.zeros(23, 1)}, r"^A: has shape \(23, 1\); give \(24, state_size\)"),
        ({"B": torch.zeros(1, 4, 2, 15)}, r"^B: has shape \(1, 4, 2, 15\); give \(1, 4, 1, 15\)"),
        ({"delta_bias": torch.zeros(6)}, r"^delta_bias: has shape \(6,\); give \(24,\)"),
    ],
)
def test_arguments_that_do_not_fit_are_named(changes, message):
    sequences = as_sequences(random_scan(GRID, CHANNELS, state_size=1), GRID)
    with pytest.raises(InputError, match=message):
        effective_attention(**(sequences | changes))


def test_matrix_that_is_too_large_is_refused_with_its_size():
    delta, weights = torch.zeros(1, 4, 2**14), torch.zeros(1, 4, 1, 2**14)
    message = r"^a grid of 32 x 512: 16384 positions make a dense matrix of 2\.0 GiB, more than the 0\.5 GiB that are"
    with pytest.raises(InputError, match=message):
        effective_attention(delta, torch.zeros(4, 1), weights, weights, (32, 512))
    check_matrix_size(32 * 256, "the first stage of a full input")


def test_response_has_the_numbers_of_the_reference(golden):
    frequency, magnitude = spectral_response(golden["response.matrix"], int(golden["response.n_freq"]))
    torch.testing.assert_close(frequency, golden["response.frequency"], rtol=0, atol=1e-12)
    torch.testing.assert_close(magnitude, golden["response.magnitude"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("positions", [16, 17])
def test_response_of_a_circular_filter_is_its_transfer_function(positions):
    taps = torch.zeros(positions, dtype=torch.float64)
    taps[[0, 1, -1]] = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    matrix = torch.stack([taps.roll(shift) for shift in range(positions)])
    frequency, magnitude = spectral_response(matrix, positions)
    transfer = 0.5 + 0.5 * torch.cos(2 * torch.pi * frequency)
    expected = (transfer - transfer.min()) / (transfer.max() - transfer.min())
    torch.testing.assert_close(magnitude, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(frequency[-1], torch.tensor(positions // 2 / positions, dtype=torch.float64))


def test_response_is_the_transform_that_the_dft_matrix_makes():
    matrix = torch.randn(12, 12, dtype=torch.float64)
    order = torch.arange(12, dtype=torch.float64)
    dft = torch.exp(-2j * torch.pi * torch.outer(order, order) / 12)
    expected = (dft @ matrix.to(dft.dtype) @ torch.linalg.inv(dft)).abs().mean(1)[:7]
    torch.testing.assert_close(response_magnitudes(matrix), expected)


def test_identity_passes_all_frequencies_alike():
    _, magnitude = spectral_response(torch.eye(32), 32)
    assert torch.equal(magnitude, torch.ones_like(magnitude))
    summary = summarize_response(response_magnitudes(torch.eye(32)), 32)
    assert summary.cutoff == 0.5
    assert summary.zero_share == pytest.approx(1 / 17)
    assert summary.high_share == pytest.approx(8 / 17)
    assert summary.high_share_above_zero == pytest.approx(0.5)
    assert summary.high_to_low == pytest.approx(1)


def test_averaging_passes_frequency_zero_alone():
    summary = summarize_response(response_magnitudes(torch.full((32, 32), 1 / 32)), 32)
    assert summary.zero_share == pytest.approx(1)
    assert (summary.cutoff, summary.high_share, summary.high_to_low) == pytest.approx((0, 0, 0), abs=1e-12)


def test_summary_of_an_ideal_low_pass():
    spectrum = torch.zeros(40, dtype=torch.complex128)
    spectrum[[0, 1, 2, 3, 12, -1, -2, -3, -12]] = torch.tensor([1.0, 1, 1, 0.8, 0.6, 1, 1, 0.8, 0.6]).to(
        spectrum.dtype
    )
    taps = torch.fft.ifft(spectrum).real
    matrix = torch.stack([taps.roll(shift) for shift in range(40)], dim=1)
    summary = summarize_response(response_magnitudes(matrix), 40)
    # 12 / 40 is above half Nyquist but under -3 dB.
    assert summary.cutoff == pytest.approx(3 / 40)
    assert summary.high_share == pytest.approx(0.6 / 4.4)
    assert summary.high_to_low == pytest.approx((0.6 / 10) / (3.8 / 11))


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.zeros(3, 4), r"^matrix: has shape \(3, 4\); give a square one"),
        (torch.full((4, 4), torch.nan), "^matrix: has NaN or infinite entries; "),
        (torch.zeros(4, 4), "^matrix: is zero, "),
        (torch.eye(3), "^matrix: has 3 positions; at least 4 "),
    ],
)
def test_matrices_without_a_summary_are_named(matrix, message):
    with pytest.raises(InputError, match=message):
        summarize_response(response_magnitudes(matrix), len(matrix))


@pytest.mark.parametrize("num_frequencies", [0, 1, 16, 100])
def test_impossible_number_of_frequencies_is_named(num_frequencies):
    with pytest.raises(InputError, match=f"^num_frequencies: {num_frequencies} does not go with .* 8 positions"):
        spectral_response(torch.eye(8), num_frequencies)
