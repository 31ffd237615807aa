"""``leaky_relu(x) = x`` where ``x`` is positive, else ``x`` times the negative slope, its parameter."""

import torch
from torch import Tensor

from jumpstart_kernels.ops.activations.base import Activation


def value(x: Tensor, parameter: float, inplace: bool) -> Tensor:
    return torch.nn.functional.leaky_relu(x, parameter, inplace)


def gradient(grad_output: Tensor, positive: Tensor, parameter: float) -> Tensor:
    return torch.where(positive, grad_output, grad_output * parameter)


LEAKY_RELU = Activation("leaky_relu", value, gradient)
