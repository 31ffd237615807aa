"""What a network is like inside: dead, linear and dormant units, the effective rank of its features."""

from collections.abc import Sequence

import torch
from torch import Tensor

DORMANT = 0.025  # a unit is dormant up to this share of its layer's mean activity
EPSILON = 1e-9


def dead_units(pre_activations: Sequence[Tensor], linked: bool = False) -> Tensor:
    """The fraction of units that are never positive, ``[K]``. NaN counts as dead.

    Args:
        pre_activations: of each layer, ``[K, units, N]``.
        linked: whether the output has ``relu(-z)`` too; such a unit is dead only if it is zero everywhere.
    """
    dead = [~((z.abs() if linked else z).amax(2) > 0) for z in pre_activations]
    return torch.stack(dead, 1).double().mean((1, 2))


def linear_units(pre_activations: Sequence[Tensor], linked: bool = False) -> Tensor:
    """The fraction of units that are always positive, or for linked ones always of one sign, ``[K]``."""
    linear = [z.amin(2) > 0 for z in pre_activations]
    if linked:
        linear = [all_ | (z.amax(2) < 0) for all_, z in zip(linear, pre_activations, strict=True)]
    return torch.stack(linear, 1).double().mean((1, 2))


def activity(features: Tensor) -> Tensor:
    """Sokar's score of each unit: its mean absolute output over its layer's mean, ``[K, width]``.

    Args:
        features: outputs of a layer, ``[K, width, N]``.
    """
    means = features.abs().mean(2)
    return means / (means.mean(1, keepdim=True) + EPSILON)


def dormant_units(features: Sequence[Tensor], threshold: float = DORMANT) -> Tensor:
    """The fraction of outputs with a score of at most the threshold, ``[K]``. NaN counts as dormant."""
    dormant = [~(activity(of_layer) > threshold) for of_layer in features]
    return torch.stack(dormant, 1).double().mean((1, 2))


def effective_rank(features: Tensor) -> Tensor:
    """The exponential of the entropy of the normalized singular values (Roy and Vetterli, 2007), ``[K]``.

    Args:
        features: ``[K, width, N]``. Zeros have rank 0; values that are not finite count as zeros.
    """
    x = features.double().nan_to_num(0, 0, 0)
    largest = x.abs().amax((1, 2), keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    singular = torch.linalg.eigvalsh((x / largest) @ (x / largest).mT).clamp(min=0).sqrt()
    shares = singular / singular.sum(1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    return torch.special.entr(shares).sum(1).exp() * (singular.sum(1) > 0)


def pre_activation_scale(pre_activations: Sequence[Tensor]) -> Tensor:
    """The mean absolute pre-activation over all layers, ``[K]``."""
    return torch.stack([z.abs().double().mean((1, 2)) for z in pre_activations], 1).mean(1)


def weight_magnitude(weights: Sequence[Tensor]) -> Tensor:
    """The mean absolute weight over all layers, ``[K]``."""
    return torch.cat([weight.flatten(1) for weight in weights], 1).abs().double().mean(1)
