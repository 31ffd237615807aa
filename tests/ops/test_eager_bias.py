"""Biases that eager code hands to the operator, or leaves to it."""

import pytest
import torch

import jumpstart_kernels as jk
from jumpstart_kernels.functional import jumpstart_relu
from jumpstart_kernels.functional.jumpstart import run_layer_eagerly


def run_eagerly(x, bias):
    return run_layer_eagerly(x, bias, "relu", 0.0, 1, "sample", 1.0, "single", False, "limited")


@pytest.mark.parametrize("units", (1, 5))
def test_negated(target, units):
    x, values = torch.randn(3, units, device=target[1]), torch.randn(units, device=target[1])
    bias = torch._neg_view(values)
    assert bias.is_neg() and run_eagerly(x, bias) is None
    torch.testing.assert_close(jumpstart_relu(x, bias).output, (x - values).relu(), rtol=0, atol=0)


def test_strided_and_expanded(target):
    x = torch.randn(3, 4, device=target[1])
    for bias in (torch.randn(8, device=target[1])[::2], torch.randn(1, device=target[1]).expand(4)):
        expected = (x + bias).relu()
        assert torch.equal(jumpstart_relu(x, bias).output, expected)
        found = run_eagerly(x, bias)
        assert found is None or torch.equal(found[0], expected)


@pytest.mark.parametrize(
    ("bias", "error", "message"),
    [
        (torch.ones(4), ValueError, r"shape \[3\], got shape \[4\]"),
        (torch.ones(1, 3), ValueError, "one value for each"),
        (torch.ones(3, dtype=torch.float64), TypeError, "dtype of x"),
        (torch.ones(3).to_sparse(), TypeError, "dense tensor"),
        (torch.ones(3, device="meta"), ValueError, "device of x"),
        ([1.0, 1.0, 1.0], TypeError, "must be a torch.Tensor or None"),
    ],
    ids=("length", "dims", "dtype", "sparse", "device", "list"),
)
@pytest.mark.parametrize("function", (jumpstart_relu, jk.functional.jumpstart_stats))
def test_bad_biases(function, bias, error, message):
    with pytest.raises(error, match=message):
        function(torch.ones(2, 3), bias)


@pytest.mark.parametrize("tie_breaking", ("single", "average"))
def test_overwriting(target, tie_breaking):
    x, bias = torch.randn(4, 3, device=target[1]), torch.randn(3, device=target[1])
    expected = (x + bias).relu()
    output = jumpstart_relu(x, bias, inplace=True, tie_breaking=tie_breaking).output
    assert torch.equal(output, expected) and output.data_ptr() == x.data_ptr()


@pytest.mark.parametrize("size", ((64, 4, 32, 32), (4096, 16), (4096, 4)))
def test_searches_end_where_threads_flush_otherwise(size):
    """With subnormal sums, which a thread that flushes them does not find again."""
    if not torch.set_flush_denormal(False):
        pytest.skip("this processor does not flush subnormal numbers")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        (torch.ones(1 << 20) + 1).sum()  # the workers start without flushing
        x = torch.full(size, -1.0)
        x[0] = -1.9999e-38
        x.requires_grad_()
        bias = torch.full((size[1],), 2e-38, requires_grad=True)
        torch.set_flush_denormal(True)
        output, sums, *_ = jumpstart_relu(x, bias)
        (output.sum() + sums.sum()).backward()
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(threads)
    assert x.grad.isfinite().all() and bias.grad.isfinite().all()
