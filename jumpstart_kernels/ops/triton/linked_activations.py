"""What is peculiar to a linked activation, ``cat(g(x), g(−x))``: a branch of each function, by its name.

The counterpart of ``ops/activations/linked_*.py``. Numbers are float32, or float64 for float64.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from jumpstart_kernels.ops.activations import LINKED_ACTIVATIONS
from jumpstart_kernels.ops.triton.exponential import exponentials

SELU_SCALE: tl.constexpr = tl.constexpr(1.0507009873554804934193349852946)
SELU_SCALE_ALPHA: tl.constexpr = tl.constexpr(1.7580993408473768599402175208123)


class Halves(NamedTuple):
    """Something of ``g(x)``, and of ``g(−x)``."""

    first: Any
    second: Any


@triton.constexpr_function
def is_linked(activation):
    return activation in LINKED_ACTIVATIONS


@triton.jit
def linked_values(x, slopes: Halves, ACTIVATION: tl.constexpr, dtype: tl.constexpr):
    """Both halves of the output, which is rounded to dtype; the slopes broadcast with x."""
    if ACTIVATION == "linked_relu":
        first, second = tl.where(x <= 0, 0.0, x), tl.where(x >= 0, 0.0, -x)
    elif ACTIVATION == "linked_prelu":
        first = tl.where(x > 0, x, slopes.first * x)
        second = tl.where(x < 0, -x, slopes.second * -x)
    elif ACTIVATION == "linked_selu":
        size = tl.abs(x)
        _, decay_less_one = exponentials(-size, dtype)
        large, small = size * SELU_SCALE, decay_less_one * SELU_SCALE_ALPHA
        first, second = tl.where(x > 0, large, small), tl.where(x < 0, large, small)
    elif ACTIVATION == "linked_silu":
        size = tl.abs(x)
        sigmoid, of_negative = sigmoids(size, dtype)
        large, small = size * sigmoid, -size * of_negative
        first, second = tl.where(x > 0, large, small), tl.where(x > 0, small, large)
    else:
        tl.static_assert(False, "unknown activation")
    return Halves(first=first, second=second)


@triton.jit
def linked_gradient(
    gradients: Halves,  # of the output
    x,  # None where signs are enough
    passes: Halves,  # unless x <= 0, and unless −x <= 0; None where x is needed
    slopes: Halves,
    ACTIVATION: tl.constexpr,
    dtype: tl.constexpr,
):
    """The gradient of x, which is rounded to dtype."""
    if ACTIVATION == "linked_relu":
        first = tl.where(passes.first, gradients.first, 0.0)
        second = tl.where(passes.second, gradients.second, 0.0)
    elif ACTIVATION == "linked_prelu":
        first = gradients.first * tl.where(x > 0, 1.0, slopes.first)
        second = gradients.second * tl.where(x < 0, 1.0, slopes.second)
    elif ACTIVATION == "linked_selu":
        decay, _ = exponentials(-tl.abs(x), dtype)
        small = decay * SELU_SCALE_ALPHA
        large = tl.full(small.shape, SELU_SCALE, small.dtype)
        first = gradients.first * tl.where(x <= 0, small, large)
        second = gradients.second * tl.where(x >= 0, small, large)
    elif ACTIVATION == "linked_silu":
        size = tl.abs(x)
        sigmoid, of_negative = sigmoids(size, dtype)
        large, small = sigmoid * (1 + size * of_negative), of_negative * (1 - size * sigmoid)
        first = gradients.first * tl.where(x > 0, large, small)
        second = gradients.second * tl.where(x > 0, small, large)
    else:
        tl.static_assert(False, "unknown activation")
    return first - second


@triton.jit
def linked_slope_gradients(gradients: Halves, x):
    """What an element adds to the gradients of its slopes."""
    return Halves(
        first=gradients.first * tl.where(x > 0, 0.0, x), second=gradients.second * tl.where(x < 0, 0.0, -x)
    )


@triton.jit
def sigmoids(size, dtype: tl.constexpr):
    """Of numbers that are not negative, and of these negated."""
    decay, _ = exponentials(-size, dtype)
    sigmoid = 1 / (1 + decay)
    return sigmoid, decay * sigmoid
