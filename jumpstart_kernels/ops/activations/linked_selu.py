"""``linked_selu(x) = cat(selu(x), selu(−x))``; SELU: Klambauer et al., arXiv 1706.02515, Eq. 2."""

import torch
from torch import Tensor

from jumpstart_kernels.ops.activations.base import LinkedActivation

_ALPHA = 1.6732632423543772848170429916717
_SCALE = 1.0507009873554804934193349852946


def value(x: Tensor, slope: None) -> Tensor:
    return torch.nn.functional.selu(x)


def derivative(x: Tensor, slope: None) -> Tensor:
    # Clamped: an infinity in the branch that is not taken would make a NaN of the second derivative.
    return torch.where(x <= 0, _SCALE * _ALPHA * x.clamp(max=0).exp(), _SCALE)


LINKED_SELU = LinkedActivation("linked_selu", value, derivative)
