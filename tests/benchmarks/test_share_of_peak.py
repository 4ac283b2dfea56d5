"""What is counted of a pass; nothing here asserts a time."""

import pytest
import torch
from torch import nn

from benchmarks.cases import Case, reason_to_leave_out
from benchmarks.share_of_peak import DEPTHWISE, ELEMENTWISE, MATRIX_PRODUCTS, count_work, measure_scans, measure_shares


def test_a_matrix_product_is_counted_in_inference_mode():
    layer, inputs = nn.Linear(30, 20, bias=False), torch.randn(10, 30)
    with torch.inference_mode():
        work = count_work(lambda: layer(inputs)).work
    assert set(work) == {MATRIX_PRODUCTS}
    assert work[MATRIX_PRODUCTS].flops == 2 * 10 * 30 * 20
    assert work[MATRIX_PRODUCTS].bytes == 4 * (10 * 30 + 30 * 20 + 10 * 20)


def test_depthwise_convolutions_are_no_matrix_products():
    image = torch.randn(1, 6, 5, 5)
    assert set(
        count_work(lambda: torch.conv2d(image, torch.randn(6, 1, 3, 3), groups=6)).kinds["aten::convolution"]
    ) == {DEPTHWISE}
    assert MATRIX_PRODUCTS in count_work(lambda: torch.conv2d(image, torch.randn(4, 6, 1, 1))).work


@pytest.mark.parametrize(
    ("step", "tensors"),
    [
        (lambda x: x.mul_(2), 2),
        (lambda x: x.exp(), 2),
        (lambda x: x.copy_(x[:1].expand_as(x)), 1.1),
        (lambda x: torch.add(x, x, out=x), 3),
        (lambda x: x.t(), 0),
    ],
)
def test_bytes_are_what_is_read_and_written(step, tensors):
    x = torch.ones(10, 10)
    assert count_work(lambda: step(x)).work[ELEMENTWISE].bytes == pytest.approx(tensors * x.nbytes)


@pytest.mark.parametrize("contender", ["torch", "numba"])
def test_shares_of_a_tiny_network_add_up(contender):
    if reason := reason_to_leave_out(Case(contender)):
        pytest.skip(reason)
    shares = measure_shares(Case(contender, size="tiny", frames=64))
    assert set(shares["kinds"]) == {MATRIX_PRODUCTS, DEPTHWISE, ELEMENTWISE}
    assert all(kind["seconds"] > 0 and kind["bytes"] > 0 for kind in shares["kinds"].values())
    assert sum(kind["seconds"] for kind in shares["kinds"].values()) < shares["profiled_seconds"]
    assert 0 < shares["scan_seconds"] < shares["profiled_seconds"]


def test_a_back_end_that_cannot_run_is_left_out_with_the_reason():
    rows = measure_scans("cpu", 1, ["mamba_ssm"])
    assert len(rows) == 4
    assert all(row["left_out"] == "runs on CUDA only" for row in rows)
