"""The data of the plots, from any of the forms that users have."""

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from jumpstart_kernels.nn.activation import LayerExtrema
from jumpstart_kernels.usage.report import STATUSES, UNMATCHED, UsageReport, status_of

SOURCES = "a UsageReport, a UnitUsage or extrema by layer"
AXES_OF = ("units", "points")
INTEGERS = (torch.int8, torch.int16, torch.int32, torch.int64)

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def on_cpu(draw: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """Make a plot create its tensors on the CPU, regardless of ``torch.set_default_device``."""

    @functools.wraps(draw)
    def draw_on_cpu(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with torch.device("cpu"):
            return draw(*args, **kwargs)

    return draw_on_cpu


def as_report(source: object) -> object:
    """The report of a ``UnitUsage``; anything else unchanged."""
    report = getattr(source, "report", None)
    return report() if callable(report) else source


def unit_status(source: object) -> dict[str, Tensor]:
    """int8 ``[C]`` of each layer."""
    source = as_report(source)
    if isinstance(source, UsageReport):
        return source.unit_status
    layers = _layers(source, f"usage must be {SOURCES}, or int8 status by layer")
    if all(isinstance(layer, LayerExtrema) for layer in layers.values()):
        return {name: _unit_status_of(layer) for name, layer in layers.items()}
    return {name: _checked_status(name, layer) for name, layer in layers.items()}


def point_status(source: object) -> dict[str, Tensor]:
    """int8 ``[points]`` of each layer; 2 if the layer has no status for them."""
    source = as_report(source)
    if isinstance(source, UsageReport):
        by_layer = dict(zip(source.point_layers, source.point_status.T, strict=True))
        unmatched = torch.full((len(source.point_status),), UNMATCHED, dtype=torch.int8, device="cpu")
        return {name: by_layer.get(name, unmatched) for name in source.layers}
    layers = _layers(source, f"usage must be {SOURCES}, or int8 status by layer")
    if all(isinstance(layer, LayerExtrema) for layer in layers.values()):
        samples = {name: layer.per_sample() for name, layer in layers.items()}
        counts = [len(maxima) for maxima, _ in samples.values()]
        most = Counter(counts).most_common(1)[0][0]  # as in UnitUsage
        unmatched = torch.full((most,), UNMATCHED, dtype=torch.int8, device="cpu")
        return {
            name: status_of(*sides).cpu() if len(sides[0]) == most else unmatched
            for name, sides in samples.items()
        }
    status = {name: _checked_status(name, layer) for name, layer in layers.items()}
    points = {name: len(layer) for name, layer in status.items()}
    if len(set(points.values())) > 1:
        raise ValueError(f"usage must have a status of the same points in every layer, got {points}")
    return status


def nan_units(source: object) -> int:
    """Number of units that saw a NaN, if the source has it."""
    if isinstance(source, UsageReport):
        return source.nan_units
    layers = source.values() if isinstance(source, Mapping) else ()
    return sum(int(layer.unit_max.isnan().sum()) for layer in layers if isinstance(layer, LayerExtrema))


def check_extrema(extrema: object) -> None:
    """Raise for anything but the extrema of at least one layer."""
    if not isinstance(extrema, Mapping):
        raise TypeError(f"extrema must be extrema by layer, got {type(extrema).__name__}")
    if not extrema:
        raise ValueError("extrema must have a layer, got none")


def check_records(rule: str, records: object) -> None:
    """Raise for anything but a list of mappings."""
    if isinstance(records, str) or not isinstance(records, Sequence):
        raise TypeError(f"{rule} of records, got {type(records).__name__}")
    for record in records:
        if not isinstance(record, Mapping):
            raise TypeError(f"{rule} of mappings, got one of {type(record).__name__}")


def extrema_of(source: object, of: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Maxima and minima ``[K]`` of the units or of the points of each layer, float64 on the CPU."""
    if of not in AXES_OF:
        raise ValueError(f"of must be one of {', '.join(map(repr, AXES_OF))}, got {of!r}")
    source = as_report(source)
    if isinstance(source, UsageReport):
        if of == "points":
            raise ValueError(
                "of must be 'units' for a UsageReport, which has no extrema of points: use those of a "
                "batch, jumpstart_kernels.layer_extrema(model, x)"
            )
        return {name: (_flat(source.unit_max[name]), _flat(source.unit_min[name])) for name in source.layers}
    layers = _layers(source, f"source must be {SOURCES}")
    for name, layer in layers.items():
        if not isinstance(layer, LayerExtrema):
            raise TypeError(f"source must be {SOURCES}, got {type(layer).__name__} for layer {name!r}")
    if of == "units":
        return {name: (_flat(layer.unit_max), _flat(layer.unit_min)) for name, layer in layers.items()}
    return {name: (_flat(layer.point_max), _flat(layer.point_min)) for name, layer in layers.items()}


def _unit_status_of(layer: LayerExtrema) -> Tensor:
    status = status_of(layer.unit_max, layer.unit_min).cpu()
    return status if layer.point_max.numel() else torch.full_like(status, UNMATCHED)  # units without data


def _layers(source: object, expected: str) -> Mapping[str, Any]:
    if not isinstance(source, Mapping):
        raise TypeError(f"{expected}, got {type(source).__name__}")
    if not source:
        raise ValueError(f"{expected}, got no layer")
    return source


def _checked_status(name: str, status: object) -> Tensor:
    if not isinstance(status, Tensor) or status.dim() != 1 or status.dtype not in INTEGERS:
        got = f"{status.dtype} {list(status.shape)}" if isinstance(status, Tensor) else type(status).__name__
        raise TypeError(f"status of layer {name!r} must be int8 [K], got {got}")
    if not torch.isin(status.cpu(), torch.tensor([*STATUSES, UNMATCHED], device="cpu")).all():
        raise ValueError(f"status of layer {name!r} must be −1 (dead), 0 (linear) or 1 (nonlinear)")
    return status.cpu()


def _flat(values: Tensor) -> Tensor:
    return values.detach().flatten().to("cpu", torch.float64)
