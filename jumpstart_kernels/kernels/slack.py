"""Slack: how far an extremum is from where a healthy unit or point has it (Eqs. 3-6 of the paper).

``s⁺ = relu(margin − max)`` is positive while a unit is dead or nearly so, ``s⁻ = relu(margin + min)``
while it is linear or nearly so. Riera Molina et al., IEEE Access 13, 2025, doi 10.1109/ACCESS.2025.3591313.
"""

import torch
from torch import Tensor


def slacks(extrema: Tensor, margin: float | Tensor) -> Tensor:
    """``[2, K]`` maxima and minima to ``[2, K]`` s⁺ and s⁻; one margin, or ``[K]``."""
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
    counts = torch.tensor([units, points], device=extrema.device)
    grad = grad_slack_sums.T.repeat_interleave(counts, 1, output_size=units + points)  # [5, C + P]
    return extremum_gradients(extrema, grad, margin)


def extremum_gradients(extrema: Tensor, grad: Tensor, margin: float | Tensor) -> Tensor:
    """Gradient of ``[2, K]`` extrema, from the ``[5, K]`` or ``[5, 1]`` gradient of the sums they are in."""
    positive, negative = slacks(extrema, margin).unbind(0)
    by_positive = grad[0] + 2 * _weighted(grad[2], positive) + _weighted(grad[4], negative)
    by_negative = grad[1] + 2 * _weighted(grad[3], negative) + _weighted(grad[4], positive)
    return torch.stack(
        [torch.where(positive == 0, 0.0, -by_positive), torch.where(negative == 0, 0.0, by_negative)]
    )


def _product(one: Tensor, other: Tensor) -> Tensor:
    """Of two slacks, which is zero where one of them is, also beside an infinite one.

    An infinite product has no gradient: that would be NaN in all sums, those outside of the loss included.
    """
    zero, infinite = (one == 0) | (other == 0), one.isinf() | other.isinf()
    plain = zero | infinite
    product = torch.where(plain, 0.0, one) * torch.where(plain, 0.0, other)
    return torch.where(infinite & ~zero, torch.inf, product)


def _weighted(grad: Tensor, slack: Tensor) -> Tensor:
    """``grad * slack``, where a sum that is not in the loss stays out of it beside an infinite slack too."""
    return grad * torch.where((grad == 0) & slack.isinf(), 0.0, slack)
