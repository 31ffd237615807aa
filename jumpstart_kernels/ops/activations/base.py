"""The definition of an activation in plain PyTorch."""

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor


class Activation(NamedTuple):
    """What is specific to an activation; everything else is the same for all."""

    name: str
    value: Callable[[Tensor, float, bool], Tensor]
    """``(x, parameter, inplace)`` to the output, as returned and differentiated by PyTorch's own function."""
    gradient: Callable[[Tensor, Tensor, float], Tensor]
    """``(grad_output, positive, parameter)`` to that of ``x``; ``positive`` is False where ``x <= 0``."""
