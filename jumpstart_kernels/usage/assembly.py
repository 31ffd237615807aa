"""A report from what has been collected of each layer."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from jumpstart_kernels.usage.collecting import Extras
from jumpstart_kernels.usage.outputs import UnitOutputs, dormancy_scores, effective_rank
from jumpstart_kernels.usage.report import (
    UNMATCHED,
    LayerUsage,
    UsageReport,
    count_statuses,
    status_of,
    usage_ratios,
)
from jumpstart_kernels.usage.slopes import slope_status


class LayerTotals(NamedTuple):
    """What is known of the units of one layer over all data, on the CPU."""

    unit_max: Tensor  # [C]
    unit_min: Tensor  # [C]
    slope_extrema: tuple[Tensor, Tensor] | None = None  # [C] each: maxima, minima; of layers judged by them
    outputs: UnitOutputs | None = None
    cosine: float | None = None

    def status(self) -> Tensor:
        """Of each unit, int8 ``[C]``."""
        if self.slope_extrema is not None:
            return slope_status(*self.slope_extrema)
        return status_of(self.unit_max, self.unit_min)


def assemble_report(
    layers: Mapping[str, LayerTotals],
    point_status: Tensor,
    unmatched: Sequence[Sequence[int]],
    extras: Extras,
) -> UsageReport:
    """The report of layers, in the order of the calls.

    Args:
        layers: by name.
        point_status: int8 ``[points, layers]``, with ``UNMATCHED`` where a layer has no status of a point.
        unmatched: by layer, how many further points are dead, linear, nonlinear.
        extras: what the report has beside statuses.
    """
    point_counts = count_statuses(point_status) + torch.as_tensor(unmatched, dtype=torch.int64)  # [layers, 3]
    unit_status = {name: layer.status() for name, layer in layers.items()}
    table = {}
    for (name, status), points in zip(unit_status.items(), point_counts.tolist(), strict=True):
        units = count_statuses(status[:, None])[0].tolist()
        table[name] = LayerUsage._make([len(status), *units, sum(points), *points])
    matched = (point_status != UNMATCHED).all(0)  # [layers]
    point_layers = tuple(name for name, keep in zip(layers, matched.tolist(), strict=True) if keep)
    point_status = point_status if len(point_layers) == len(layers) else point_status[:, matched]
    outputs = {name: layer.outputs for name, layer in layers.items() if layer.outputs is not None}
    dormancy, means, ranks = {}, {}, {}
    for name, each in outputs.items():
        if extras.dormancy:
            dormancy[name] = dormancy_scores(each.magnitude)
            means[name] = each.total / each.values
        if each.products is not None:
            ranks[name] = effective_rank(each.products)
    return UsageReport(
        usage_ratios(torch.cat(list(unit_status.values())), point_status),
        table,
        unit_status,
        point_status,
        point_layers,
        sum(int(layer.unit_max.isnan().sum()) for layer in layers.values()),
        {name: layer.unit_max for name, layer in layers.items()},
        {name: layer.unit_min for name, layer in layers.items()},
        {name: layer.cosine for name, layer in layers.items() if layer.cosine is not None},
        dormancy,
        means,
        ranks,
    )
