"""``linked_relu(x) = cat(relu(x), relu(−x))``, also known as CReLU."""

import torch
from torch import Tensor

from jumpstart_kernels.ops.activations.base import LinkedActivation


def value(x: Tensor, slope: None) -> Tensor:
    return torch.nn.functional.relu(x)


def derivative(x: Tensor, slope: None) -> Tensor:
    return torch.where(x <= 0, 0.0, 1.0).to(x.dtype)


LINKED_RELU = LinkedActivation("linked_relu", value, derivative, from_sign=True)
