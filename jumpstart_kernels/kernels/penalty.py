"""The penalty over all layers, from their slack sums: the reference of ``csrc/penalty.cpp``."""

import torch
from torch import Tensor

LAYER_SUMS = 10  # of a layer: [2, 5]


def check_penalty(slack_sums: list[Tensor], weights: list[float]) -> None:
    """Raise for arguments that the operator does not take."""
    if not slack_sums:
        raise ValueError("slack_sums must hold a layer's, got none")
    if len(weights) != LAYER_SUMS:
        raise ValueError(f"weights must be {LAYER_SUMS} numbers, got {len(weights)}")
    first = slack_sums[0]
    for sums in slack_sums:
        if sums.numel() != LAYER_SUMS or sums.dtype != first.dtype or sums.device != first.device:
            raise ValueError(
                "slack_sums must be of shape [2, 5], one dtype and one device, got "
                f"{list(sums.shape)} of {sums.dtype} on {sums.device}"
            )


def penalty(slack_sums: list[Tensor], weights: list[float], square_root: bool) -> Tensor:
    """Weighted sum of all layers' ``[2, 5]`` slack sums, 0-dim, or its square root with gradient 0 at 0.

    Args:
        slack_sums: of each layer, of one dtype and device.
        weights: ten, of the entries of ``[2, 5]``. An entry without weight stays out, even if not finite.
    """
    total = torch.stack(slack_sums).sum(0).flatten()
    weighted = [weight * total[i] for i, weight in enumerate(weights) if weight]
    value = torch.stack(weighted).sum() if weighted else total.new_zeros(())
    if not square_root:
        return value
    nonzero = value != 0
    return torch.where(nonzero, torch.where(nonzero, value, 1.0).sqrt(), value)


def penalty_backward(grad: Tensor, value: Tensor | None, weights: list[float]) -> Tensor:
    """Gradient ``[2, 5]`` of every layer's slack sums; ``value`` is the penalty if it is a square root."""
    if value is not None:
        nonzero = value != 0
        grad = torch.where(nonzero, grad / (2 * torch.where(nonzero, value, 1.0)), 0.0)
    return grad * torch.tensor(weights, dtype=grad.dtype, device=grad.device).view(2, 5)
