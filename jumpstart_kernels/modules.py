"""``JumpstartReLU``: a drop-in ``nn.ReLU`` that remembers what the penalty needs."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from jumpstart_kernels import records
from jumpstart_kernels.functional import check_options, run_layer, split_extrema


class LayerExtrema(NamedTuple):
    """What one forward of one layer shows a watcher: ``[C]`` of its units, ``[N, ...]`` of its points."""

    unit_max: Tensor
    unit_min: Tensor
    point_max: Tensor
    point_min: Tensor

    def per_sample(self) -> tuple[Tensor, Tensor]:
        """Point maxima and minima ``[N]``: those of positions reduced to their sample."""
        if self.point_max.dim() < 2:
            return self.point_max.reshape(-1), self.point_min.reshape(-1)
        return self.point_max.flatten(1).amax(1), self.point_min.flatten(1).amin(1)


class JumpstartReLU(nn.ReLU):
    """``nn.ReLU`` whose units and data points :func:`~jumpstart_kernels.penalty` keeps alive and nonlinear.

    ``forward(x)`` returns ``relu(x)`` alone. In training mode with grad enabled it also records the slack of
    its pre-activation, once for every call, until ``penalty`` takes the records. Otherwise it is ``F.relu``.
    It has no parameters and no buffers, so checkpoints fit the ``nn.ReLU`` model both ways. Copies and
    pickles leave the records behind, and an injection (:func:`~jumpstart_kernels.inject_penalty`).

    Args:
        inplace: overwrite the input, as in ``nn.ReLU``.
        unit_dim: the dimension of the units: 1 for ``[N, C]`` and ``[N, C, H, W]``, −1 for ``[N, T, C]``.
        points: ``"sample"`` or ``"position"``: what a data point is.
        margin: how far beyond 0 an extremum has to be.
        tie_breaking: ``"single"``, ``"average"`` or ``"random"``.

    The options are those of :func:`jumpstart_kernels.functional.jumpstart_relu`, and raise the same errors.
    """

    def __init__(
        self,
        inplace: bool = False,
        *,
        unit_dim: int = 1,
        points: str = "sample",
        margin: float = 1.0,
        tie_breaking: str = "single",
    ) -> None:
        super().__init__(inplace)
        check_options(unit_dim, points, margin, tie_breaking)
        self.unit_dim = unit_dim
        self.points = points
        self.margin = float(margin)
        self.tie_breaking = tie_breaking
        self._records: records.Records = None
        self._unclaimed = 0  # eager records since the last were taken
        self._unreachable = False  # whether a forward ran where no record can have a gradient
        self._inject: Callable[[Tensor, Tensor], Tensor] | None = None
        self._watchers: list[Callable[[LayerExtrema], None]] = []

    def forward(self, x: Tensor) -> Tensor:
        """``relu(x)`` of ``[N, C, *]``, of the shape, dtype and layout of ``x``."""
        recording = self.training and torch.is_grad_enabled()
        watchers = self._watchers
        if not recording and not watchers:
            if self.training and self._inject is None:
                records.note_unreachable(self)
            return F.relu(x, inplace=self.inplace)
        output, slack_sums, extrema, units, points = run_layer(
            x, self.unit_dim, self.points, self.margin, self.tie_breaking, self.inplace
        )
        if recording and self._inject is not None:
            output = self._inject(output, slack_sums)
        elif recording and not records.recomputing():
            records.add(self, records.Record(slack_sums, extrema, units, points, self.margin))
        elif self.training and self._inject is None:
            records.note_unreachable(self)
        for watch in watchers:
            watch(LayerExtrema(*split_extrema(extrema.detach(), x, self.unit_dim, self.points)))
        return output

    def extra_repr(self) -> str:
        options = [f"unit_dim={self.unit_dim}", f"points={self.points!r}", f"margin={self.margin}"]
        options += [f"tie_breaking={self.tie_breaking!r}"] + (["inplace=True"] if self.inplace else [])
        return ", ".join(options)

    def __getstate__(self) -> dict[str, Any]:
        # Records hold the graph of a forward; watchers and injection belong to others: none goes with a copy.
        own = {"_records": None, "_unclaimed": 0, "_unreachable": False, "_inject": None}
        return {**self.__dict__, **own, "_watchers": []}


def clear_records(model: nn.Module) -> None:
    """Drop what the model's layers have recorded since the last penalty, after a forward that failed, say."""
    check_module(model)
    for module in model.modules():
        if isinstance(module, JumpstartReLU):
            records.clear(module)


def check_module(model: object) -> None:
    """Raise for a model that is no module."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, got {type(model).__name__}")
