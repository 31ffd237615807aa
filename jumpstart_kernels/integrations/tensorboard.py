"""Usage, extrema and penalty for TensorBoard.

>>> writer = UsageWriter("runs/first")
>>> for epoch in range(epochs):
...     ...
...     writer.add_usage(jk.unit_usage(model, validation_loader), epoch)
...     writer.add_extrema(jk.layer_extrema(model, x), epoch)
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError as error:
    raise ImportError(
        "jumpstart_kernels.integrations.tensorboard needs tensorboard: "
        "pip install jumpstart_kernels[tensorboard]"
    ) from error

from jumpstart_kernels.nn.activation import LayerExtrema
from jumpstart_kernels.penalties.by_layer import PenaltyTerms
from jumpstart_kernels.plots import point_status_map, unit_status_map
from jumpstart_kernels.usage.report import UsageReport


class UsageWriter:
    """Writes usage, extrema and penalty to a ``SummaryWriter``, given or new.

    Args:
        target: a ``torch.utils.tensorboard.SummaryWriter`` (such as Lightning's ``logger.experiment``), or
            the folder of a new one.
        prefix: of all tags.

    Attributes:
        writer: the ``SummaryWriter``.

    Raises:
        TypeError: ``target`` is neither.
    """

    def __init__(self, target: SummaryWriter | str | Path, *, prefix: str = "jumpstart") -> None:
        if isinstance(target, (str, Path)):
            target = SummaryWriter(str(target))
        elif not hasattr(target, "add_scalar") or not hasattr(target, "add_histogram"):
            raise TypeError(f"target must be a SummaryWriter or a folder, got {type(target).__name__}")
        self.writer = target
        self.prefix = prefix

    def add_usage(
        self, usage: UsageReport, step: int, *, by_layer: bool = True, figures: bool = False
    ) -> None:
        """The ten ratios as scalars, and the fraction of dormant units if the report has scores.

        Args:
            usage: from :func:`~jumpstart_kernels.unit_usage` or ``UnitUsage.report()``.
            step: the global step.
            by_layer: whether to add each layer's fractions of dead and linear units and, if the report has
                them, its fraction of dormant units, its effective rank and its mean cosine between samples.
            figures: whether to add the maps of units and points, which need matplotlib.

        Raises:
            TypeError: ``usage`` is not a ``UsageReport``.
        """
        if not isinstance(usage, UsageReport):
            raise TypeError(f"usage must be a UsageReport, got {type(usage).__name__}")
        for name, ratio in usage.items():
            self._scalar(name, ratio, step)
        if usage.dormancy:
            self._scalar("unit_dormant_ratio", usage.dormant_ratio(), step)
        if by_layer:
            for name, layer in usage.layers.items():
                if not layer.units:
                    continue
                self._scalar(f"unit_dead_ratio/{name}", layer.dead / layer.units, step)
                self._scalar(f"unit_linear_ratio/{name}", layer.linear / layer.units, step)
            for name, mask in usage.dormant().items() if usage.dormancy else ():
                self._scalar(f"unit_dormant_ratio/{name}", float(mask.double().mean()), step)
            for name, rank in usage.effective_ranks.items():
                self._scalar(f"effective_rank/{name}", rank, step)
            for name, cosine in usage.cosines.items():
                self._scalar(f"cosine/{name}", cosine, step)
        if figures:
            for name, draw in (("units", unit_status_map), ("points", point_status_map)):
                figure: Any = draw(usage).figure
                self.writer.add_figure(f"{self.prefix}/{name}", figure, step, close=False)

    def add_extrema(self, extrema: Mapping[str, LayerExtrema], step: int) -> None:
        """Histograms of the maxima and minima of each layer's units and points.

        Values that are not finite are left out.

        Args:
            extrema: from :func:`~jumpstart_kernels.layer_extrema`.
            step: the global step.

        Raises:
            TypeError: ``extrema`` has the wrong type.
        """
        _check_layers("extrema", extrema, LayerExtrema)
        for name, layer in extrema.items():
            for side, values in zip(layer._fields, layer, strict=True):
                finite = values[values.isfinite()]
                if finite.numel():
                    self.writer.add_histogram(f"{self.prefix}/{side}/{name}", finite, step)

    def add_penalty(
        self, parts: Mapping[str, PenaltyTerms], step: int, *, weight: float | None = None
    ) -> None:
        """The penalty, its terms and each layer's contribution; with ``weight`` also λ.

        Args:
            parts: from :func:`~jumpstart_kernels.penalty_by_layer`.
            step: the global step.
            weight: λ.

        Raises:
            TypeError: ``parts`` has the wrong type.
        """
        _check_layers("parts", parts, PenaltyTerms)
        self._scalar("penalty", sum(map(sum, parts.values())), step)
        for term in PenaltyTerms._fields:
            self._scalar(f"penalty_by_term/{term}", sum(getattr(part, term) for part in parts.values()), step)
        for name, part in parts.items():
            self._scalar(f"penalty_by_layer/{name}", sum(part), step)
        if weight is not None:
            self._scalar("weight", weight, step)

    def close(self) -> None:
        """Close the ``SummaryWriter``."""
        self.writer.close()

    def __enter__(self) -> "UsageWriter":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _scalar(self, name: str, value: float, step: int) -> None:
        self.writer.add_scalar(f"{self.prefix}/{name}", value, step)


def _check_layers(name: str, layers: object, kind: type) -> None:
    if not isinstance(layers, Mapping):
        raise TypeError(f"{name} must be {kind.__name__} by layer, got {type(layers).__name__}")
    for layer in layers.values():
        if not isinstance(layer, kind):
            raise TypeError(f"{name} must be {kind.__name__} by layer, got {type(layer).__name__}")
