"""The definition of an activation in plain PyTorch."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor


class Activation(NamedTuple):
    """What is specific to an activation; everything else is the same for all."""

    name: str
    value: Callable[[Tensor, float, bool], Tensor]
    """``(x, parameter, inplace)`` to the output, as returned and differentiated by PyTorch's own function."""
    gradient: Callable[[Tensor, Tensor, float], Tensor]
    """``(grad_output, positive, parameter)`` to that of ``x``; ``positive`` is False where ``x <= 0``."""


class LinkedActivation(NamedTuple):
    """What is specific to a linked activation ``f(x) = cat(g(x), g(−x))``: the function ``g``."""

    name: str
    value: Callable[[Tensor, Any], Tensor]
    """``(x, slope)`` to ``g(x)``; the slope broadcasts with ``x``, or is None if there is none."""
    derivative: Callable[[Tensor, Any], Tensor]
    """``(x, slope)`` to ``g'(x)``."""
    from_sign: bool = False
    """Whether the derivative is 1 where ``x`` is positive and else 0, so that a mask is all it needs."""
    slope_derivative: Callable[[Tensor], Tensor] | None = None
    """``x`` to the derivative of ``g(x)`` by its slope; None if it has none."""
