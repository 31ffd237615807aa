"""What the units of a layer put out: dormancy, and how many directions their outputs fill.

Dormancy is of Sokar et al., *The Dormant Neuron Phenomenon in Deep Reinforcement Learning*, arXiv 2302.12902;
the effective rank of Roy, Vetterli, *The Effective Rank: A Measure of Effective Dimensionality*, EUSIPCO
2007.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from jumpstart_kernels.nn import JumpstartLinkedReLU, JumpstartReLU, LinkedReLU
from jumpstart_kernels.nn.activation import JumpstartActivation, as_batch
from jumpstart_kernels.usage.hooks import Hook
from jumpstart_kernels.usage.watching import Watch


class UnitOutputs(NamedTuple):
    """The outputs of one forward of one layer: sums over samples and positions.

    Those of one forward are float32, float64 for float64; added up they are float64.
    """

    values: int
    """How many values each unit has."""
    total: Tensor
    """``[C]``, their sum."""
    magnitude: Tensor
    """``[C]``, the sum of their magnitudes."""
    products: Tensor | None = None
    """``[C, C]``, the sum of the products of two units' values, in float64; None unless asked for."""


NONNEGATIVE = (nn.ReLU, nn.ReLU6, JumpstartReLU, LinkedReLU, JumpstartLinkedReLU)
"""Activations whose outputs are not below 0."""


class OutputWatch(Watch[UnitOutputs]):
    """Collects sums over the outputs at every call of a model's layers until they are taken.

    Args:
        model: as in :class:`~jumpstart_kernels.usage.watching.Watch`, like the other options.
        products: whether to collect the products of units, too.
    """

    def __init__(self, model: nn.Module, *, products: bool = False, **options: Any) -> None:
        super().__init__(model, **options)
        self._products = products

    def _attach(self, name: str, module: nn.Module) -> Callable[[], None]:
        def observe_output(_: nn.Module, args: object, output: Any) -> None:
            self._observe(name, module, output)

        return module.register_forward_hook(Hook(observe_output)).remove

    def _see(self, name: str, module: nn.Module, x: Tensor) -> UnitOutputs:
        if isinstance(module, JumpstartActivation):
            x, unit_dim = as_batch(x, module.unit_dim, module.points, module._derived)
        else:
            x, unit_dim = as_batch(x, self._unit_dims[name], "sample", self._derived)
        return sum_outputs(x.detach(), unit_dim, self._products, type(module) in NONNEGATIVE)


def sum_outputs(x: Tensor, unit_dim: int, products: bool = False, nonnegative: bool = False) -> UnitOutputs:
    """The sums over a floating-point tensor.

    Args:
        x: of any shape.
        unit_dim: the dimension of the units.
        products: whether to multiply units, too: in float32 where the device has no float64, as MPS.
        nonnegative: whether no value is below 0, so that one sum serves as both.

    Raises:
        TypeError: ``x`` is no floating-point tensor.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"outputs must be a floating-point tensor, got {got}")
    units = x.shape[unit_dim]
    dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
    rest = [dim for dim in range(x.dim()) if dim != unit_dim % x.dim()]
    total = x.sum(rest, dtype=dtype)
    # vector_norm does without a copy, but adds up one by one.
    magnitude = total if nonnegative else x.abs().sum(rest, dtype=dtype)
    matrix = None
    if products:
        wide = torch.float32 if x.device.type == "mps" else torch.float64
        columns = x.movedim(unit_dim, -1).reshape(-1, units).to(wide)  # [N · positions, C]
        matrix = columns.mT @ columns
    return UnitOutputs(x.numel() // max(units, 1), total, magnitude, matrix)


def add_outputs(outputs: Sequence[UnitOutputs]) -> UnitOutputs:
    """The sums over several forwards of a layer, in float64."""
    values, totals, magnitudes, products = zip(*outputs, strict=True)
    total, magnitude = (torch.stack(sums).double().sum(0) for sums in (totals, magnitudes))
    matrix = None if products[0] is None else torch.stack(products).sum(0)
    return UnitOutputs(sum(values), total, magnitude, matrix)


def dormancy_scores(magnitude: Tensor) -> Tensor:
    """Each unit's share of its layer's mean magnitude, ``[C]`` to ``[C]``; 0 where that is 0."""
    mean = magnitude.mean()
    return magnitude / mean if mean != 0 else torch.zeros_like(magnitude)


def effective_rank(products: Tensor) -> float:
    """The exponential of the entropy of the normalized singular values of a layer's outputs.

    Between 1 and the number of units; 0 where all outputs are 0, NaN where one is not finite.

    Args:
        products: ``[C, C]``, the outputs ``[N · positions, C]`` multiplied with their own transpose.
    """
    if not products.isfinite().all():
        return float("nan")
    squares = torch.linalg.eigvalsh(products.cpu().double())
    values = squares.clamp(min=0).sqrt()
    if not values.sum() > 0:
        return 0.0
    return float(torch.special.entr(values / values.sum()).sum().exp())


def check_outputs(expected: bool, layers: Iterable[str], outputs: Mapping[str, UnitOutputs] | None) -> None:
    """Raise unless there are outputs of all layers, or none where none are expected."""
    if not expected:
        if outputs is not None:
            raise ValueError("outputs must be None for a metric without them: UnitUsage(dormancy=True)")
        return
    missing = [name for name in layers if name not in (outputs or {})]
    if missing:
        raise ValueError(f"outputs must have every layer of extrema, not seen: {', '.join(missing)}")
