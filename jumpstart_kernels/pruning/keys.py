"""Which units permute the data alike: the core of permutation pruning.

A unit is judged by the order in which its output sorts the samples (Riera Molina, PhD thesis, Universitat de
Barcelona 2025, hdl 2445/227399). Behind a ReLU only the order of its positive samples counts, all others are
tied. A unit without positive samples is dead, one with no others is linear, and two units with the same order
are redundant.

Rounding changes the order of samples that are close. All functions therefore take values as tied that differ
by no more than ``ties`` rounding units of the largest magnitude of their unit, 64 by default: the terms of a
sum decide how it is rounded, not the sum.

All results are the same in every run, for any number of threads and any ``CHUNK``, ``BLOCK`` and ``DEPTH`` in
:mod:`~jumpstart_kernels.pruning.orders`, of up to 300,000 samples: they are counts. Of more samples the last
digit of a correlation can differ.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from jumpstart_kernels.pruning.comparison import NEAR, as_sites, compare, group
from jumpstart_kernels.pruning.orders import (
    TIES,
    check_values,
    chunks,
    clip,
    conflicts,
    rank_units,
    sort_units,
    tolerances,
)
from jumpstart_kernels.usage.report import DEAD

LEAST = 10  # positive values that a unit needs to be judged

_GOLDEN, _FIRST, _SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15
_SEEDS = (0x243F6A8885A308D3, 0x13198A2E03707344)


class Redundancy(NamedTuple):
    """Which units of a layer are redundant."""

    status: Tensor
    """int8 ``[units]``: −1 dead, 0 linear, 1 nonlinear."""
    unjudged: Tensor
    """bool ``[units]``: units that are not dead, but positive too rarely for their order to say anything."""
    groups: Tensor
    """int64 ``[units]``: of each unit the first that has the same order; of dead units the first dead one."""
    pairs: Tensor
    """int64 ``[pairs, 2]``: pairs ``i < j`` of judged units."""
    correlation: Tensor
    """float32 ``[pairs]``, descending: exactly 1.0 for the same order, less for all others."""


class Passed(NamedTuple):
    """Which units of an earlier layer the units of a layer pass on."""

    match: Tensor
    """int64 ``[units]``: the unit of the earlier layer of the most similar order; −1 if one is not judged."""
    correlation: Tensor
    """float32 ``[units]``: exactly 1.0 for the same order, less for others, 0.0 without a match."""


def permutation_keys(values: Tensor, *, ties: float = TIES, positive: bool = True) -> Tensor:
    """Hash the order in which each unit sorts its positive samples.

    Tied samples count in the order of their numbers, and ties are chains: of neighbors in the sorted values
    no further apart than the tolerance. Those chained to 0 count as not positive. So the same values with
    other rounding have the same key if no gap between sorted values is close to the tolerance. Of tens of
    thousands of float32 samples some mostly are, so that a unit and 1.7 times the unit have different keys;
    and where gaps are mostly below the tolerance, chains join what is not alike. ``same_order`` knows
    neither problem.

    Args:
        values: ``[units, samples]``, float32 or float64.
        ties: rounding units up to which neighbors are tied.
        positive: whether only positive samples count; else all do, as for a unit linked as
            ``cat(relu(z), relu(-z))``.

    Returns:
        int64 ``[units, 2]``. Units without samples that count, such as dead ones, have the key ``(0, 0)``.

    Raises:
        TypeError: ``values`` is no tensor of float32 or float64.
        ValueError: ``values`` has another shape or contains NaN, or ``ties`` is negative or not finite.
    """
    values = check_values(values, "values", ties)
    units, samples = values.shape
    keys = torch.zeros((units, 2), dtype=torch.int64, device=values.device)
    numbers = torch.arange(samples, device=values.device)
    for chunk in chunks(values) if samples else ():
        order = sort_units(values[chunk], "values", ties, positive)
        below = torch.zeros_like(order.values[:, :1]) if positive else order.values[:, :1]
        # No difference, since two infinite values have none.
        starts = order.values > torch.cat([below, order.values[:, :-1]], 1) + order.tolerance
        chains = starts.cumsum(1)
        offsets = chains * samples
        ordered = (offsets + order.samples).sort(1).values.sub_(offsets)  # sorted within each chain
        counted = chains > 0 if positive else torch.ones_like(starts)
        for column, seed in enumerate(_SEEDS):
            of_sample = _mix(numbers + seed)
            of_place = _mix(numbers * _GOLDEN - seed).flip(0)  # counted from above, where all orders begin
            mixed = _mix(of_sample[ordered].add_(of_place))
            keys[chunk, column] = mixed.mul_(counted).sum(1)
    return keys


def _mix(x: Tensor) -> Tensor:
    """A bijection of int64 all bits of whose result depend on all bits of ``x``: that of splitmix64."""
    x = _shift(x, 30).bitwise_xor_(x).mul_(_FIRST)
    x = _shift(x, 27).bitwise_xor_(x).mul_(_SECOND)
    return _shift(x, 31).bitwise_xor_(x)


def _shift(x: Tensor, bits: int) -> Tensor:
    """``x`` shifted right as an unsigned number, in new memory."""
    return (x >> bits).bitwise_and_((1 << (64 - bits)) - 1)


def rank_vectors(values: Tensor, *, ties: float = TIES, positive: bool = True) -> Tensor:
    """Vectors whose products are the rank correlations (Spearman) of units.

    The rank of a sample is the number of samples below it minus the number of those above it, tied ones being
    neither: of equal values twice their average rank, centered. Nearly equal values cannot form chains here.

    Args:
        values: ``[units, samples]``, float32 or float64.
        ties: rounding units up to which two values are tied.
        positive: whether all samples that are not positive are tied.

    Returns:
        float32 ``[units, samples]``, centered and of length 1; zeros for a unit that ties all samples.

    Raises:
        TypeError: ``values`` is no tensor of float32 or float64.
        ValueError: ``values`` has another shape or contains NaN, or ``ties`` is negative or not finite.
    """
    ranked = rank_units(check_values(values, "values", ties), "values", ties, positive)
    return ranked.ranks.div_(ranked.squares.sqrt().clamp_(min=1)[:, None])


def same_order(first: Tensor, second: Tensor, *, ties: float = TIES, positive: bool = True) -> Tensor:
    """Whether two units sort all samples alike, but for rounding.

    They do unless one of them sorts two samples the other way by more than its tolerance, where the other
    unit does so too; or ties two samples as not positive that the other sorts by more than its tolerance. A
    sample may thus be tied in one unit and not in the other, and the relation is not transitive.

    Args:
        first: ``[samples]``, or ``[pairs, samples]`` for many pairs; float32 or float64.
        second: of the same shape.
        ties: rounding units up to which two values are tied.
        positive: whether all samples that are not positive are tied.

    Returns:
        bool, 0-dim or ``[pairs]``.

    Raises:
        TypeError: ``first`` or ``second`` is no tensor of float32 or float64.
        ValueError: the shapes differ or are others, a value is NaN, or ``ties`` is negative or not finite.
    """
    pairs = []
    for name, values in (("first", first), ("second", second)):
        flat = isinstance(values, Tensor) and values.dim() == 1
        pairs.append(check_values(values[None] if flat else values, name, ties))
        if pairs[-1].isnan().any():
            raise ValueError(f"{name} must not contain NaN")
    if first.shape != second.shape:
        raise ValueError(f"second must have the shape of first, {list(first.shape)}: {list(second.shape)}")
    same = torch.ones(len(pairs[0]), dtype=torch.bool, device=first.device)
    for chunk in chunks(pairs[0]):
        one, other = pairs[0][chunk], pairs[1][chunk]
        limits = tolerances(one, ties), tolerances(other, ties)
        same[chunk] = ~conflicts(clip(one, positive), clip(other, positive), *limits, positive)
    return same[0] if first.dim() == 1 else same


def redundant_pairs(
    values: Tensor | Sequence[Tensor],
    *,
    tolerance: float = 0.0,
    ties: float = TIES,
    positive: bool = True,
    least: int = LEAST,
) -> Redundancy:
    """Find the units of a layer that sort the samples alike.

    Two units have the same order if their ranks are equal, or, of units with different ranks, if both have
    the same order as the first of their group. It has the same order as another unit if ``same_order``
    says so and their correlation is 1 within 1e-6, so that not too many samples are tied in one alone.

    At several sites the correlation is the lowest of all sites, the same order must be that of all, and a
    unit is dead or linear if it is at all. At a site where a unit ties all samples, its correlation is 1 with
    others that do and 0 with those that do not.

    Args:
        values: ``[units, samples]``, float32 or float64, or a list of them where units are read at several
            sites.
        tolerance: by how much the rank correlation of a pair may be less than 1. With 0 only pairs of the
            same order are found.
        ties: rounding units up to which two values are tied.
        positive: whether only positive samples count. Else all do, and a unit is dead if it is 0 everywhere,
            linear if it is positive everywhere or negative everywhere.
        least: how many positive values a unit needs, each apart from the others by more than rounding, at one
            site at least. With fewer its order says nothing: any two units whose only positive sample is the
            same agree. Such units, like dead ones, are in no pair.

    Raises:
        TypeError: ``values`` has another type or dtype.
        ValueError: ``values`` has another shape, contains NaN, or differs in units between sites; an option
            is negative or not finite.
    """
    if not 0 <= tolerance < torch.inf:
        raise ValueError(f"tolerance must be a finite number that is not negative, got {tolerance}")
    layer = as_sites(values, "values", ties)
    compared = compare(layer, None, ties, positive, least)
    judged, correlation = compared.judged, compared.correlation
    candidates = (judged[:, None] & judged).triu_(1)
    groups = group(correlation, candidates & (correlation >= NEAR), compared.layer)
    same = groups[:, None] == groups
    correlation.masked_fill_(same, 1)
    dead = compared.status == DEAD
    groups[dead] = dead.nonzero().flatten()[:1]  # nothing if there is none
    pairs = (candidates & (same | (correlation >= 1 - tolerance))).nonzero()
    found = correlation[pairs[:, 0], pairs[:, 1]]
    found, order = found.sort(descending=True, stable=True)
    result = Redundancy(compared.status, ~(judged | dead), groups, pairs[order], found)
    device = next(iter(layer.values())).device
    return Redundancy(*(part.to(device) for part in result))


def passed_on(
    values: Tensor | Sequence[Tensor],
    reference: Tensor | Sequence[Tensor],
    *,
    ties: float = TIES,
    positive: bool = True,
    least: int = LEAST,
) -> Passed:
    """Find for each unit of a layer the unit of an earlier layer whose order it passes on.

    It is the one with the highest rank correlation; of units with the same order, which is as in
    :func:`redundant_pairs`, the first among those. Only judged units match.

    Args:
        values: ``[units, samples]``, float32 or float64, or a list of them, one for each site.
        reference: of the earlier layer, ``[other units, samples]`` or a list of as many sites; the same
            samples.
        ties: rounding units up to which two values are tied.
        positive: whether only positive samples count, in both layers.
        least: how many positive values a unit needs to be judged, as in :func:`redundant_pairs`.

    Raises:
        TypeError: ``values`` or ``reference`` has another type or dtype.
        ValueError: one has another shape, they differ in sites, samples or device, or contain NaN; or
            ``ties`` is negative or not finite.
    """
    first, second = as_sites(values, "values", ties), as_sites(reference, "reference", ties)
    shapes = [[(site.shape[1], site.device) for site in layer.values()] for layer in (first, second)]
    if shapes[0] != shapes[1]:
        raise ValueError("reference must have the sites of values, with as many samples, on the same device")
    compared = compare(first, second, ties, positive, least)
    correlation, layer, other = compared.correlation, compared.layer, compared.other
    correlation.masked_fill_(~(compared.judged[:, None] & compared.other_judged), -torch.inf)
    match = torch.full((len(correlation),), -1)
    highest = torch.zeros(len(correlation))
    for unit in compared.judged.nonzero().flatten().tolist() if compared.other_judged.any() else ():
        row = correlation[unit]
        match[unit], highest[unit] = row.argmax(), row.max()  # the first of the highest
        near = (row >= NEAR).nonzero().flatten()
        if len(near) and highest[unit] < 1:
            alike = layer.alike(unit, other, near[row[near].argsort(descending=True, stable=True)])
            if alike is not None:
                match[unit], highest[unit] = alike, 1
    device = next(iter(first.values())).device
    return Passed(match.to(device), highest.to(device))
