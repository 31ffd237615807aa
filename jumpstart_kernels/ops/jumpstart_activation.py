"""Schema, fakes and autograd of the operator ``jumpstart_kernels::jumpstart_activation``.

Each backend is an overload of it. ``native`` has its kernels and autograd node in C++
(``csrc/autograd.cpp``); for the other two both are defined here.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

from jumpstart_kernels.ops import native, reference
from jumpstart_kernels.ops.activations import ACTIVATIONS, NONE
from jumpstart_kernels.ops.arguments import (
    ForwardResult,
    Gradients,
    InputGradients,
    Options,
    Saved,
    check_bias,
    dense_gradients,
    save_for_backward,
    saved_arguments,
    split_backward,
)
from jumpstart_kernels.ops.backends import BACKENDS, Backend
from jumpstart_kernels.ops.layout import (
    dense_format,
    empty_output,
    is_dense,
    make_layout,
    mask_shape,
    point_count,
    runs_channels_last,
    statistics_dtype,
)
from jumpstart_kernels.ops.registration import Function, register, register_backends
from jumpstart_kernels.ops.slack import SUMS_SHAPE

# In the order of the fields of Options, ForwardResult, Gradients and Saved.
OPTIONS = (
    "str activation, float parameter, int unit_dim, bool position_points, float margin, str extrema_kind"
)
STATISTICS = "Tensor mask, Tensor slack_sums, Tensor extrema, Tensor indices"
_FORWARD = f"(Tensor x, Tensor? bias, {OPTIONS}) -> (Tensor output, {STATISTICS})"
_BACKWARD = (
    "(Tensor? grad_output, Tensor? grad_slack_sums, Tensor? grad_extrema, Tensor mask, Tensor extrema,"
    " Tensor indices, SymInt[] size, bool channels_last, ScalarType dtype, bool with_grad_bias,"
    f" {OPTIONS}) -> (Tensor grad_x, Tensor grad_bias)"
)
# Below autograd: eager code (csrc/eager.cpp) adds its node; other callers overwrite with a copy.
_INPLACE = f"(Tensor(a!) x, Tensor? bias, {OPTIONS}) -> ({STATISTICS})"

LIBRARY = Library("jumpstart_kernels", "DEF")


Forward = Callable[[Tensor, Tensor | None, Options], ForwardResult]
Backward = Callable[[Gradients, Saved, Options], InputGradients]


def _fake_forward(x: Tensor, bias: Tensor | None, options: Options) -> ForwardResult:
    layout = make_layout(x.shape, options.unit_dim, runs_channels_last(x, options.unit_dim))
    count = layout.units + point_count(x.shape, options.unit_dim, options.position_points)
    dtype = statistics_dtype(x.dtype)
    with_output = options.activation != NONE
    return ForwardResult(
        empty_output(x) if with_output else x.new_empty(0),
        x.new_empty(mask_shape(layout) if with_output else (0, 0), dtype=torch.uint8),
        x.new_empty(SUMS_SHAPE, dtype=dtype),
        x.new_empty((2, count), dtype=dtype),
        x.new_empty((2, count), dtype=torch.int64),
    )


def _fake_backward(gradients: Gradients, saved: Saved, options: Options) -> InputGradients:
    like: dict[str, Any] = {"dtype": saved.dtype, "device": saved.extrema.device}
    memory_format = dense_format(len(saved.size), saved.channels_last)
    grad_bias = torch.empty(saved.size[options.unit_dim], **like) if saved.with_grad_bias else None
    return InputGradients(torch.empty(saved.size, memory_format=memory_format, **like), grad_bias)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, bias, *options = inputs
    result, named = ForwardResult(*output), Options(*options)
    unused = [result.output] if named.activation == NONE else []
    ctx.mark_non_differentiable(result.mask, result.indices, *unused)
    save_for_backward(ctx, x, bias, result, named)


def make_backward(overload: torch._ops.OpOverload) -> Callable[..., Any]:
    """The autograd formula of a forward, for either operator: its second input is a bias, or a weight."""

    def backward(ctx, *grads):
        by_name = ForwardResult(*grads)
        gradients = Gradients(by_name.output, by_name.slack_sums, by_name.extrema)
        without_gradient = (None,) * len(Options._fields)
        if all(gradient is None for gradient in gradients):
            return None, None, *without_gradient
        return *overload(*gradients, *saved_arguments(ctx)), *without_gradient

    return backward


def _any_layout(forward: Forward) -> Forward:
    """Let a kernel for dense tensors accept any strides, with the output in the layout of ``F.relu``."""

    def forward_any_layout(x: Tensor, bias: Tensor | None, options: Options) -> ForwardResult:
        _check_activation(options)
        if bias is not None:
            check_bias(bias, x, options.unit_dim)
            bias = bias.contiguous()
        if is_dense(x, options.unit_dim):
            return forward(x, bias, options)
        dense = empty_output(x)
        if is_dense(dense, options.unit_dim):
            result = forward(dense.copy_(x), bias, options)
        else:
            result = forward(x.contiguous(), bias, options)
        if options.activation != NONE and result.output.stride() != dense.stride():
            result = result._replace(output=dense.copy_(result.output))
        return result

    return forward_any_layout


def _any_gradient(backward: Backward) -> Backward:
    """Let a kernel for dense tensors accept a gradient of any strides."""

    def backward_any_gradient(gradients: Gradients, saved: Saved, options: Options) -> InputGradients:
        _check_activation(options)
        if options.activation == NONE and gradients.output is not None:
            raise ValueError(f"grad_output must be None for activation {NONE!r}, which has no output")
        memory_format = dense_format(len(saved.size), saved.channels_last)
        grad_x, grad_bias = backward(dense_gradients(gradients, saved), saved, options)
        return InputGradients(grad_x.contiguous(memory_format=memory_format), grad_bias)

    return backward_any_gradient


def _check_activation(options: Options) -> None:
    names = (*ACTIVATIONS, NONE)
    if options.activation not in names:
        raise ValueError(
            f"activation must be one of {', '.join(map(repr, names))}, got {options.activation!r}"
        )


def flat_forward(forward: Forward) -> Callable[..., ForwardResult]:
    """Adapt a forward to the dispatcher's flat arguments."""
    return lambda x, bias, *options: forward(x, bias, Options(*options))


def _flat_backward(backward: Backward) -> Callable[..., InputGradients]:
    """Likewise for a backward."""
    return lambda *arguments: backward(*split_backward(arguments, Saved))


def _register(backend: Backend) -> torch._ops.OpOverload:
    forward = backward = None
    if backend.kernels is not None:
        forward = flat_forward(_any_layout(backend.kernels.jumpstart_activation_forward))
        backward = _flat_backward(_any_gradient(backend.kernels.jumpstart_activation_backward))
    return register(
        LIBRARY,
        backend.name,
        Function("jumpstart_activation", _FORWARD, flat_forward(_fake_forward), forward),
        Function("jumpstart_activation_backward", _BACKWARD, _flat_backward(_fake_backward), backward),
        definition=_flat_backward(reference.jumpstart_activation_backward),
        make_backward=make_backward,
        setup_context=_setup_context,
    )


native.when_loaded(lambda: LIBRARY.define("jumpstart_activation_.native" + _INPLACE))
OVERLOADS = register_backends(BACKENDS.values(), _register)
