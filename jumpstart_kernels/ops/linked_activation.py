"""Schema, fakes and autograd of the operator ``jumpstart_kernels::linked_activation``.

Riera Molina, Pujol, *Solving internal covariate shift in deep learning with linked neurons*, arXiv
1712.02609. As :mod:`~jumpstart_kernels.ops.jumpstart_activation`, each backend is an overload.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jumpstart_kernels.ops import reference
from jumpstart_kernels.ops.activations import LINKED_ACTIVATIONS
from jumpstart_kernels.ops.arguments import (
    EXTREMA_KINDS,
    NO_STATISTICS,
    ForwardResult,
    Gradients,
    LinkedInputGradients,
    LinkedSaved,
    Options,
    dense_gradients,
    split_backward,
    weight_goes_with,
)
from jumpstart_kernels.ops.backends import BACKENDS, Backend
from jumpstart_kernels.ops.jumpstart_activation import (
    LIBRARY,
    OPTIONS,
    STATISTICS,
    flat_forward,
    make_backward,
)
from jumpstart_kernels.ops.layout import (
    dense_format,
    is_dense,
    linked_mask_shape,
    linked_size,
    make_layout,
    point_count,
    runs_channels_last,
    statistics_dtype,
)
from jumpstart_kernels.ops.registration import Function, register, register_backends
from jumpstart_kernels.ops.slack import SUMS_SHAPE

# In the order of the fields of Options, ForwardResult, Gradients and LinkedSaved.
_FORWARD = f"(Tensor x, Tensor? weight, {OPTIONS}) -> (Tensor output, {STATISTICS})"
_BACKWARD = (
    "(Tensor? grad_output, Tensor? grad_slack_sums, Tensor? grad_extrema, Tensor? x, Tensor? weight,"
    " Tensor mask, Tensor extrema, Tensor indices, SymInt[] size, bool channels_last, ScalarType dtype,"
    f" bool with_grad_weight, {OPTIONS}) -> (Tensor grad_x, Tensor grad_weight)"
)

Forward = Callable[[Tensor, Tensor | None, Options], ForwardResult]
Backward = Callable[[Gradients, LinkedSaved, Options], LinkedInputGradients]


def _fake_forward(x: Tensor, weight: Tensor | None, options: Options) -> ForwardResult:
    channels_last = runs_channels_last(x, options.unit_dim)
    layout = make_layout(x.shape, options.unit_dim, channels_last)
    dtype = statistics_dtype(x.dtype)
    from_sign = LINKED_ACTIVATIONS[options.activation].from_sign
    sums_shape: tuple[int, ...] = (0,)
    count = 0
    if options.extrema_kind != NO_STATISTICS:
        sums_shape = SUMS_SHAPE
        count = layout.units + point_count(x.shape, options.unit_dim, options.position_points)
    return ForwardResult(
        torch.empty(
            linked_size(x.shape, options.unit_dim),
            dtype=x.dtype,
            device=x.device,
            memory_format=dense_format(x.dim(), channels_last),
        ),
        x.new_empty(linked_mask_shape(layout) if from_sign else (0, 0), dtype=torch.uint8),
        x.new_empty(sums_shape, dtype=dtype),
        x.new_empty((2, count), dtype=dtype),
        x.new_empty((2, count), dtype=torch.int64),
    )


def _fake_backward(gradients: Gradients, saved: LinkedSaved, options: Options) -> LinkedInputGradients:
    like: dict[str, Any] = {"dtype": saved.dtype, "device": saved.mask.device}
    memory_format = dense_format(len(saved.size), saved.channels_last)
    grad_weight = torch.empty((2, saved.size[options.unit_dim]), **like) if saved.with_grad_weight else None
    return LinkedInputGradients(torch.empty(saved.size, memory_format=memory_format, **like), grad_weight)


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    x, weight, *flat = inputs
    result, options = ForwardResult(*output), Options(*flat)
    without_gradient = [result.mask, result.indices]
    if options.extrema_kind == NO_STATISTICS:
        without_gradient += [result.slack_sums, result.extrema]
    ctx.mark_non_differentiable(*without_gradient)
    ctx.set_materialize_grads(False)
    from_sign = LINKED_ACTIVATIONS[options.activation].from_sign
    ctx.save_for_backward(
        None if from_sign else x, weight, result.mask, result.extrema, result.indices
    )  # the first fields of LinkedSaved
    with_grad_weight = weight is not None and ctx.needs_input_grad[1]
    ctx.constants = (x.shape, runs_channels_last(x, options.unit_dim), x.dtype, with_grad_weight, *options)


def _any_layout(forward: Forward) -> Forward:
    """Let a kernel for dense tensors accept any strides."""

    def forward_any_layout(x: Tensor, weight: Tensor | None, options: Options) -> ForwardResult:
        _check(x, weight, options)
        if not is_dense(x, options.unit_dim):
            x = x.contiguous(memory_format=dense_format(x.dim(), runs_channels_last(x, options.unit_dim)))
        return forward(x, None if weight is None else weight.contiguous(), options)

    return forward_any_layout


def _any_gradient(backward: Backward) -> Backward:
    """Let a kernel for dense tensors accept gradients and inputs of any strides."""

    def backward_any_gradient(
        gradients: Gradients, saved: LinkedSaved, options: Options
    ) -> LinkedInputGradients:
        _check_activation(options)
        _check_gradient(gradients.output, saved, options)
        memory_format = dense_format(len(saved.size), saved.channels_last)
        if saved.x is not None:
            saved = saved._replace(x=saved.x.contiguous(memory_format=memory_format))
        if saved.weight is not None:
            saved = saved._replace(weight=saved.weight.contiguous())
        grad_x, grad_weight = backward(dense_gradients(gradients, saved), saved, options)
        return LinkedInputGradients(grad_x.contiguous(memory_format=memory_format), grad_weight)

    return backward_any_gradient


def _check(x: Tensor, weight: Tensor | None, options: Options) -> None:
    _check_activation(options)
    kinds = (*EXTREMA_KINDS, NO_STATISTICS)
    if options.extrema_kind not in kinds:
        allowed = ", ".join(map(repr, kinds))
        raise ValueError(f"extrema_kind must be one of {allowed}, got {options.extrema_kind!r}")
    units = x.shape[options.unit_dim]
    has_weight = LINKED_ACTIVATIONS[options.activation].slope_derivative is not None
    if has_weight != (weight is not None):
        wanted = f"of shape [2, {units}]" if has_weight else "None"
        raise ValueError(f"weight must be {wanted} for {options.activation!r}")
    if weight is not None and not weight_goes_with(weight, x, options.unit_dim):
        raise ValueError(
            f"weight must have shape [2, {units}], and the dtype and device of x, {x.dtype} {x.device}, got "
            f"shape {list(weight.shape)} {weight.dtype} {weight.device}"
        )


def _check_gradient(grad: Tensor | None, saved: LinkedSaved, options: Options) -> None:
    size = linked_size(saved.size, options.unit_dim)
    if grad is not None and (list(grad.shape) != size or grad.dtype != saved.dtype):
        raise ValueError(
            f"grad_output must have the shape and dtype of the output, {size} {saved.dtype}, got "
            f"{list(grad.shape)} {grad.dtype}"
        )


def _check_activation(options: Options) -> None:
    if options.activation not in LINKED_ACTIVATIONS:
        allowed = ", ".join(map(repr, LINKED_ACTIVATIONS))
        raise ValueError(f"activation must be one of {allowed}, got {options.activation!r}")


def _flat_backward(backward: Backward) -> Callable[..., LinkedInputGradients]:
    """Adapt a backward to the dispatcher's flat arguments."""
    return lambda *arguments: backward(*split_backward(arguments, LinkedSaved))


def _register(backend: Backend) -> torch._ops.OpOverload:
    forward = backward = None
    if backend.kernels is not None:
        forward = flat_forward(_any_layout(backend.kernels.linked_activation_forward))
        backward = _flat_backward(_any_gradient(backend.kernels.linked_activation_backward))
    return register(
        LIBRARY,
        backend.name,
        Function("linked_activation", _FORWARD, flat_forward(_fake_forward), forward),
        Function("linked_activation_backward", _BACKWARD, _flat_backward(_fake_backward), backward),
        definition=_flat_backward(reference.linked_activation_backward),
        make_backward=make_backward,
        setup_context=_setup_context,
    )


LINKED_OVERLOADS = register_backends(BACKENDS.values(), _register)
