"""``linked_prelu(x) = cat(prelu(x), prelu(−x))``, each half with slopes of its own."""

import torch
from torch import Tensor

from jumpstart_kernels.ops.activations.base import LinkedActivation


def value(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x > 0, x, slope * x)


def derivative(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x > 0, 1.0, slope)


def slope_derivative(x: Tensor) -> Tensor:
    return torch.where(x > 0, 0.0, x)


LINKED_PRELU = LinkedActivation("linked_prelu", value, derivative, slope_derivative=slope_derivative)
