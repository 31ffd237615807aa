"""What one update of a :class:`~jumpstart_kernels.UnitUsage` adds to it."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from jumpstart_kernels.nn.activation import LayerExtrema
from jumpstart_kernels.usage.report import UNMATCHED, count_statuses, status_of
from jumpstart_kernels.usage.slopes import slope_status


def units_of(extrema: Mapping[str, LayerExtrema]) -> dict[str, int]:
    """The number of units of each layer. Raises if there are no layers."""
    if not extrema:
        raise ValueError(
            "extrema must have a layer, got none: no watched layer ran in this forward, or none on a tensor "
            "of two dimensions or more. If the model is compiled, watch it before its first call, or watch "
            "the model that it wraps"
        )
    return {name: len(layer.unit_max) for name, layer in extrema.items()}


def point_statuses(
    layers: Sequence[LayerExtrema], slopes: Sequence[LayerExtrema | None], device: torch.device
) -> tuple[Tensor, Tensor]:
    """The status of each point, int8 ``[points, layers]``, and int64 counts ``[layers, 3]`` of other points.

    The points are those of most layers; the others have their counts alone. Layers that have slopes are
    judged by them.
    """
    points = [layer.per_sample() for layer in layers]
    maxima, minima = (join(side, device) for side in zip(*points, strict=True))
    counts = [len(maxima) for maxima, _ in points]
    samples = Counter(counts).most_common(1)[0][0]
    columns = list(status_of(maxima, minima).split(counts))
    for i, slope in enumerate(slopes):
        if slope is not None:
            columns[i] = slope_status(*slope.per_sample()).to(device)
    unmatched = torch.zeros((len(layers), 3), dtype=torch.int64, device=device)
    for i, column in enumerate(columns):
        if len(column) != samples:
            unmatched[i] = count_statuses(column[:, None])[0]
            columns[i] = column.new_full((samples,), UNMATCHED)
    return torch.stack(columns, 1), unmatched


def join(tensors: Iterable[Tensor], device: torch.device) -> Tensor:
    """Concatenated on the first tensor's device, so that only one transfer to ``device`` is needed."""
    first, *others = tensors
    return torch.cat([first, *(tensor.to(first.device) for tensor in others)]).to(device)
