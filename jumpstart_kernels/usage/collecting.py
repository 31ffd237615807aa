"""Collecting all that a report needs from the same forwards of a model's layers."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import nn

from jumpstart_kernels.nn.activation import LayerExtrema
from jumpstart_kernels.usage.activations import has_slopes
from jumpstart_kernels.usage.cosines import CosineWatch, SampleCosine
from jumpstart_kernels.usage.outputs import OutputWatch, UnitOutputs
from jumpstart_kernels.usage.slopes import SlopeWatch
from jumpstart_kernels.usage.watching import LayerWatch, Watch, find_layers, unit_dims_of


class LayersSeen(NamedTuple):
    """What was collected of each layer, by name, in the order of the calls."""

    extrema: dict[str, LayerExtrema]
    cosines: dict[str, SampleCosine] | None = None
    """None if they are not collected."""
    outputs: dict[str, UnitOutputs] | None = None
    """Likewise."""
    slopes: dict[str, LayerExtrema] | None = None
    """Extrema of the derivatives of the layers that are judged by them; None in a model without any."""


@dataclass(frozen=True)
class Extras:
    """What a report has beside statuses, each at a cost of its own."""

    cosines: bool = False
    """The mean cosine between samples, for which every pre-activation is read again."""
    dormancy: bool = False
    """Dormancy scores, for which every output is read again."""
    effective_rank: bool = False
    """The effective rank of the outputs, from a product of matrices in float64 for every layer."""

    @property
    def outputs(self) -> bool:
        """Whether anything is needed of the outputs."""
        return self.dormancy or self.effective_rank

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, bool):
                raise TypeError(f"{name} must be True or False, got {value!r}")


class UsageWatch:
    """Collects what a ``UnitUsage`` is updated with; started and stopped like a ``Watch``.

    >>> with UsageWatch(model, extras=Extras(cosines=True)) as watch:
    ...     model(x)
    ...     metric.update(*watch.take())

    Args:
        model: as in :class:`~jumpstart_kernels.usage.watching.Watch`, like the other options.
        extras: what to collect beside the extrema.
        strict: as of ``Watch``.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        layers: Iterable[str] | None = None,
        unit_dim: int | str = "auto",
        when: Callable[[], bool] = lambda: True,
        extras: Extras | None = None,
        strict: bool = True,
    ) -> None:
        extras = extras or Extras()
        found = find_layers(model, layers)
        unit_dims = unit_dims_of(model, found, unit_dim)
        options: dict[str, Any] = {
            "layers": list(found),
            "unit_dim": unit_dims,
            "when": when,
            "strict": strict,
        }
        self._extrema = LayerWatch(model, **options)
        options["warn"] = False  # the first one does
        self._cosines = CosineWatch(model, **options) if extras.cosines else None
        self._outputs: OutputWatch | None = None
        if extras.outputs:
            self._outputs = OutputWatch(model, products=extras.effective_rank, **options)
        sloped = [name for name, layer in found.items() if has_slopes(layer)]
        self._slopes = SlopeWatch(model, **{**options, "layers": sloped}) if sloped else None
        watches: list[Watch[Any] | None] = [self._extrema, self._cosines, self._outputs, self._slopes]
        self._watches = [watch for watch in watches if watch is not None]

    def __enter__(self) -> "UsageWatch":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start collecting; no effect if already started."""
        for watch in self._watches:
            watch.start()

    def stop(self) -> None:
        """Stop collecting, and drop what was not taken."""
        for watch in self._watches:
            watch.stop()

    def take(self) -> LayersSeen:
        """What was collected since the last ``take()``."""
        return LayersSeen(
            self._extrema.take(),
            None if self._cosines is None else self._cosines.take(),
            None if self._outputs is None else self._outputs.take(),
            None if self._slopes is None else self._slopes.take(),
        )
