"""Slack: how far an extremum is from that of a healthy unit or point (Eqs. 3-6 of the paper).

``s⁺ = relu(margin − max)`` is positive while a unit is dead or nearly so, ``s⁻ = relu(margin + min)``
while it is linear or nearly so. Riera Molina et al., IEEE Access 13, 2025, doi 10.1109/ACCESS.2025.3591313.
"""

from enum import IntEnum

import torch
from torch import Tensor


class SlackSum(IntEnum):
    """The slack sums from which every form of the penalty is computed; see also ``csrc/slack.h``."""

    POSITIVE = 0  # Σs⁺
    NEGATIVE = 1  # Σs⁻
    POSITIVE_SQUARED = 2  # Σs⁺²
    NEGATIVE_SQUARED = 3  # Σs⁻²
    PRODUCT = 4  # Σs⁺s⁻


AXES = 2  # units, points
SUMS_SHAPE = (AXES, len(SlackSum))  # of a layer
LAYER_SUMS = AXES * len(SlackSum)


def slacks(extrema: Tensor, margin: float | Tensor) -> Tensor:
    """``[2, K]`` maxima and minima to ``[2, K]`` s⁺ and s⁻; the margin is a number or ``[K]``."""
    maxima, minima = extrema.unbind(0)
    return torch.stack([torch.relu(margin - maxima), torch.relu(margin + minima)])


def sum_slacks(slack: Tensor, units: int) -> Tensor:
    """``[2, C + P]`` slacks to ``[2, 5]``: for units and for points Σs⁺, Σs⁻, Σs⁺², Σs⁻², Σs⁺s⁻."""
    positive, negative = slack.unbind(0)
    squares = _product(positive, positive), _product(negative, negative)
    terms = torch.stack([positive, negative, *squares, _product(positive, negative)])
    return torch.stack([terms[:, :units].sum(1), terms[:, units:].sum(1)])


def slack_gradients(extrema: Tensor, grad_slack_sums: Tensor, units: int, margin: float) -> Tensor:
    """Gradient of ``[2, C + P]`` extrema from that of the ``[2, 5]`` sums; zero at a hinge's kink."""
    points = extrema.shape[1] - units
    of_units, of_points = grad_slack_sums[:, :, None].unbind(0)  # [5, 1]
    grad = torch.cat([of_units.expand(-1, units), of_points.expand(-1, points)], 1)
    return extremum_gradients(extrema, grad, margin)


def extremum_gradients(extrema: Tensor, grad: Tensor, margin: float | Tensor) -> Tensor:
    """Gradient of ``[2, K]`` extrema from the ``[5, K]`` or ``[5, 1]`` gradient of their slack sums."""
    positive, negative = slacks(extrema, margin).unbind(0)
    by_product = grad[SlackSum.PRODUCT]
    by_positive = grad[SlackSum.POSITIVE] + 2 * _weighted(grad[SlackSum.POSITIVE_SQUARED], positive)
    by_negative = grad[SlackSum.NEGATIVE] + 2 * _weighted(grad[SlackSum.NEGATIVE_SQUARED], negative)
    by_positive = by_positive + _weighted(by_product, negative)
    by_negative = by_negative + _weighted(by_product, positive)
    return torch.stack(
        [torch.where(positive == 0, 0.0, -by_positive), torch.where(negative == 0, 0.0, by_negative)]
    )


def _product(one: Tensor, other: Tensor) -> Tensor:
    """The product of two slacks, zero where one of them is zero, even if the other is infinite.

    An infinite product has no gradient: that would be NaN in all sums, including those not in the loss.
    """
    zero, infinite = (one == 0) | (other == 0), one.isinf() | other.isinf()
    plain = zero | infinite
    product = torch.where(plain, 0.0, one) * torch.where(plain, 0.0, other)
    return torch.where(infinite & ~zero, torch.inf, product)


def _weighted(grad: Tensor, slack: Tensor) -> Tensor:
    """``grad * slack``, with 0 · ∞ = 0, so that a sum not in the loss does not contribute."""
    return grad * torch.where((grad == 0) & slack.isinf(), 0.0, slack)
