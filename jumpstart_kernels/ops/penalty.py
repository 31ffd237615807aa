"""The operator ``jumpstart_kernels::penalty``: all layers' slack sums to one number, with one backward.

Its only overload is ``native``, with kernels and autograd node from C++: a thin network would spend more on
the small operations of the reference than on its layers.
"""

import torch
from torch import Tensor
from torch.library import Library

from jumpstart_kernels.kernels import native
from jumpstart_kernels.kernels.penalty import penalty_backward
from jumpstart_kernels.ops.differentiable import differentiable

_library = Library("jumpstart_kernels", "FRAGMENT")


def _fake_penalty(slack_sums: list[Tensor], weights: list[float], square_root: bool) -> Tensor:
    return slack_sums[0].new_empty(())


def _fake_penalty_backward(grad: Tensor, value: Tensor | None, weights: list[float]) -> Tensor:
    return grad.new_empty((2, 5))


def _register() -> torch._ops.OpOverload:
    _library.define("penalty.native(Tensor[] slack_sums, float[] weights, bool square_root) -> Tensor")
    _library.define("penalty_backward.native(Tensor grad, Tensor? value, float[] weights) -> Tensor")
    torch.library.register_fake("jumpstart_kernels::penalty.native", _fake_penalty, lib=_library)
    torch.library.register_fake(
        "jumpstart_kernels::penalty_backward.native", _fake_penalty_backward, lib=_library
    )
    backward = torch.ops.jumpstart_kernels.penalty_backward.native
    _library.impl("penalty_backward.native", differentiable(backward, penalty_backward), "Autograd")
    return torch.ops.jumpstart_kernels.penalty.native


OVERLOADS = {"native": _register()} if native.extension() is not None else {}
