"""Widths over √2, with which a linked network has about as many parameters as the plain one."""

import math
from collections.abc import Callable, Collection
from typing import Any

from torch import nn

from jumpstart_kernels.surgery.flow.layers import is_linear, is_matrix_layer
from jumpstart_kernels.surgery.flow.units import Run, Value, parts_of
from jumpstart_kernels.surgery.linking.plan import Plan, factor_of_layer
from jumpstart_kernels.surgery.linking.weights import resize


def smaller_widths(plan: Plan) -> dict[nn.Module, int]:
    """The layers that get fewer outputs, with their number: those before linked activations.

    What is added to their units gets as many. A width that something else goes by stays: the number of
    outputs of the model, of what is reshaped or normalized over its units, of a layer that cannot be changed.
    """
    classes: dict[Any, set[Any]] = {}
    for widths in plan.same:
        joined = set(widths).union(*(classes.get(width, {width}) for width in widths))
        classes.update((width, joined) for width in joined)
    divisors = _divisors(plan)
    fixed = plan.fixed | set(plan.blocked) | {None}
    smaller: dict[nn.Module, int] = {}
    for seed in plan.before_linked:
        layers = classes.get(seed, {seed})
        if fixed.isdisjoint(layers):
            divisor = math.lcm(*(divisors.get(layer, 1) for layer in layers))
            for layer in layers:
                width = outputs_of(layer) / math.sqrt(2)
                smaller[layer] = max(1, round(width / divisor)) * divisor
    return smaller


def size_after(smaller: dict[nn.Module, int]) -> Callable[[Run], int]:
    """The function that tells the number of units of a run, once some layers have fewer outputs."""

    def size_of(run: Run) -> int:
        return run.size if run.width is None else smaller.get(run.width, run.size)

    return size_of


def resize_layer(
    layer: nn.Module, value: Value | None, smaller: dict[nn.Module, int], size_of: Callable[[Run], int]
) -> None:
    """Give a layer, or a norm, that gets these units its size."""
    parts = None if value is None else parts_of(value.runs, size_of, factor_of_layer(layer, value))
    if is_matrix_layer(layer):
        resize(layer, parts, smaller.get(layer, outputs_of(layer)))
    elif parts is not None:
        resize(layer, parts, None)


def outputs_of(layer: Any) -> int:
    """The number of outputs of a layer."""
    return layer.out_features if is_linear(layer) else layer.out_channels


def _divisors(plan: Plan) -> dict[nn.Module, int]:
    """By what the outputs of layers must be divisible, for the groups of these and of the next."""
    divisors: dict[nn.Module, int] = {}
    for layer, value in plan.inputs.items():
        groups: Any = getattr(layer, "groups", 1)
        if not is_matrix_layer(layer) or groups in (1, getattr(layer, "in_channels", 1)):
            continue
        affected: Collection[Any] = {layer} if value is None else {layer} | value.widths
        for each in affected:
            divisors[each] = math.lcm(divisors.get(each, 1), groups)
    return divisors
