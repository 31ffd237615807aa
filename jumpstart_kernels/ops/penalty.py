"""The operator ``jumpstart_kernels::penalty``: all layers' slack sums to one number, with one backward.

A thin network would spend more on the reference's small operations than on its layers. ``native`` has its
kernels and autograd node in C++; for ``triton`` both are defined here.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.library import Library

from jumpstart_kernels.ops import reference
from jumpstart_kernels.ops.arguments import penalty_gradients, save_penalty
from jumpstart_kernels.ops.backends import BACKENDS, Backend
from jumpstart_kernels.ops.registration import Function, register, register_backends
from jumpstart_kernels.ops.slack import SUMS_SHAPE

_FORWARD = "(Tensor[] slack_sums, float[] weights, bool square_root) -> Tensor"
_BACKWARD = "(Tensor grad, Tensor? value, float[] weights) -> Tensor"

_library = Library("jumpstart_kernels", "FRAGMENT")


def _fake_penalty(slack_sums: list[Tensor], weights: list[float], square_root: bool) -> Tensor:
    return slack_sums[0].new_empty(())


def _fake_penalty_backward(grad: Tensor, value: Tensor | None, weights: list[float]) -> Tensor:
    return grad.new_empty(SUMS_SHAPE)


def _setup_context(ctx, inputs, output):
    slack_sums, weights, square_root = inputs
    save_penalty(ctx, len(slack_sums), weights, output if square_root else None)


def _make_backward(overload: torch._ops.OpOverload) -> Callable:
    def backward(ctx, grad):
        return penalty_gradients(ctx, grad, overload), None, None

    return backward


def _register(backend: Backend) -> torch._ops.OpOverload:
    kernels = backend.kernels
    return register(
        _library,
        backend.name,
        Function("penalty", _FORWARD, _fake_penalty, None if kernels is None else kernels.penalty),
        Function(
            "penalty_backward",
            _BACKWARD,
            _fake_penalty_backward,
            None if kernels is None else kernels.penalty_backward,
        ),
        definition=reference.penalty_backward,
        make_backward=_make_backward,
        setup_context=_setup_context,
    )


# The reference is not an operator, so that PyTorch and its compiler can trace through it.
OVERLOADS = register_backends(
    (backend for backend in BACKENDS.values() if backend.kernels is not reference), _register
)
