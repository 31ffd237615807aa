"""``relu(x) = max(x, 0)``."""

import torch
from torch import Tensor

from jumpstart_kernels.ops.activations.base import Activation


def value(x: Tensor, parameter: float, inplace: bool) -> Tensor:
    return torch.nn.functional.relu(x, inplace)


def gradient(grad_output: Tensor, positive: Tensor, parameter: float) -> Tensor:
    return torch.where(positive, grad_output, 0.0)


RELU = Activation("relu", value, gradient)
