"""The units of a set that go: dead ones, and of units that order the data alike all but one."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from jumpstart_kernels.pruning.keys import Redundancy
from jumpstart_kernels.pruning.reduction import Look, Reduction
from jumpstart_kernels.pruning.unit_sets import UnitSet
from jumpstart_kernels.usage.report import DEAD


class Merge(NamedTuple):
    """A unit that is gone, and one that orders the data alike."""

    unit: int
    into: int
    correlation: float
    """Of the ranks; 1 where the order is the same."""


class Merged(NamedTuple):
    """The units of a set that are gone, numbered as in the given model."""

    dead: list[int]
    merges: list[Merge]


def merge_units(
    reduction: Reduction,
    units: UnitSet,
    look: Look,
    found: Redundancy,
    share: float,
    before: Tensor,
    refused: set[int],
) -> Merged:
    """Remove what is redundant, as far as the certificate allows; one unit always stays.

    Units go in the order in which the layers behind would miss them, the least missed ones first.

    Args:
        reduction: of the model.
        units: their set.
        look: at it.
        found: which of the units are redundant.
        share: of the units that are not dead, those that are missed least, may be merged.
        before: the units that this is said of, numbered as in the given model.
        refused: units that are not to be tried; those that cannot go are added.
    """
    merged = Merged([], [])
    dead = before[found.status == DEAD]
    for batch in remove_in_halves(reduction, units, look, dead[: len(before) - 1], None, refused):
        merged.dead.extend(batch)
    if not len(found.pairs):
        return merged
    near = torch.full((units.size, units.size), -math.inf, device=before.device)
    first, second = before[found.pairs].T
    near[first, second] = near[second, first] = found.correlation
    left = reduction.network.left[units]
    left = left[reduction.harm(units, look).argsort(stable=True)][: math.ceil(share * len(left))]
    for batch in remove_in_halves(
        reduction, units, look, left[(near[left] > -math.inf).any(1)], near, refused
    ):
        left = reduction.network.left[units]
        correlation, into = near[torch.tensor(batch, device=near.device)][:, left].max(1)
        merges = zip(batch, left[into].tolist(), correlation.tolist(), strict=True)
        merged.merges.extend(Merge(*merge) for merge in merges)
    return merged


def remove_in_halves(
    reduction: Reduction,
    units: UnitSet,
    look: Look,
    candidates: Tensor,
    near: Tensor | None,
    refused: set[int] | None = None,
) -> Iterator[list[int]]:
    """Remove candidates together; where the certificate does not hold, one half and then the other.

    Args:
        near: ``[units, units]``: how near two units are, −∞ where neither may go because of the other; None
            if all may go.
        refused: see :func:`merge_units`; by default all are tried.

    Yields:
        Those that are gone, numbered as in the given model.
    """
    refused = set() if refused is None else refused
    waiting = [candidates[[unit not in refused for unit in candidates.tolist()]]]
    while waiting:
        batch = waiting.pop(0)
        if near is not None:
            batch = _with_partner(batch, reduction.network.left[units], near)
        if not len(batch):
            continue
        if reduction.attempt(units, look, batch, repair=near is not None) is not None:
            yield batch.tolist()
        elif len(batch) > 1:
            waiting[:0] = [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
        else:
            refused.update(batch.tolist())


def _with_partner(batch: Tensor, left: Tensor, near: Tensor) -> Tensor:
    """Those of a batch that can go together: each has a unit near to it that is left behind them."""
    stays = torch.zeros(len(near), dtype=torch.bool, device=near.device)
    stays[left] = True
    needed = torch.zeros_like(stays)  # as the partner of one that goes
    going = []
    for unit in batch.tolist():
        stays[unit] = False
        partners = (near[unit] > -math.inf) & stays
        if bool(needed[unit]) or not bool(partners.any()):
            stays[unit] = True
            continue
        going.append(unit)
        if not bool((partners & needed).any()):
            needed[near[unit].masked_fill(~partners, -math.inf).argmax()] = True
    return batch.new_tensor(going)
