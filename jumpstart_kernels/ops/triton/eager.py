"""The Triton backend's shortcut for eager code, bypassing the dispatcher's Python; see ``csrc/eager.cpp``.

PyTorch's autograd of a Python operator takes several times as long as the rest of a call. If a mode,
transform, tracer, subclass or compiler is active, these return None, and backward calls the operator. Unlike
there, function modes count: under ``torch.set_default_device`` calls go through the operator.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch._C import (
    _are_functorch_transforms_active,
    _get_tracing_state,
    _len_torch_dispatch_stack,
    _len_torch_function_stack,
)
from torch._C._functorch import is_legacy_batchedtensor
from torch.autograd import forward_ad

from jumpstart_kernels.ops import triton
from jumpstart_kernels.ops.arguments import (
    Options,
    Record,
    Saved,
    are_alike,
    dense_gradients,
    goes_with,
    penalty_gradients,
    save_for_backward,
    save_penalty,
    saved_arguments,
    split_backward,
)
from jumpstart_kernels.ops.layout import is_dense

_PLAIN = (Tensor, nn.Parameter)
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


class _JumpstartActivation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, *options: Any) -> Any:
        named = Options(*options)
        result = triton.jumpstart_activation_forward(x, bias, named)
        save_for_backward(ctx, x, bias, result, named)
        return result.output, result.slack_sums, result.extrema

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        without_gradient = (None,) * len(Options._fields)
        if all(grad is None for grad in grads):
            return None, None, *without_gradient
        arguments = saved_arguments(ctx)
        if torch.is_grad_enabled() or not _are_plain(*grads):  # double backward, or batched gradients
            overload = torch.ops.jumpstart_kernels.jumpstart_activation_backward.triton
            return *overload(*grads, *arguments), *without_gradient
        gradients, saved, options = split_backward((*grads, *arguments), Saved)
        result = triton.jumpstart_activation_backward(dense_gradients(gradients, saved), saved, options)
        return *result, *without_gradient


class _Penalty(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: list[float], square_root: bool, *slack_sums: Tensor) -> Tensor:
        value = triton.penalty(list(slack_sums), weights, square_root)
        save_penalty(ctx, len(slack_sums), weights, value if square_root else None)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        backward: Any = triton.penalty_backward
        if torch.is_grad_enabled() or not _are_plain(*grads):  # likewise
            backward = torch.ops.jumpstart_kernels.penalty_backward.triton
        return None, None, *penalty_gradients(ctx, grads[0], backward)


def jumpstart_activation(
    x: Tensor,
    bias: Tensor | None,
    activation: str,
    parameter: float,
    unit_dim: int,
    position_points: bool,
    margin: float,
    inplace: bool,
    extrema_kind: str,
) -> tuple[Tensor, Record] | None:
    """Output and record."""
    dim = x.dim()
    if not _are_plain(x, bias) or dim < 2 or x.dtype not in _DTYPES or not -dim <= unit_dim < dim:
        return None
    unit_dim %= dim
    if (unit_dim == 0 and not position_points) or x.layout is not torch.strided or not is_dense(x, unit_dim):
        return None
    if bias is not None:
        if not goes_with(bias, x, unit_dim):
            return None
        bias = bias.contiguous()
    output, slack_sums, values = _JumpstartActivation.apply(
        x, bias, activation, parameter, unit_dim, position_points, margin, extrema_kind
    )
    units = x.shape[unit_dim]
    points = values.shape[1] - units if x.numel() else 0
    return (x.copy_(output) if inplace else output), Record(slack_sums, values, units, points, margin)


def penalty(records: list[Record], weights: list[float], square_root: bool) -> Tensor | None:
    """The penalty of all layers."""
    slack_sums = [record.slack_sums for record in records]
    if not _are_plain(*slack_sums) or not are_alike(slack_sums):
        return None
    return _Penalty.apply(weights, square_root, *slack_sums)


def _are_plain(*tensors: Tensor | None) -> bool:
    """Whether nothing but autograd intercepts the call, and memory holds the tensors' values."""
    if (
        torch.compiler.is_compiling()  # first: a compiler cannot trace the rest
        or _len_torch_dispatch_stack()
        or _len_torch_function_stack()
        or _get_tracing_state() is not None
        or _are_functorch_transforms_active()
        or forward_ad._current_level >= 0
    ):
        return False
    for x in tensors:
        if x is not None and (
            type(x) not in _PLAIN or x.is_nested or x.is_neg() or is_legacy_batchedtensor(x)
        ):
            return False
    return True
