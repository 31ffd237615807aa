"""The report of :class:`~jumpstart_kernels.UnitUsage`: ratios by name, and the tables behind them."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from jumpstart_kernels.functional.numbers import check_nonnegative

DEAD, LINEAR, NONLINEAR = STATUSES = (-1, 0, 1)
TAU = 0.025  # of Sokar et al. for counting, who recycle at 0.1
UNMATCHED = 2  # dimension 0 of the layer does not hold the samples: they have no status


class LayerUsage(NamedTuple):
    """How many units and points of one layer are dead, linear and nonlinear."""

    units: int
    dead: int
    linear: int
    nonlinear: int
    points: int
    dead_points: int
    linear_points: int
    nonlinear_points: int


@dataclass(frozen=True, repr=False, eq=False)
class UsageReport(Mapping[str, float]):
    """The ten ratios of :class:`~jumpstart_kernels.UnitUsage` by name, and their data; prints as a table.

    Status tensors are int8, on the CPU: −1 dead, 0 linear, 1 nonlinear.
    """

    ratios: dict[str, float]
    layers: dict[str, LayerUsage]
    """By name, in the order in which the model calls them."""
    unit_status: dict[str, Tensor]
    """``[C]`` of each layer."""
    point_status: Tensor
    """``[points, layers]``, of the layers in ``point_layers``."""
    point_layers: tuple[str, ...]
    """The layers in the ratios over points, which are all whose dimension 0 holds the samples."""
    nan_units: int
    """Number of units that saw a NaN. They count as nonlinear."""
    unit_max: dict[str, Tensor]
    """``[C]`` of each layer: the largest pre-activation of each unit, on the CPU."""
    unit_min: dict[str, Tensor]
    """Likewise the smallest."""
    cosines: dict[str, float] = field(default_factory=dict)
    """The mean cosine between samples of each layer; empty unless asked for with ``cosines=True``."""
    dormancy: dict[str, Tensor] = field(default_factory=dict)
    """``[C]`` of each layer, float64: the dormancy score of each unit; empty unless asked for."""
    unit_mean: dict[str, Tensor] = field(default_factory=dict)
    """Likewise the mean of each unit's output, not of its magnitude."""
    effective_ranks: dict[str, float] = field(default_factory=dict)
    """How many directions the outputs of each layer fill, from 1 to ``C``, as the exponential of the entropy
    of their normalized singular values (Roy, Vetterli, 2007), positions taken as samples. Empty unless asked
    for.
    """

    def dormant(self, tau: float = TAU) -> dict[str, Tensor]:
        """Which units are τ-dormant, bool ``[C]`` of each layer: those whose score is at most ``tau``.

        A unit's score is the mean magnitude of its output over that of its layer: Eq. 1 of Sokar et al., *The
        Dormant Neuron Phenomenon in Deep Reinforcement Learning*, arXiv 2302.12902. Where all outputs of a
        layer are 0 the scores are 0. A unit that put out a NaN is not dormant.

        Args:
            tau: 0 for units whose output is always 0.

        Raises:
            TypeError, ValueError: ``tau`` is not a number of 0 or more; or the report has no scores.
        """
        check_nonnegative("tau", tau)
        if not self.dormancy:
            raise ValueError(
                "the report has no dormancy scores: ask for them, for example by "
                "unit_usage(model, loader, dormancy=True)"
            )
        return {name: scores <= tau for name, scores in self.dormancy.items()}

    def dormant_ratio(self, tau: float = TAU) -> float:
        """The fraction of all units that are τ-dormant; arguments and errors as of :meth:`dormant`."""
        return _mean(torch.cat(list(self.dormant(tau).values())))

    def __getitem__(self, name: str) -> float:
        return self.ratios[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.ratios)

    def __len__(self) -> int:
        return len(self.ratios)

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [("", "units", "", "", "", "points", "", "", "")]
        rows += [("layer", *("count", "dead", "linear", "nonlinear") * 2)]
        for name, layer in [*self.layers.items(), ("total", self._total())]:
            rows.append((name, *_shares(*layer[:4]), *_shares(*layer[4:])))
        for column in self._further_columns():
            rows = [(*row, cell) for row, cell in zip(rows, column, strict=True)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for name, *cells in rows:
            padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
            lines.append("  ".join([name.ljust(widths[0]), *padded]).rstrip())
        lines.insert(-1, "-" * len(lines[1]))
        lines.append(
            "points: {point_dead_ratio:.1%} dead in a layer, {point_linear_ratio:.1%} linear in all, "
            "{point_nonlinear_ratio:.1%} nonlinear in all; efficiency {point_efficiency:.1%}".format(**self)
        )
        unmatched = [name for name in self.layers if name not in self.point_layers]
        if unmatched:
            lines.append(f"other number of points than most layers, not in the total: {', '.join(unmatched)}")
        if self.nan_units:
            lines.append(f"units that saw a NaN, counted as nonlinear: {self.nan_units}")
        return "\n".join(lines)

    __repr__ = __str__

    def _further_columns(self) -> Iterator[list[str]]:
        if self.dormancy:
            masks = self.dormant()
            counts = [(len(mask), int(mask.sum())) for mask in masks.values()]
            total = tuple(map(sum, zip(*counts, strict=True)))
            yield ["outputs", "dormant", *(_shares(*each)[1] for each in [*counts, total])]
        if self.effective_ranks:
            yield ["", "rank", *(shown_rank(rank) for rank in self.effective_ranks.values()), ""]
        if self.cosines:
            yield ["samples", "cosine", *map(shown_cosine, self.cosines.values()), ""]

    def _total(self) -> LayerUsage:
        units = [layer[:4] for layer in self.layers.values()]
        points = [self.layers[name][4:] for name in self.point_layers] or [(0, 0, 0, 0)]
        return LayerUsage(*map(sum, zip(*units, strict=True)), *map(sum, zip(*points, strict=True)))


def status_of(maxima: Tensor, minima: Tensor) -> Tensor:
    status = torch.full_like(maxima, NONLINEAR, dtype=torch.int8)
    return status.masked_fill_(minima > 0, LINEAR).masked_fill_(maxima <= 0, DEAD)


def count_statuses(status: Tensor) -> Tensor:
    """int8 ``[points, layers]`` to int64 ``[layers, 3]``: how many are dead, linear, nonlinear."""
    return torch.stack([(status == value).sum(0) for value in STATUSES], 1)


def usage_ratios(unit_status: Tensor, point_status: Tensor) -> dict[str, float]:
    """The ten ratios from int8 ``[units]`` and ``[points, layers]``."""
    layers = point_status.shape[1]
    if not layers:
        point_status = point_status[:0]  # without layers the fractions are NaN
    dead, linear, nonlinear = (point_status == value for value in STATUSES)
    lost = dead * torch.arange(1, layers + 1, dtype=torch.int32, device=dead.device)
    if layers:
        lost = lost.amax(1)  # the layers up to each point's last dead one
    return {
        "unit_dead_ratio": _mean(unit_status == DEAD),
        "unit_linear_ratio": _mean(unit_status == LINEAR),
        "unit_nonlinear_ratio": _mean(unit_status == NONLINEAR),
        "point_dead_ratio": _mean(dead.any(1)),
        "point_linear_ratio": _mean(linear.all(1)),
        "point_nonlinear_ratio": _mean(nonlinear.all(1)),
        "deathness_ratio": _mean(dead),
        "linearity_ratio": _mean(linear),
        "nonlinearity_ratio": _mean(nonlinear),
        "point_efficiency": 1 - _mean(lost) / max(layers, 1),
    }


def shown_cosine(cosine: float) -> str:
    """A cosine in three digits; a dash for NaN."""
    return "-" if math.isnan(cosine) else f"{cosine:.3f}"


def shown_rank(rank: float) -> str:
    """An effective rank in one digit behind the point; a dash for NaN."""
    return "-" if math.isnan(rank) else f"{rank:.1f}"


def _mean(values: Tensor) -> float:
    return int(values.sum()) / values.numel() if values.numel() else float("nan")


def _shares(count: int, *parts: int) -> tuple[str, ...]:
    return (str(count), *(f"{part / count:.1%}" if count else "-" for part in parts))
