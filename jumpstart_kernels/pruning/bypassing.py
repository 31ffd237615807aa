"""Layers that can go altogether, since all of their units are linear or only pass on units before them."""

from typing import Any

import torch
from torch import Tensor, nn

from jumpstart_kernels.pruning.keys import Redundancy, passed_on
from jumpstart_kernels.pruning.reduction import Look, Reduction
from jumpstart_kernels.pruning.unit_sets import UnitSet
from jumpstart_kernels.surgery.flow.calls import shape_of
from jumpstart_kernels.usage.report import DEAD, LINEAR


def correlation_passed_on(reduction: Reduction, units: UnitSet, look: Look) -> Tensor:
    """How much each unit orders the data as the most similar unit that its layer reads, ``[units]``.

    −2 where it cannot be told: what the layer reads are no units, or have other positions.
    """
    unknown = torch.full((len(look.values[0]),), -2.0, device=look.values[0].device)
    if look.input is None or len(look.values) != 1 or units.sites[0].linked:
        return unknown
    if units.input is None or not reduction.structure.makes(units.input):
        return unknown
    if look.input.shape[1] != look.values[0].shape[1]:
        return unknown
    passed = passed_on(look.values[0], look.input)
    return torch.where(passed.match < 0, -2.0, passed.correlation)


def obstacle_to_bypass(reduction: Reduction, units: UnitSet) -> str:
    """Why the layer that makes these units cannot go, whatever they do; "" if it can."""
    structure = reduction.structure
    if len(units.producers) > 1:
        return "several layers make its units"
    if units.input is None or units.input.scaled or not structure.makes(units.input):
        return "it does not read units"
    if any(site.linked for site in units.sites):
        return "its units are linked"
    if any(len(value.runs) > 1 for value in units.norms.values()):
        return "its units are normalized together with others"
    node = next(node for node in structure.graph.nodes if node.name == units.node)
    before, after = shape_of(node.all_input_nodes[0]), shape_of(node)
    if before is None or after is None or len(before) != len(after):
        return "it changes the shape"
    dim = units.input.dim
    if before[:dim] != after[:dim] or before[dim:][1:] != after[dim:][1:]:
        return "it changes the shape"
    layer: Any = reduction.given.get_submodule(units.name)
    if any(step != 1 for step in getattr(layer, "stride", ())):
        return "it changes the shape of larger inputs"
    if any(_mentions(module, layer) for module in reduction.given.modules()):
        return "something else than its module refers to it"
    return "the layers behind would grow by more" if _growth(reduction, units) >= 0 else ""


def _growth(reduction: Reduction, units: UnitSet) -> int:
    """How many parameters more there are without the layer that makes these units."""
    network, growth = reduction.network, 0
    assert units.input is not None
    more = len(network.codes(units.input)) - len(network.left[units])
    for reader in network.readers_of(units):
        weight: Any = network.model.get_submodule(reader.layer).weight
        copies = len(network.channels_of(units, reader.value))
        growth += weight.numel() // len(network.codes(reader.value)) * more * copies
    for name in (*units.producers, *units.norms):
        growth -= sum(each.numel() for each in network.model.get_submodule(name).parameters())
    return growth


def _mentions(module: nn.Module, layer: nn.Module) -> bool:
    """Whether an attribute of a module is another one, or a list or dictionary with it."""
    for name, value in vars(module).items():
        parts = value.values() if isinstance(value, dict) else value
        if name != "_modules" and any(
            part is layer for part in (value, *(parts if isinstance(value, (list, tuple, dict)) else ()))
        ):
            return True
    return False


def is_bypassable(found: Redundancy, passed: Tensor) -> bool:
    """Whether every unit is dead, linear, or only passed on."""
    return bool(((found.status == DEAD) | (found.status == LINEAR) | passed).all())
