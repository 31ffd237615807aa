"""The operator ``jumpstart_kernels::penalty``: all layers' slack sums to one number, with one backward.

A thin network would spend more on the small operations of the reference than on its layers. ``native`` brings
its kernels and its autograd node from C++; ``triton`` has both from here.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.library import Library

from jumpstart_kernels.kernels import native, triton
from jumpstart_kernels.kernels.penalty import penalty_backward
from jumpstart_kernels.ops.differentiable import differentiable

_library = Library("jumpstart_kernels", "FRAGMENT")


def _fake_penalty(slack_sums: list[Tensor], weights: list[float], square_root: bool) -> Tensor:
    return slack_sums[0].new_empty(())


def _fake_penalty_backward(grad: Tensor, value: Tensor | None, weights: list[float]) -> Tensor:
    return grad.new_empty((2, 5))


def _save_for_backward(ctx, inputs, output):
    slack_sums, ctx.weights, square_root = inputs
    ctx.layers = len(slack_sums)
    ctx.save_for_backward(*([output] if square_root else []))


def _make_backward(overload: torch._ops.OpOverload) -> Callable:
    def backward(ctx, grad):
        by_sum = overload(grad, *(ctx.saved_tensors or (None,)), ctx.weights)
        return [by_sum] * ctx.layers, None, None  # the same for every layer

    return backward


def _register(backend: str) -> torch._ops.OpOverload:
    name, backward_name = f"penalty.{backend}", f"penalty_backward.{backend}"
    _library.define(name + "(Tensor[] slack_sums, float[] weights, bool square_root) -> Tensor")
    _library.define(backward_name + "(Tensor grad, Tensor? value, float[] weights) -> Tensor")
    forward = getattr(torch.ops.jumpstart_kernels.penalty, backend)
    backward = getattr(torch.ops.jumpstart_kernels.penalty_backward, backend)
    torch.library.register_fake(f"jumpstart_kernels::{name}", _fake_penalty, lib=_library)
    torch.library.register_fake(f"jumpstart_kernels::{backward_name}", _fake_penalty_backward, lib=_library)
    _library.impl(backward_name, differentiable(backward, penalty_backward), "Autograd")
    if backend == "triton":
        key = "CompositeExplicitAutograd"  # any device: the choice of backend has looked at it
        _library.impl(name, triton.penalty, key)
        _library.impl(backward_name, triton.penalty_backward, key)
        torch.library.register_autograd(
            f"jumpstart_kernels::{name}",
            _make_backward(backward),
            setup_context=_save_for_backward,
            lib=_library,
        )
    return forward


_BUILT = ["triton", *(["native"] if native.extension() is not None else [])]
OVERLOADS = {backend: _register(backend) for backend in _BUILT}
