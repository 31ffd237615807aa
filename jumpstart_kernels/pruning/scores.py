"""Which weights a mask keeps."""

import logging
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from jumpstart_kernels.pruning.masked_weights import MaskedWeight
from jumpstart_kernels.pruning.ratios import split_kept


def by_magnitude(weights: Sequence[MaskedWeight], seed: int) -> list[Tensor]:
    """Raises ValueError if a weight is NaN, which has no order."""
    scores = [weight.parameter.detach().abs().flatten().cpu() for weight in weights]
    for weight, score in zip(weights, scores, strict=True):
        if score.isnan().any():
            raise ValueError(f"model: a weight of {weight.name!r} is NaN, which has no magnitude")
    return scores


def by_chance(weights: Sequence[MaskedWeight], seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    sizes = [weight.parameter.numel() for weight in weights]
    order = torch.randperm(sum(sizes), generator=generator)  # without ties
    return list(order.split(sizes))


STARVED = 0.1  # a layer's density over that of all, from which on it is said

logger = logging.getLogger("jumpstart_kernels")

METHODS: dict[str, Callable[[Sequence[MaskedWeight], int], list[Tensor]]] = {
    "magnitude": by_magnitude,
    "random": by_chance,
}
"""Scores of weights, flat, on the CPU: those of the highest are kept."""


def choose(weights: Sequence[MaskedWeight], kept: int, method: str, ratios: str, seed: int) -> list[Tensor]:
    """New masks, which keep none that the present masks do not keep, and at least one in each layer.

    Returns:
        For each weight, bool, of its shape, on the CPU.

    Raises:
        ValueError: the present masks have left a layer fewer weights than its share.
    """
    shapes = [weight.parameter.shape for weight in weights]
    masks = [weight.mask.flatten().cpu() for weight in weights]
    scores = METHODS[method](weights, seed)
    if ratios == "global":
        chosen = _largest_of_all(scores, masks, kept)
        _tell_of_starved(weights, chosen)
    else:
        counts = split_kept(shapes, kept, ratios)
        for weight, mask, count in zip(weights, masks, counts, strict=True):
            if count > (left := int(mask.sum())):
                raise ValueError(
                    f"sparsity: ratios {ratios!r} keep {count:,} weights of {weight.name!r}, "
                    f"of which its mask has left {left:,}"
                )
        chosen = [_largest(*each) for each in zip(scores, masks, counts, strict=True)]
    return [mask.view(shape) for mask, shape in zip(chosen, shapes, strict=True)]


def _tell_of_starved(weights: Sequence[MaskedWeight], masks: Sequence[Tensor]) -> None:
    """Log the layers of which almost nothing is left, such as those initialized at a smaller scale."""
    density = sum(int(mask.sum()) for mask in masks) / sum(len(mask) for mask in masks)
    starved = [
        f"{weight.name} ({int(mask.sum()):,} of {len(mask):,} weights)"
        for weight, mask in zip(weights, masks, strict=True)
        if int(mask.sum()) < STARVED * density * len(mask)
    ]
    if starved:
        logger.warning(
            "global ratios leave almost nothing of %s: name it in skip, or choose ratios='layer' or 'erk'",
            ", ".join(starved),
        )


def _largest_of_all(scores: Sequence[Tensor], masks: Sequence[Tensor], kept: int) -> list[Tensor]:
    """First the largest of each layer, then the largest of all."""
    firsts = [_largest(score, mask, 1) for score, mask in zip(scores, masks, strict=True)]
    first = torch.cat(firsts)
    rest = _largest(torch.cat(list(scores)), torch.cat(list(masks)) & ~first, kept - int(first.sum()))
    return list((first | rest).split([len(score) for score in scores]))


def _largest(scores: Tensor, mask: Tensor, count: int) -> Tensor:
    """The ``count`` largest scores in the mask, of equal ones the first: bool, flat."""
    places = mask.nonzero()[:, 0]
    order = scores[places].sort(descending=True, stable=True).indices
    chosen = torch.zeros_like(mask)
    chosen[places[order[:count]]] = True
    return chosen
