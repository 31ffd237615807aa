"""Layers compared unit by unit: correlations of their ranks, and which units sort the samples alike."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from jumpstart_kernels.pruning.orders import (
    CHUNK,
    check_values,
    clip,
    conflicts,
    lower_to_correlation,
    rank_units,
)
from jumpstart_kernels.usage.report import DEAD, status_of

NEAR = 1 - 1e-6  # units whose correlation is less do not have the same order
GLANCE = 1024  # samples that tell most pairs of units apart
FIRST = 4  # units that are compared before all others: often one of them is found alike


class Layer(NamedTuple):
    """The values of the units of a layer, at each site where they are read."""

    sites: Sequence[Tensor]  # [units, samples] each
    tolerance: Sequence[Tensor]  # [units, 1] each
    positive: bool

    def alike(self, unit: int, other: "Layer", units: Tensor) -> int | None:
        """The first of ``units``, int64, of another layer that sorts the samples as ``unit`` does."""
        units = units.to(self.sites[0].device)
        size = max(1, CHUNK // max(1, *(values.shape[1] for values in self.sites)))
        for left in (units[:FIRST], *units[FIRST:].split(size)):
            for site, values in enumerate(self.sites):
                for step in sorted({max(1, values.shape[1] // GLANCE), 1}, reverse=True):
                    left = left[~self._conflicts(site, unit, other, left, step)]
            if len(left):
                return int(left[0])
        return None

    def _conflicts(self, site: int, unit: int, other: "Layer", units: Tensor, step: int) -> Tensor:
        return conflicts(
            clip(self.sites[site][unit : unit + 1, ::step], self.positive),
            clip(other.sites[site][:, ::step][units], other.positive),
            self.tolerance[site][unit : unit + 1],
            other.tolerance[site][units],
            self.positive,
        )


def as_sites(values: Tensor | Sequence[Tensor], name: str, ties: float) -> dict[str, Tensor]:
    """The tensors of all sites by their names in errors, checked.

    Raises:
        TypeError: one is no tensor of float32 or float64.
        ValueError: there is none, one is not ``[units, samples]``, or they differ in units or device.
    """
    single = isinstance(values, Tensor)
    tensors = [values] if isinstance(values, Tensor) else list(values)
    names = [name if single else f"{name}[{i}]" for i in range(len(tensors))]
    sites = {label: check_values(site, label, ties) for label, site in zip(names, tensors, strict=True)}
    if not sites:
        raise ValueError(f"{name} must be a tensor or a list with at least one")
    first = sites[names[0]]
    for label, site in sites.items():
        if len(site) != len(first) or site.device != first.device:
            raise ValueError(
                f"{label} must have the units and device of {names[0]}, {len(first)} on {first.device}, "
                f"got {len(site)} on {site.device}"
            )
    return sites


class Comparison(NamedTuple):
    """Two layers, or one with itself; tensors on the CPU."""

    correlation: Tensor  # float32 [units, other units], lowest of all sites
    layer: Layer
    other: Layer
    status: Tensor  # int8 [units]
    judged: Tensor  # bool [units]
    other_judged: Tensor


def compare(
    first: dict[str, Tensor], second: dict[str, Tensor] | None, ties: float, positive: bool, least: int
) -> Comparison:
    layers = [first] if second is None else [first, second]
    units = [len(next(iter(layer.values()))) for layer in layers]
    device = next(iter(first.values())).device
    correlation = torch.ones((units[0], units[-1]), device=device)
    facts: list[list[tuple[Tensor, ...]]] = [[] for _ in layers]
    for sites in zip(*(layer.items() for layer in layers), strict=True):
        ranked = [rank_units(site, name, ties, positive, least) for name, site in sites]
        lower_to_correlation(correlation, ranked[0], ranked[-1])
        for known, one in zip(facts, ranked, strict=True):
            known.append(one[2:])  # all but the ranks, which are as large as the values
    judgments = [_judge(known, positive, least) for known in facts]
    parts = [
        Layer(list(layer.values()), [one[0] for one in known], positive)
        for layer, known in zip(layers, facts, strict=True)
    ]
    return Comparison(correlation.cpu(), parts[0], parts[-1], *judgments[0], judgments[-1][1])


def _judge(facts: list[tuple[Tensor, ...]], positive: bool, least: int) -> tuple[Tensor, Tensor]:
    """Status, int8 ``[units]``, and whether units are judged, bool, on the CPU."""
    _, maxima, minima, distinct = zip(*facts, strict=True)
    maximum = torch.stack([values.double() for values in maxima]).amax(0)
    minimum = torch.stack([values.double() for values in minima]).amin(0)
    if not positive:  # then max(value, 0) and max(-value, 0) are both units
        maximum, minimum = torch.maximum(maximum, -minimum), torch.maximum(minimum, -maximum)
    status = status_of(maximum, minimum)
    judged = (status != DEAD) & (torch.stack(distinct).amax(0) >= least)
    return status.cpu(), judged.cpu()


def group(correlation: Tensor, near: Tensor, layer: Layer) -> Tensor:
    """int64 ``[units]``: the first unit of each unit's group. ``near`` says which pairs can be alike."""
    groups = torch.arange(len(near))
    is_first = torch.ones(len(near), dtype=torch.bool)
    columns = near.t().contiguous()
    for unit in columns.any(1).nonzero().flatten().tolist():
        others = columns[unit].nonzero().flatten()
        equal = others[correlation[others, unit] == 1]
        alike = int(groups[equal[0]]) if len(equal) else layer.alike(unit, layer, others[is_first[others]])
        if alike is not None:
            groups[unit], is_first[unit] = alike, False
    return groups
