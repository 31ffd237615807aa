"""The Triton backend in its interpreter, compared with the reference in every layout."""

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from jumpstart_kernels.ops import reference
from jumpstart_kernels.ops import triton as triton_backend
from jumpstart_kernels.ops.arguments import ForwardResult, Gradients, Options, Saved
from jumpstart_kernels.ops.layout import is_channels_last
from jumpstart_kernels.ops.slack import LAYER_SUMS, SUMS_SHAPE

LAYOUTS = [
    pytest.param((70, 40), 1, None, False, id="2d"),
    pytest.param((3, 24, 9, 5), 1, torch.channels_last, False, id="channels_last"),
    pytest.param((3, 24, 9, 5), 1, torch.channels_last, True, id="channels_last-position"),
    pytest.param((3, 5, 300), 1, None, False, id="planes"),
    pytest.param((3, 20, 52), 1, None, True, id="planes-position"),
    pytest.param((2, 37, 12), 2, None, False, id="units-last"),
]
OF_LAYOUTS = pytest.mark.parametrize(("size", "unit_dim", "memory_format", "position_points"), LAYOUTS)


WITH_AND_WITHOUT_BIAS = pytest.mark.parametrize("with_bias", (False, True), ids=("plain", "bias"))


def of_layouts_and(names: str, values: Sequence[tuple], last: tuple):
    """Parametrizes each layout with each of the values, and with one value of ``last`` in turn."""
    arguments = ("size", "unit_dim", "memory_format", "position_points", *names.split())
    cases = []
    for (i, layout), (j, value) in itertools.product(enumerate(LAYOUTS), enumerate(values)):
        turn = last[(i + j) % len(last)]
        name = "-".join(map(str, (layout.id, *value, turn)))
        cases.append(pytest.param(*layout.values, *value, turn, id=name))
    return pytest.mark.parametrize(arguments, cases)


def make_dense(x: Tensor, memory_format: torch.memory_format | None) -> Tensor:
    return x.contiguous(memory_format=memory_format or torch.contiguous_format)


def assert_forward_like_reference(x: Tensor, bias: Tensor | None, options: Options) -> ForwardResult:
    """To the bit; the reference's result."""
    expected = reference.jumpstart_activation_forward(x, bias, options)
    actual = triton_backend.jumpstart_activation_forward(x, bias, options)
    for name in ("output", "mask", "extrema", "indices"):
        torch.testing.assert_close(
            getattr(actual, name), getattr(expected, name), rtol=0, atol=0, equal_nan=True
        )
    torch.testing.assert_close(actual.slack_sums, expected.slack_sums, rtol=1e-6, atol=0, equal_nan=True)
    return expected


def assert_like_reference(size, unit_dim, memory_format, position_points, dtype, with_bias=False) -> None:
    """Forward and backward of an input with ties."""
    generator = torch.Generator().manual_seed(0)

    def halves(*size):
        return torch.randn(size, generator=generator).mul(2).round().div(2).to(dtype)

    x = make_dense(halves(*size), memory_format)
    bias = halves(size[unit_dim]) if with_bias else None
    options = Options("relu", 0.0, unit_dim, position_points, 3.0, extrema_kind="exact")
    expected = assert_forward_like_reference(x, bias, options)

    # Halves, whole numbers, and slacks that are multiples of a half: no rounding, in whatever order they are
    # added.
    grad_output = torch.empty_like(x).copy_(halves(*size))
    grad_slack_sums = torch.arange(LAYER_SUMS, dtype=expected.slack_sums.dtype).view(SUMS_SHAPE)
    gradients = Gradients(grad_output, grad_slack_sums, None)
    statistics = (expected.mask, expected.extrema, expected.indices)
    saved = Saved(*statistics, list(size), is_channels_last(x, unit_dim), dtype, with_bias)
    assert_backward_like_reference(gradients, saved, options)


def assert_backward_like_reference(gradients: Gradients, saved: Saved, options: Options) -> None:
    """To the bit, for gradients whose sums are exact."""
    actual = triton_backend.jumpstart_activation_backward(gradients, saved, options)
    expected = reference.jumpstart_activation_backward(gradients, saved, options)
    assert torch.equal(actual.x, expected.x)
    assert (actual.bias is None) == (not saved.with_grad_bias)
    if saved.with_grad_bias:
        assert actual.bias.dtype == saved.dtype
        assert torch.equal(actual.bias, expected.bias)


def cut_small(monkeypatch) -> None:
    """Have programs of several tiles, and several of them: what large tensors take, in the interpreter."""
    from jumpstart_kernels.ops.triton import bias, plan, rewrite

    monkeypatch.setattr(plan, "_PROGRAMS", 1)
    monkeypatch.setattr(plan, "_LANES", 4)
    monkeypatch.setattr(plan, "_SMALL", 1)
    monkeypatch.setattr(plan, "_WHOLE_STEPS", 0)
    monkeypatch.setattr(plan, "_BIAS_STEPS", 2)
    monkeypatch.setattr(plan, "STATISTICS_ELEMENTS", 64)
    monkeypatch.setattr(rewrite, "BLOCK", 16)
    monkeypatch.setattr(rewrite, "CHUNK", 8)
    monkeypatch.setattr(bias, "LINES", 8)


def forget_plans() -> None:
    from jumpstart_kernels.ops.triton import launch_backward, launch_forward, launch_linked

    launch_forward._forward.cache_clear()
    launch_backward._backward.cache_clear()
    launch_linked._forward.cache_clear()
    launch_linked._backward.cache_clear()
