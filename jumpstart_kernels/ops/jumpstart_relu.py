"""Schema, fakes and autograd of the operator ``jumpstart_kernels::jumpstart_relu``.

Each backend is an overload of it. ``native`` brings its kernels and its autograd node from C++; the other
two get both from here.
"""

from collections.abc import Callable

import torch
from torch.library import Library

from jumpstart_kernels.kernels import native, reference, triton
from jumpstart_kernels.kernels.layout import (
    channels_last_format,
    empty_output,
    is_dense,
    make_layout,
    mask_shape,
    point_count,
    runs_channels_last,
    statistics_dtype,
)
from jumpstart_kernels.ops.differentiable import differentiable

_FORWARD = (
    "(Tensor x, int unit_dim, bool position_points, float margin, bool apply_relu, bool all_indices)"
    " -> (Tensor output, Tensor mask, Tensor slack_sums, Tensor extrema, Tensor indices)"
)
_BACKWARD = (
    "(Tensor? grad_output, Tensor? grad_slack_sums, Tensor? grad_extrema, Tensor mask, Tensor extrema,"
    " Tensor indices, SymInt[] size, bool channels_last, ScalarType dtype, int unit_dim, float margin)"
    " -> Tensor"
)

# Below autograd: eager code (csrc/eager.cpp) puts its node around it, all else overwrites by a copy.
_INPLACE = (
    "(Tensor(a!) x, int unit_dim, bool position_points, float margin)"
    " -> (Tensor mask, Tensor slack_sums, Tensor extrema, Tensor indices)"
)

_library = Library("jumpstart_kernels", "DEF")


def _fake_forward(x, unit_dim, position_points, margin, apply_relu, all_indices):
    layout = make_layout(x.shape, unit_dim, runs_channels_last(x, unit_dim))
    count = layout.units + point_count(x.shape, unit_dim, position_points)
    dtype = statistics_dtype(x.dtype)
    return (
        empty_output(x) if apply_relu else x.new_empty(0),
        x.new_empty(mask_shape(layout) if apply_relu else (0, 0), dtype=torch.uint8),
        x.new_empty((2, 5), dtype=dtype),
        x.new_empty((2, count), dtype=dtype),
        x.new_empty((2, count), dtype=torch.int64),
    )


def _fake_backward(
    grad_output,
    grad_slack_sums,
    grad_extrema,
    mask,
    extrema,
    indices,
    size,
    channels_last,
    dtype,
    unit_dim,
    margin,
):
    memory_format = channels_last_format(len(size)) if channels_last else torch.contiguous_format
    return torch.empty(size, dtype=dtype, device=extrema.device, memory_format=memory_format)


def _save_for_backward(ctx, inputs, output):
    x, unit_dim, _, margin, apply_relu, _ = inputs
    output, mask, _, extrema, indices = output
    ctx.set_materialize_grads(False)
    ctx.mark_non_differentiable(mask, indices, *([] if apply_relu else [output]))
    ctx.save_for_backward(mask, extrema, indices)
    ctx.constants = (x.shape, runs_channels_last(x, unit_dim), x.dtype, unit_dim, margin)


def _make_backward(overload: torch._ops.OpOverload) -> Callable:
    def backward(ctx, grad_output, grad_mask, grad_slack_sums, grad_extrema, grad_indices):
        if grad_output is None and grad_slack_sums is None and grad_extrema is None:
            return (None,) * 6
        grad_x = overload(grad_output, grad_slack_sums, grad_extrema, *ctx.saved_tensors, *ctx.constants)
        return grad_x, None, None, None, None, None

    return backward


def _any_layout(forward: Callable) -> Callable:
    """Let a kernel of dense tensors run any tensor, with its output in the layout that ``F.relu`` gives."""

    def forward_any_layout(x, unit_dim, *options):
        if is_dense(x, unit_dim):
            return forward(x, unit_dim, *options)
        dense = empty_output(x)
        if is_dense(dense, unit_dim):
            output, *statistics = forward(dense.copy_(x), unit_dim, *options)
        else:
            output, *statistics = forward(x.contiguous(), unit_dim, *options)
        if output.shape == x.shape and output.stride() != dense.stride():
            output = dense.copy_(output)
        return (output, *statistics)

    return forward_any_layout


def _any_gradient(backward: Callable) -> Callable:
    """Let a kernel of dense tensors take a gradient of any strides."""

    def backward_any_gradient(grad_output, *arguments):
        *_, size, channels_last, _, _, _ = arguments
        memory_format = channels_last_format(len(size)) if channels_last else torch.contiguous_format
        if grad_output is not None:
            grad_output = grad_output.contiguous(memory_format=memory_format)
        return backward(grad_output, *arguments).contiguous(memory_format=memory_format)

    return backward_any_gradient


def _register(backend: str) -> torch._ops.OpOverload:
    name, backward_name = f"jumpstart_relu.{backend}", f"jumpstart_relu_backward.{backend}"
    _library.define(name + _FORWARD)
    _library.define(backward_name + _BACKWARD)
    forward = getattr(torch.ops.jumpstart_kernels.jumpstart_relu, backend)
    backward = getattr(torch.ops.jumpstart_kernels.jumpstart_relu_backward, backend)
    torch.library.register_fake(f"jumpstart_kernels::{name}", _fake_forward, lib=_library)
    torch.library.register_fake(f"jumpstart_kernels::{backward_name}", _fake_backward, lib=_library)
    _library.impl(backward_name, differentiable(backward, reference.jumpstart_relu_backward), "Autograd")
    kernels = _PYTHON_KERNELS.get(backend)
    if kernels is not None:
        key = "CompositeExplicitAutograd"  # any device: the choice of backend has looked at it
        _library.impl(name, _any_layout(kernels.jumpstart_relu_forward), key)
        _library.impl(backward_name, _any_gradient(kernels.jumpstart_relu_backward), key)
        torch.library.register_autograd(
            f"jumpstart_kernels::{name}",
            _make_backward(backward),
            setup_context=_save_for_backward,
            lib=_library,
        )
    return forward


_PYTHON_KERNELS = {"reference": reference, "triton": triton}
_BUILT = [*_PYTHON_KERNELS, *(["native"] if native.extension() is not None else [])]

if "native" in _BUILT:
    _library.define("jumpstart_relu_.native" + _INPLACE)

OVERLOADS = {backend: _register(backend) for backend in _BUILT}
