"""``linked_silu(x) = cat(silu(x), silu(−x))``, where ``silu(x) = x · sigmoid(x)``, also known as Swish."""

import torch
from torch import Tensor

from jumpstart_kernels.ops.activations.base import LinkedActivation


def value(x: Tensor, slope: None) -> Tensor:
    return torch.nn.functional.silu(x)


def derivative(x: Tensor, slope: None) -> Tensor:
    return x.sigmoid() * (1 + x * (-x).sigmoid())


LINKED_SILU = LinkedActivation("linked_silu", value, derivative)
