"""Linked activations of the Triton backend in its interpreter, compared with the reference."""

import pytest
import torch
from torch import Tensor
from triton_interpreted import make_dense

from jumpstart_kernels.ops import reference
from jumpstart_kernels.ops import triton as triton_backend
from jumpstart_kernels.ops.activations import LINKED_ACTIVATIONS
from jumpstart_kernels.ops.arguments import NO_STATISTICS, ForwardResult, Gradients, LinkedSaved, Options
from jumpstart_kernels.ops.layout import dense_format, is_channels_last

OF_ACTIVATIONS = pytest.mark.parametrize("activation", LINKED_ACTIVATIONS)


def make_options(
    activation: str, unit_dim: int, dim: int, position_points: bool = True, kind: str = NO_STATISTICS
) -> Options:
    return Options(activation, 0.0, unit_dim % dim, position_points, 1.0, kind)


def make_weight(activation: str, units: int, dtype: torch.dtype) -> Tensor | None:
    if LINKED_ACTIVATIONS[activation].slope_derivative is None:
        return None
    return torch.randn((2, units), generator=torch.Generator().manual_seed(1)).mul(4).round().div(4).to(dtype)


def make_input(size, memory_format, dtype: torch.dtype) -> Tensor:
    """With ties, zeros, and values near 0."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(size, generator=generator).mul(4).round().div(2)
    x += (torch.rand(size, generator=generator) < 0.2) * torch.randn(size, generator=generator).mul(1e-3)
    return make_dense(x.to(dtype), memory_format)


def make_gradient(output: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    gradient = torch.randn(output.shape, generator=generator).mul(2).round().div(2)
    return torch.empty_like(output).copy_(gradient)


def make_saved(x: Tensor, weight: Tensor | None, result: ForwardResult, options: Options) -> LinkedSaved:
    from_sign = LINKED_ACTIVATIONS[options.activation].from_sign
    return LinkedSaved(
        None if from_sign else x,
        weight,
        result.mask,
        result.extrema,
        result.indices,
        list(x.shape),
        is_channels_last(x, options.unit_dim),
        x.dtype,
        weight is not None,
    )


def assert_near(actual: Tensor, expected: Tensor, size: float = 0.0) -> None:
    """Within three units in the last place, of the value or of a size."""
    epsilon = 3 * torch.finfo(expected.dtype).eps
    torch.testing.assert_close(actual, expected, rtol=epsilon, atol=epsilon * size, equal_nan=True)


def assert_forward_like_reference(x: Tensor, weight: Tensor | None, options: Options) -> ForwardResult:
    """The reference's result."""
    expected = reference.linked_activation_forward(x, weight, options)
    actual = triton_backend.linked_activation_forward(x, weight, options)
    assert actual.output.stride() == expected.output.stride()
    if options.activation in ("linked_relu", "linked_prelu"):
        torch.testing.assert_close(actual.output, expected.output, rtol=0, atol=0, equal_nan=True)
    else:
        assert_near(actual.output, expected.output)
    for name in ("mask", "extrema", "indices"):
        torch.testing.assert_close(
            getattr(actual, name), getattr(expected, name), rtol=0, atol=0, equal_nan=True
        )
    torch.testing.assert_close(actual.slack_sums, expected.slack_sums, rtol=1e-6, atol=0, equal_nan=True)
    return expected


def assert_backward_like_reference(gradients: Gradients, saved: LinkedSaved, options: Options) -> None:
    actual = triton_backend.linked_activation_backward(gradients, saved, options)
    expected = reference.linked_activation_backward(gradients, saved, options)
    memory_format = dense_format(len(saved.size), saved.channels_last)
    assert actual.x.stride() == torch.empty(saved.size, memory_format=memory_format).stride()
    if options.activation in ("linked_relu", "linked_prelu"):
        assert torch.equal(actual.x, expected.x)
    else:  # what both halves add may cancel
        assert_near(actual.x, expected.x, 8.0)
    assert (actual.weight is None) == (expected.weight is None)
    if expected.weight is not None:
        units = saved.size[options.unit_dim]
        terms = expected.x.numel() / units
        assert actual.weight.dtype == saved.dtype
        exact = torch.float64 if saved.dtype == torch.float64 else torch.float32
        torch.testing.assert_close(
            actual.weight,
            expected.weight,
            rtol=torch.finfo(saved.dtype).eps,
            atol=terms * torch.finfo(exact).eps,
        )
