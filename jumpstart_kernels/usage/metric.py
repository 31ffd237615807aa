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
from jumpstart_kernels.usage.assembly import LayerTotals, assemble_report
from jumpstart_kernels.usage.collecting import Extras, UsageWatch
from jumpstart_kernels.usage.cosines import SampleCosine, check_cosines, mean_over_batches
from jumpstart_kernels.usage.outputs import UnitOutputs, check_outputs
from jumpstart_kernels.usage.report import UsageReport
from jumpstart_kernels.usage.updates import join, point_statuses, units_of


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

    In the smooth activations of PyTorch (GELU, SiLU, tanh, ...) the slope decides: a unit is dead, or
    saturated, if the activation's derivative is at most 0.01 in magnitude everywhere, linear if it varies by
    no more than that.

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
        dormancy: whether :meth:`report` also has the dormancy score of every unit, for which every output of
            a layer is read again.
        effective_rank: whether :meth:`report` also has the effective rank of each layer's outputs: a product
            of matrices in float64, and 8 C² bytes, for a layer of C units.
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
    slope_max: Tensor  # [units of all layers]; only read where the layer is judged by its slope
    slope_min: Tensor
    output_values: Tensor  # int64 [layers]
    output_sums: Tensor  # float64 [2, units of all layers' outputs], of values and of magnitudes
    output_products: Tensor  # float64 [squares of the units of all layers' outputs]

    def __init__(
        self, *, cosines: bool = False, dormancy: bool = False, effective_rank: bool = False, **options: Any
    ) -> None:
        super().__init__(**options)
        self.extras = Extras(cosines, dormancy, effective_rank)
        # The defaults have size 1 to broadcast against the units and layers of the first update.
        self.add_state("unit_max", torch.tensor([-torch.inf]), dist_reduce_fx="max")
        self.add_state("unit_min", torch.tensor([torch.inf]), dist_reduce_fx="min")
        self.add_state("point_status", [], dist_reduce_fx="cat")
        self.add_state("unmatched_points", torch.zeros((1, 3), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("slope_max", torch.tensor([-torch.inf]), dist_reduce_fx="max")
        self.add_state("slope_min", torch.tensor([torch.inf]), dist_reduce_fx="min")
        if self.extras.outputs:
            self.add_state("output_values", torch.zeros(1, dtype=torch.int64), dist_reduce_fx="sum")
            self.add_state("output_sums", torch.zeros((2, 1), dtype=torch.float64), dist_reduce_fx="sum")
            self.add_state("output_products", torch.zeros(1, dtype=torch.float64), dist_reduce_fx="sum")
        if cosines:
            self.add_state("cosine_means", [], dist_reduce_fx="cat")
            self.add_state("cosine_pairs", [], dist_reduce_fx="cat")
        self._units: dict[str, int] | None = None  # of each layer, in the order of the first update
        self._sloped: frozenset[str] = frozenset()  # the layers judged by their slope
        self._output_units: list[int] = []  # of each layer's output

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
                by default every Jumpstart layer, ``nn.ReLU`` and ``nn.LeakyReLU``, and the other hidden
                activations of PyTorch: CELU, ELU, GELU, Hardswish, Hardtanh, Mish, PReLU, ReLU6, SELU, SiLU,
                Softplus, Softsign, Tanh.
            unit_dim: dimension of the units, for modules that are no Jumpstart layer; or ``"auto"``,
                inferred as in :func:`~jumpstart_kernels.replace_relu`.

        Raises:
            TypeError: ``model``, ``layers`` or ``unit_dim`` has the wrong type.
            ValueError: there is no such layer, or no layer at all.
        """
        depth = 0  # of forwards of the model within one another
        options: dict[str, Any] = {"layers": layers, "unit_dim": unit_dim, "extras": self.extras}
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
        self,
        extrema: Mapping[str, LayerExtrema],
        cosines: Mapping[str, SampleCosine] | None = None,
        outputs: Mapping[str, UnitOutputs] | None = None,
        slopes: Mapping[str, LayerExtrema] | None = None,
    ) -> None:
        """Add one batch, as a :class:`~jumpstart_kernels.usage.collecting.UsageWatch` collects it.

        Args:
            extrema: of the pre-activation of each layer by its name, in the order of the layers.
            cosines: of each layer with ``cosines=True``, else None.
            outputs: of each layer with ``dormancy=True`` or ``effective_rank=True``, else None.
            slopes: the extrema of the derivative of the layers that are judged by it.

        Raises:
            ValueError: there are no layers, the layers or units differ from the first update, or a layer has
                no cosine or no outputs.
        """
        units = self._check(extrema, cosines, outputs)
        slopes = {name: slopes[name] for name in units if name in slopes} if slopes else {}
        layers = [extrema[name] for name in units]
        judged = [slopes.get(name, extrema[name]) for name in units]
        status, unmatched = point_statuses(layers, [slopes.get(name) for name in units], self.device)
        self.unit_max, self.unit_min = self._widened(self.unit_max, self.unit_min, layers)
        if slopes:
            self.slope_max, self.slope_min = self._widened(self.slope_max, self.slope_min, judged)
        self.point_status.append(status)
        self.unmatched_points = self.unmatched_points + unmatched
        if cosines is not None:
            for state, side in ((self.cosine_means, 0), (self.cosine_pairs, 1)):
                state.append(join([cosines[name][side][None] for name in units], self.device)[None])
        if outputs is not None:
            self._add_outputs([outputs[name] for name in units])
        self._units, self._sloped = units, frozenset(slopes)

    def _widened(self, maxima: Tensor, minima: Tensor, layers: list[LayerExtrema]) -> tuple[Tensor, Tensor]:
        """The extrema of the units so far and of these."""
        largest = join([layer.unit_max for layer in layers], self.device)
        smallest = join([layer.unit_min for layer in layers], self.device)
        return torch.maximum(maxima, largest), torch.minimum(minima, smallest)

    def _add_outputs(self, outputs: list[UnitOutputs]) -> None:
        values, totals, magnitudes, products = zip(*outputs, strict=True)
        sums = torch.stack([join(totals, self.device), join(magnitudes, self.device)])
        self.output_values = self.output_values + torch.tensor(values, device=self.device)
        self.output_sums = self.output_sums + sums
        if self.extras.effective_rank:
            squares = join([each.flatten() for each in products], self.device)
            self.output_products = self.output_products + squares
        self._output_units = [len(total) for total in totals]

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
        self,
        extrema: Mapping[str, LayerExtrema],
        cosines: Mapping[str, SampleCosine] | None = None,
        outputs: Mapping[str, UnitOutputs] | None = None,
        slopes: Mapping[str, LayerExtrema] | None = None,
    ) -> dict[str, Tensor]:
        """Add one batch, as ``update`` does; returns the ratios of this batch alone."""
        self._check(extrema, cosines, outputs)  # before the reset inside forgets the layers
        return super().forward(extrema, cosines, outputs, slopes)

    def merge_state(self, incoming_state: dict[str, Any] | Metric) -> None:
        """Add the data of another ``UnitUsage``. Raises ValueError if it has other layers or options."""
        if not isinstance(incoming_state, UnitUsage):
            raise TypeError(f"incoming_state must be a UnitUsage, got {type(incoming_state).__name__}")
        for name, value in vars(self.extras).items():
            if getattr(incoming_state.extras, name) != value:
                raise ValueError(f"incoming_state must have {name}={value}, as this UnitUsage has")
        if incoming_state._units is None:
            return
        self._units = self._check_layers(incoming_state._units)
        self._sloped, self._output_units = incoming_state._sloped, incoming_state._output_units
        super().merge_state(incoming_state)
        self._update_count += incoming_state._update_count
        self._computed = None

    def _check(
        self,
        extrema: Mapping[str, LayerExtrema],
        cosines: Mapping[str, SampleCosine] | None,
        outputs: Mapping[str, UnitOutputs] | None,
    ) -> dict[str, int]:
        units = self._check_layers(units_of(extrema))
        check_cosines(self.extras.cosines, extrema, cosines)
        check_outputs(self.extras.outputs, extrema, outputs)
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
        seen = repr((self._units, sorted(self._sloped), self.extras))
        layers = torch.tensor([zlib.crc32(seen.encode())], device=self.device)
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
        layers = {name: LayerTotals(*sides) for name, sides in self._by_layer(self.unit_max, self.unit_min)}
        for name, sides in self._by_layer(self.slope_max, self.slope_min) if self._sloped else ():
            if name in self._sloped:
                layers[name] = layers[name]._replace(slope_extrema=sides)
        if self.extras.cosines:
            states = (dim_zero_cat(self.cosine_means), dim_zero_cat(self.cosine_pairs))
            for name, cosine in zip(self._units, mean_over_batches(*states), strict=True):
                layers[name] = layers[name]._replace(cosine=cosine)
        if self.extras.outputs:
            for name, outputs in zip(self._units, self._outputs(), strict=True):
                layers[name] = layers[name]._replace(outputs=outputs)
        return assemble_report(layers, point_status.cpu(), self.unmatched_points.tolist(), self.extras)

    def _by_layer(self, maxima: Tensor, minima: Tensor) -> Iterator[tuple[str, tuple[Tensor, Tensor]]]:
        """``[units of all layers]`` by layer."""
        assert self._units is not None  # there was data
        sides = (side.cpu().split(list(self._units.values())) for side in (maxima, minima))
        yield from zip(self._units, zip(*sides, strict=True), strict=True)

    def _outputs(self) -> Iterator[UnitOutputs]:
        """Those of each layer."""
        totals, magnitudes = (sums.split(self._output_units) for sums in self.output_sums.cpu())
        squares: list[Tensor | None] = [None] * len(totals)
        if self.extras.effective_rank:
            products = self.output_products.cpu().split([units * units for units in self._output_units])
            squares = [
                each.view(units, units) for each, units in zip(products, self._output_units, strict=True)
            ]
        sums = zip(self.output_values.tolist(), totals, magnitudes, squares, strict=True)
        yield from map(UnitOutputs._make, sums)
