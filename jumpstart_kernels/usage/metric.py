"""Which units and data points are dead, linear or nonlinear, over a data set."""

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

try:
    from torchmetrics import Metric
    from torchmetrics.utilities.data import dim_zero_cat
    from torchmetrics.utilities.distributed import gather_all_tensors
except ImportError as error:
    raise ImportError("UnitUsage and unit_usage need torchmetrics: pip install torchmetrics") from error

from jumpstart_kernels.nn.activation import LayerExtrema
from jumpstart_kernels.usage.batches import call_with_batch, track
from jumpstart_kernels.usage.cosines import SampleCosine, UsageWatch, check_cosines, mean_over_batches
from jumpstart_kernels.usage.report import (
    UNMATCHED,
    LayerUsage,
    UsageReport,
    count_statuses,
    status_of,
    usage_ratios,
)
from jumpstart_kernels.usage.updates import join, point_statuses, units_of
from jumpstart_kernels.usage.watching import evaluating, uncompiled


class UnitUsage(Metric):
    """Which units and data points are dead, linear or nonlinear over all data seen; a torchmetrics metric.

    >>> metric = UnitUsage()
    >>> with metric.watch(model):
    ...     for x, _ in loader:
    ...         model(x)
    >>> metric.compute()["unit_dead_ratio"]

    A unit is dead if its pre-activation is positive nowhere on the data, linear if it is positive everywhere,
    else nonlinear; a data point likewise, in each layer. NaN is neither ``<= 0`` nor ``> 0``: a unit or point
    that saw one is nonlinear.

    ``compute()`` returns a dict of 0-dim tensors:

    - ``unit_dead_ratio``, ``unit_linear_ratio``, ``unit_nonlinear_ratio``: fractions of all units;
    - ``point_dead_ratio``, ``point_linear_ratio``, ``point_nonlinear_ratio``: fractions of the points: dead
      in any layer, linear in all, nonlinear in all;
    - ``deathness_ratio``, ``linearity_ratio``, ``nonlinearity_ratio``: fractions of the layer-point pairs;
    - ``point_efficiency``: fraction of these pairs that remain when every layer up to a point's last dead
      layer counts as dead.

    Points are samples: those of a layer with ``points="position"`` are reduced to its samples. A layer whose
    number of points differs from that of most layers in any update (because its dimension 0 holds tokens, for
    example) has its row in :meth:`report` but is left out of the ratios over points, which are NaN if no
    layer remains.

    It synchronizes across processes like any torchmetrics metric; each process must have seen a batch.

    Args:
        cosines: whether :meth:`report` also has the mean cosine between samples by layer, over the pairs
            within each batch (:func:`~jumpstart_kernels.sample_cosines`), for which every pre-activation is
            read again.
        **options: those of ``torchmetrics.Metric``.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    unit_max: Tensor  # [units of all layers]
    unit_min: Tensor
    point_status: list[Tensor]  # int8 [points, layers] of each update
    unmatched_points: Tensor  # int64 [layers, 3], counts that do not fit in point_status
    cosine_means: list[Tensor]  # [1, layers] of each update
    cosine_pairs: list[Tensor]  # int64 [1, layers] of each update

    def __init__(self, *, cosines: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.cosines = cosines
        # The defaults have size 1 to broadcast against the units and layers of the first update.
        self.add_state("unit_max", torch.tensor([-torch.inf]), dist_reduce_fx="max")
        self.add_state("unit_min", torch.tensor([torch.inf]), dist_reduce_fx="min")
        self.add_state("point_status", [], dist_reduce_fx="cat")
        self.add_state("unmatched_points", torch.zeros((1, 3), dtype=torch.int64), dist_reduce_fx="sum")
        if cosines:
            self.add_state("cosine_means", [], dist_reduce_fx="cat")
            self.add_state("cosine_pairs", [], dist_reduce_fx="cat")
        self._units: dict[str, int] | None = None  # of each layer, in the order of the first update

    @contextmanager
    def watch(
        self, model: nn.Module, *, layers: Iterable[str] | None = None, unit_dim: int | str = "auto"
    ) -> Iterator[None]:
        """Inside the ``with`` block every forward of ``model`` is one update, in training and ``eval()``.

        A module called twice in a forward is two layers, ``"relu"`` and ``"relu#2"``. A forward that raises
        does not count, nor do calls of a layer outside a forward of ``model``.

        Args:
            model: the module that is called, which is the wrapper if there is one (DDP).
            layers: names in ``model.named_modules()``, of modules whose first argument is the pre-activation;
                by default every Jumpstart layer, ``nn.ReLU`` and ``nn.LeakyReLU``.
            unit_dim: dimension of the units, for modules that are no Jumpstart layer; or ``"auto"``,
                inferred as in :func:`~jumpstart_kernels.replace_relu`.

        Raises:
            TypeError: ``model``, ``layers`` or ``unit_dim`` has the wrong type.
            ValueError: there is no such layer, or no layer at all.
        """
        depth = 0  # of forwards of the model within one another
        options: dict[str, Any] = {"layers": layers, "unit_dim": unit_dim, "cosines": self.cosines}
        watch = UsageWatch(model, when=lambda: depth > 0, **options)

        def enter(*_: Any) -> None:
            nonlocal depth
            depth += 1

        def complete(*_: Any) -> None:
            if depth == 1:
                self.update(*watch.take())

        def leave(*_: Any) -> None:
            nonlocal depth
            depth = max(0, depth - 1)  # it also runs if another hook failed before ours
            if depth == 0:
                watch.take()  # drop what a failed forward left

        with ExitStack() as stack:
            stack.callback(model.register_forward_pre_hook(enter).remove)
            stack.enter_context(watch)
            stack.callback(model.register_forward_hook(complete).remove)
            stack.callback(model.register_forward_hook(leave, always_call=True).remove)
            yield

    def update(
        self, extrema: Mapping[str, LayerExtrema], cosines: Mapping[str, SampleCosine] | None = None
    ) -> None:
        """Add one batch: the extrema of each layer by its name, in the order of the layers.

        With ``cosines=True`` also the cosines of the layers.

        Raises:
            ValueError: there are no layers, the layers or units differ from the first update, or a layer has
                no cosine.
        """
        units = self._check(extrema, cosines)
        layers = [extrema[name] for name in units]
        status, unmatched = point_statuses(layers, self.device)
        unit_max = join([layer.unit_max for layer in layers], self.device)
        unit_min = join([layer.unit_min for layer in layers], self.device)
        self.unit_max = torch.maximum(self.unit_max, unit_max)
        self.unit_min = torch.minimum(self.unit_min, unit_min)
        self.point_status.append(status)
        self.unmatched_points = self.unmatched_points + unmatched
        if cosines is not None:
            for state, side in ((self.cosine_means, 0), (self.cosine_pairs, 1)):
                state.append(join([cosines[name][side][None] for name in units], self.device)[None])
        self._units = units

    def compute(self) -> dict[str, Tensor]:
        """The ten ratios, float32. Raises RuntimeError if it has seen no data."""
        ratios = self._report().ratios
        return {name: torch.tensor(ratio, device=self.device) for name, ratio in ratios.items()}

    def report(self) -> UsageReport:
        """The report behind ``compute()``, layer by layer, over the data of all processes."""
        with self.sync_context(dist_sync_fn=self.dist_sync_fn, should_sync=not self._is_synced):
            return self._report()

    def reset(self) -> None:
        """Forget all data and the layers."""
        super().reset()
        self._units = None

    def forward(
        self, extrema: Mapping[str, LayerExtrema], cosines: Mapping[str, SampleCosine] | None = None
    ) -> dict[str, Tensor]:
        """Add one batch, as ``update`` does; returns the ratios of this batch alone."""
        self._check(extrema, cosines)  # before the reset inside forgets the layers
        return super().forward(extrema, cosines)

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add the data of another ``UnitUsage``. Raises ValueError if it has other layers or ``cosines``."""
        if not isinstance(incoming_state, UnitUsage):
            raise TypeError(f"incoming_state must be a UnitUsage, got {type(incoming_state).__name__}")
        if incoming_state.cosines != self.cosines:
            raise ValueError(f"incoming_state must have cosines={self.cosines}, as this UnitUsage has")
        if incoming_state._units is None:
            return
        self._units = self._check_layers(incoming_state._units)
        super().merge_state(incoming_state)
        self._update_count += incoming_state._update_count
        self._computed = None

    def _check(
        self, extrema: Mapping[str, LayerExtrema], cosines: Mapping[str, SampleCosine] | None
    ) -> dict[str, int]:
        units = self._check_layers(units_of(extrema))
        check_cosines(self.cosines, extrema, cosines)
        return units

    def _check_layers(self, units: dict[str, int]) -> dict[str, int]:
        if self._units is not None and self._units != units:
            differing = sorted(dict(self._units.items() ^ units.items()))
            raise ValueError(
                "extrema must have the layers and units of the first update; these differ: "
                f"{', '.join(differing)}. Call reset(), or use another UnitUsage for another model"
            )
        return units if self._units is None else self._units

    def _sync_dist(
        self, dist_sync_fn: Callable[..., Any] = gather_all_tensors, process_group: Any = None
    ) -> None:
        # Processes with different layers would exchange mismatched shapes, or deadlock.
        layers = torch.tensor([zlib.crc32(repr((self._units, self.cosines)).encode())], device=self.device)
        gathered = torch.cat(dist_sync_fn(layers, group=process_group or self.process_group))
        if (gathered != layers).any():
            raise RuntimeError("every process must have seen a batch, and the same layers in the same order")
        super()._sync_dist(dist_sync_fn, process_group)

    def _report(self) -> UsageReport:
        point_status = dim_zero_cat(self.point_status) if len(self.point_status) else torch.empty(0)
        if self._units is None or len(point_status) == 0:
            raise RuntimeError(
                "UnitUsage has seen no data: call the model inside `with metric.watch(model):`, as model(x) "
                "rather than model.forward(x)"
            )
        point_status = point_status.cpu()  # [points, layers]
        point_counts = count_statuses(point_status) + self.unmatched_points.cpu()  # [layers, 3]
        unit_status = status_of(self.unit_max, self.unit_min).cpu()  # [units of all layers]
        by_layer = self._by_layer(unit_status)
        layers = {}
        for (name, status), points in zip(by_layer.items(), point_counts.tolist(), strict=True):
            units = count_statuses(status[:, None])[0].tolist()
            layers[name] = LayerUsage._make([len(status), *units, sum(points), *points])
        matched = (point_status != UNMATCHED).all(0)  # [layers]
        point_layers = tuple(name for name, keep in zip(layers, matched.tolist(), strict=True) if keep)
        point_status = point_status if len(point_layers) == len(layers) else point_status[:, matched]
        nan_units = int(self.unit_max.isnan().sum())
        ratios = usage_ratios(unit_status, point_status)
        unit_max, unit_min = (self._by_layer(side.cpu()) for side in (self.unit_max, self.unit_min))
        cosines = {}
        if self.cosines:
            states = (dim_zero_cat(self.cosine_means), dim_zero_cat(self.cosine_pairs))
            cosines = dict(zip(layers, mean_over_batches(*states), strict=True))
        return UsageReport(
            ratios, layers, by_layer, point_status, point_layers, nan_units, unit_max, unit_min, cosines
        )

    def _by_layer(self, units: Tensor) -> dict[str, Tensor]:
        """``[units of all layers]`` by layer."""
        assert self._units is not None  # there was data
        return dict(zip(self._units, units.split(list(self._units.values())), strict=True))


def unit_usage(
    model: nn.Module,
    loader: Iterable[Any],
    *,
    layers: Iterable[str] | None = None,
    unit_dim: int | str = "auto",
    cosines: bool = False,
    progress: bool = False,
) -> UsageReport:
    """Run ``model`` over ``loader`` in ``eval()`` without grad and report dead, linear and nonlinear units.

    Under ``torch.distributed`` the report covers the data of all processes.

    Args:
        model: any model with layers to watch; a compiled one runs uncompiled. Its training
            flags are restored.
        loader: yields the model's input: a tensor; a dict of tensors, passed as keyword arguments (as for
            transformers); or a tuple or list whose first item is one of these. Arrays become tensors;
            floating-point ones are cast to the dtype of the parameters. All are moved to the device of the
            first parameter. For other batches write your own loop inside :meth:`UnitUsage.watch`.
        layers: as in :meth:`UnitUsage.watch`.
        unit_dim: as in :meth:`UnitUsage.watch`.
        cosines: as of :class:`UnitUsage`.
        progress: whether to show a progress bar, if ``rich`` is installed.

    Raises:
        TypeError: a batch has another type.
        ValueError: the loader is empty; and the errors of :meth:`UnitUsage.watch`.
    """
    model = uncompiled(model)
    metric = UnitUsage(cosines=cosines)
    with metric.watch(model, layers=layers, unit_dim=unit_dim), evaluating(model) as device:
        metric.to(device)
        for batch in track(loader, "unit usage") if progress else loader:
            call_with_batch(model, batch, device, "a batch of loader")
    if not metric.update_called:
        raise ValueError("loader must yield at least one batch, got none")
    return metric.report()
