"""PyTorch's own activations, with which the operator's are compared: nothing of the package."""

from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor


class Definition(NamedTuple):
    """An activation of PyTorch's."""

    function: Callable[..., Tensor]  # (x, parameter)
    slope: Callable[[float], float]  # of negative values, from the parameter; that of positive ones is 1
    parameters: tuple[float, ...]  # to test with; the first has few binary digits


DEFINITIONS = {
    "relu": Definition(lambda x, parameter: F.relu(x), lambda parameter: 0.0, (0.0,)),
    "leaky_relu": Definition(F.leaky_relu, lambda parameter: parameter, (0.25, 0.01, -0.5, 2.0)),
}
