"""The order in which units sort samples: sorted values, ranks, their products, pairs that are sorted alike.

Everything here counts: ranks, their squares and products are integers, exact in float64 for up to
``EXACT_SAMPLES`` samples. Results then depend neither on the sizes of chunks nor on the number of threads.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

TIES = 64.0  # units in the last place, the default of all functions
EXACT_SAMPLES = 300_000  # sums of squared ranks, samples ** 3 / 3, are then below 2 ** 53
CHUNK = 2**22  # elements that are sorted or compared at a time
BLOCK, DEPTH = 1024, 8192  # units and samples of a block of a matrix product


class Sorted(NamedTuple):
    """Values of units in ascending order, clipped to ``max(value, 0)`` if only positive ones count."""

    values: Tensor  # [units, samples]
    samples: Tensor  # int64 [units, samples], the sample of each value
    tolerance: Tensor  # [units, 1], the difference up to which two values are tied


class Ranks(NamedTuple):
    """How units rank samples at one site."""

    ranks: Tensor  # float32 [units, samples], integers: how many samples are below minus how many above
    squares: Tensor  # float64 [units], their sums of squares: 0 if all samples are tied
    tolerance: Tensor  # [units, 1]
    maximum: Tensor  # [units], of the values; of no samples −inf
    minimum: Tensor  # [units], of the values, clipped if only positive ones count; of no samples inf
    distinct: Tensor  # int64 [units], how many values count that are not tied, up to a limit


def check_values(values: Tensor, name: str, ties: float) -> Tensor:
    """``values`` without its graph.

    Raises:
        TypeError: it is no tensor of float32 or float64.
        ValueError: it is not ``[units, samples]``, or ``ties`` is negative or not finite.
    """
    if not isinstance(values, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(values).__name__}")
    if values.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name} must be float32 or float64, got {values.dtype}")
    if values.dim() != 2:
        raise ValueError(f"{name} must be [units, samples], got shape {list(values.shape)}")
    if not 0 <= ties < float("inf"):
        raise ValueError(f"ties must be a finite number that is not negative, got {ties}")
    return values.detach()


def chunks(values: Tensor) -> Iterator[slice]:
    """Units of ``[units, samples]`` to work on at a time."""
    units, samples = values.shape
    size = max(1, CHUNK // max(1, samples))
    return (slice(start, start + size) for start in range(0, units, size))


def clip(values: Tensor, positive: bool) -> Tensor:
    return values.clamp(min=0) if positive else values


def tolerances(values: Tensor, ties: float) -> Tensor:
    """``[units, 1]``: ``ties`` times the rounding unit of the largest finite magnitude of each unit.

    Samples that are not positive count too: what rounding does to a sum depends on the size of its terms.
    """
    if values.shape[1] == 0:
        return values.new_zeros(len(values), 1)
    largest = torch.where(values.isfinite(), values.abs(), 0).amax(1, keepdim=True)
    return largest * (ties * torch.finfo(values.dtype).eps)


def sort_units(values: Tensor, name: str, ties: float, positive: bool) -> Sorted:
    """Sort a chunk ``[units, samples]``; equal values stay in the order of their samples.

    Raises:
        ValueError: a value is NaN.
    """
    values = values.contiguous()
    ascending, samples = clip(values, positive).sort(dim=1, stable=True)
    if ascending[:, -1:].isnan().any():  # NaN sorts last
        raise ValueError(f"{name} must not contain NaN")
    return Sorted(ascending, samples, tolerances(values, ties))


def count_below(ascending: Tensor, tolerance: Tensor) -> Tensor:
    """int64, for each value how many are below it by more than the tolerance."""
    return torch.searchsorted(ascending, ascending - tolerance)


def rank(order: Sorted) -> Tensor:
    """float32 ``[units, samples]``: how many samples are below each by more than the tolerance, minus above.

    Of values that are equal or not tied, twice the average rank, centered.
    """
    below = count_below(order.values, order.tolerance)
    ones = torch.ones((), dtype=torch.int32, device=below.device).expand_as(below)
    # Sample i is above sample j if j is among those below i, which are the first in the order.
    not_above = torch.zeros_like(ones, memory_format=torch.contiguous_format).scatter_add_(1, below, ones)
    difference = below + not_above.cumsum(1) - below.shape[1]
    ranks = torch.empty(below.shape, dtype=torch.float32, device=below.device)
    return ranks.scatter_(1, order.samples, difference.float())


def rank_units(values: Tensor, name: str, ties: float, positive: bool, least: int = 0) -> Ranks:
    """Rank the samples of ``values [units, samples]``, a chunk of units at a time.

    Args:
        least: the limit of ``distinct``.

    Raises:
        ValueError: a value is NaN.
    """
    units, samples = values.shape
    result = Ranks(
        torch.empty((units, samples), dtype=torch.float32, device=values.device),
        torch.zeros(units, dtype=torch.float64, device=values.device),
        values.new_zeros(units, 1),
        values.new_full((units,), -torch.inf),
        values.new_full((units,), torch.inf),
        torch.zeros(units, dtype=torch.int64, device=values.device),
    )
    for chunk in chunks(values) if samples else ():
        order = sort_units(values[chunk], name, ties, positive)
        ranks = result.ranks[chunk] = rank(order)
        result.squares[chunk] = ranks.double().square_().sum(1)
        result.tolerance[chunk] = order.tolerance
        result.maximum[chunk], result.minimum[chunk] = order.values[:, -1], order.values[:, 0]
        result.distinct[chunk] = _count_distinct(order, positive, least)
    return result


def _count_distinct(order: Sorted, positive: bool, least: int) -> Tensor:
    """int64 ``[units]``: how many values one finds upwards, each beyond the tolerance of the one before."""
    values = order.values
    last = torch.zeros_like(values[:, :1]) if positive else values[:, :1]
    count = torch.full_like(last, 0 if positive else 1, dtype=torch.int64)
    while count.numel() and int(count.max()) < least:
        following = torch.searchsorted(values, last + order.tolerance, right=True)
        found = following < values.shape[1]
        if not found.any():
            break
        count += found
        last = torch.where(found, values.gather(1, following.clamp(max=values.shape[1] - 1)), torch.inf)
    return count[:, 0].clamp(max=least)


def lower_to_correlation(lowest: Tensor, first: Ranks, second: Ranks) -> None:
    """Lower ``lowest``, float32 ``[units of first, units of second]``, to the rank correlations at a site.

    The correlation of two units that tie all samples is 1, of one of these with another 0. It is 1.0 for
    others only if their ranks are equal. If ``first`` and ``second`` are one object, only what is above the
    diagonal of the result is right.
    """
    exact = first.ranks.shape[1] <= EXACT_SAMPLES
    for i in range(0, len(first.ranks), BLOCK):
        for j in range(i if second is first else 0, len(second.ranks), BLOCK):
            rows, columns = slice(i, i + BLOCK), slice(j, j + BLOCK)
            product = _product(first.ranks[rows], second.ranks[columns])
            row, column = first.squares[rows, None], second.squares[None, columns]
            equal = (product == row) & (product == column) & (exact or row == 0)
            correlation = (product / (row * column).sqrt().clamp_(min=1)).float()
            correlation.clamp_(-1, 1 - torch.finfo(torch.float32).eps / 2).masked_fill_(equal, 1)
            lowest[rows, columns] = torch.minimum(lowest[rows, columns], correlation)


def _product(first: Tensor, second: Tensor) -> Tensor:
    """float64 ``[rows of first, rows of second]``: sums of products of integers, in any order the same."""
    total = torch.zeros((len(first), len(second)), dtype=torch.float64, device=first.device)
    for start in range(0, first.shape[1], DEPTH):
        columns = slice(start, start + DEPTH)
        total.addmm_(first[:, columns].double(), second[:, columns].double().t())
    return total


def conflicts(
    first: Tensor, second: Tensor, first_tolerance: Tensor, second_tolerance: Tensor, positive: bool
) -> Tensor:
    """bool ``[pairs]``: whether two units sort any two samples differently.

    They do if a sample is above another by more than the tolerance in one unit, and below it by more than
    the tolerance in the other; or if it is above it in one, and neither is positive in the other.

    Args:
        first: ``[pairs, samples]``, clipped, or ``[1, samples]`` to compare with each of ``second``.
        second: ``[pairs, samples]``, clipped.
        first_tolerance: ``[pairs, 1]`` or ``[1, 1]``.
        second_tolerance: ``[pairs, 1]``.
        positive: whether they are clipped.
    """
    if second.numel() == 0:
        return torch.zeros(len(second), dtype=torch.bool, device=second.device)
    ascending, samples = first.contiguous().sort(1)
    below = count_below(ascending, first_tolerance).expand_as(second)
    reordered = second.gather(1, samples.expand_as(second))
    highest = reordered.cummax(1).values.gather(1, (below - 1).clamp_(min=0))  # of those below in the first
    found = ((highest > reordered + second_tolerance) & (below > 0)).any(1)
    if positive:
        found |= _spread(second, first <= 0, second_tolerance) | _spread(first, second <= 0, first_tolerance)
    return found


def _spread(values: Tensor, mask: Tensor, tolerance: Tensor) -> Tensor:
    """bool ``[pairs]``: whether values where ``mask`` is true differ by more than the tolerance."""
    highest = torch.where(mask, values, -torch.inf).amax(1)
    return highest > torch.where(mask, values, torch.inf).amin(1) + tolerance[:, 0]
