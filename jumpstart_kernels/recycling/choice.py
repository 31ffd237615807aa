"""Which units are recycled: those that the report and the model's structure both allow."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from jumpstart_kernels.nn import JumpstartReLU
from jumpstart_kernels.recycling.constants import Known, follow_means
from jumpstart_kernels.recycling.ways import Read, Way, Ways, input_of
from jumpstart_kernels.surgery.flow.units import Value
from jumpstart_kernels.usage.report import DEAD, UsageReport

SILENT_IF_DEAD = (nn.ReLU, JumpstartReLU)
"""Activations whose output is 0 if the pre-activation is never positive."""


@dataclass(eq=False)
class Choice:
    """Units to recycle, and why others are not."""

    units: dict[nn.Module, Tensor] = field(default_factory=dict)
    """By the layer that makes them, int64, in order."""
    recycled: dict[str, Tensor] = field(default_factory=dict)
    """The same units as channels of the activations of the report."""
    left: dict[str, Counter[str]] = field(default_factory=dict)
    """By activation: how many units stay as they are for each reason."""
    means: dict[fx.Node, Known] = field(default_factory=dict)
    """Of the tensors of all traces, where they are known."""

    def mean_at(self, read: Read) -> Known | None:
        """The means of the channels that a layer reads."""
        source = input_of(read.node)
        return None if source is None else self.means.get(source)


def measure(usage: UsageReport, modules: dict[str, nn.Module], chosen: dict[str, Tensor]) -> dict[str, Known]:
    """What the report says of the outputs of its activations, of the chosen units; of others nothing."""
    found = {}
    for layer, mask in chosen.items():
        silent = torch.zeros(len(mask), dtype=torch.bool)
        mean = usage.unit_mean.get(layer, torch.full((len(mask),), torch.nan)).to("cpu", torch.float64)
        if layer in usage.dormancy:
            silent |= usage.dormancy[layer].cpu() == 0
        if layer in usage.unit_status and type(modules[layer]) in SILENT_IF_DEAD:
            silent |= usage.unit_status[layer].cpu() == DEAD
        mean = mean.masked_fill(silent, 0.0).masked_fill(~mask, torch.nan)
        found[layer] = Known(mean, silent & mask)
    return found


def choose(
    model: nn.Module,
    ways: Ways,
    chosen: dict[str, Tensor],
    measured: dict[str, Known],
    reason_to_leave: Callable[[Way], str],
    keep_mean: bool,
) -> Choice:
    """The units to recycle.

    Args:
        model: that of the ways.
        ways: of its units.
        chosen: bool ``[C]`` by activation: the units to be recycled if they can be.
        measured: the outputs of the activations.
        reason_to_leave: why the units of a layer cannot get other weights; "" if they can.
        keep_mean: whether their mean has to be known where it is read.
    """
    choice = Choice()
    for flow in ways.flows:
        choice.means.update(follow_means(model, flow, measured))
    reasons: dict[nn.Module, list[str]] = {}
    flags = {name: mask.tolist() for name, mask in chosen.items()}
    for layer, way in ways.ways.items():
        general = way.obstacle or reason_to_leave(way) or ("" if way.readers else "no layer reads them")
        size = _units_of(layer)
        each = reasons[layer] = [general] * size
        for name, offsets in way.sites.items():
            for unit in range(size) if not general else ():
                if not all(flags[name][offset + unit : offset + unit + 1] == [True] for offset in offsets):
                    each[unit] = each[unit] or f"they are not so behind {name}"
        if keep_mean and not general:
            _check_means(choice, way, each)
    _sort_units(choice, ways, chosen, reasons)
    return choice


def _units_of(layer: Any) -> int:
    return layer.out_features if hasattr(layer, "out_features") else layer.out_channels


def _check_means(choice: Choice, way: Way, reasons: list[str]) -> None:
    """Give a reason for each unit whose mean is not known where a layer reads it."""
    for name, read in way.readers.items():
        known = choice.mean_at(read)
        unknown = None if known is None else known.mean.isnan().tolist()
        for unit, reason in enumerate(reasons):
            if not reason and (unknown is None or any(unknown[offset + unit] for offset in read.offsets)):
                reasons[unit] = f"it does not know what is left of their mean where {name} reads it"


def _sort_units(
    choice: Choice, ways: Ways, chosen: dict[str, Tensor], reasons: dict[nn.Module, list[str]]
) -> None:
    """From channels of activations to units of layers."""
    last = {name: (flow, node) for flow in ways.flows for node, name in flow.sites.items()}
    units: dict[nn.Module, set[int]] = {}
    for name, mask in chosen.items():
        value, cause = None, ""
        general = "" if name in last else "no call of it is seen in the forward"
        if name in last:
            flow, node = last[name]
            source = input_of(node)
            value = None if source is None else flow.values[source]
            cause = ways.cause_before(flow, node)
            general = _unseen(value, len(mask), cause)
        runs = [(run.width, i) for run in value.runs for i in range(run.size)] if value is not None else []
        found: list[int] = []
        left: Counter[str] = Counter()
        for channel in mask.nonzero().flatten().tolist():
            layer, unit = (None, 0) if general else runs[channel]
            unknown = general or cause
            reason = reasons[layer][unit] if layer in reasons else unknown
            if reason:
                left[reason] += 1
            else:
                assert layer is not None
                found.append(channel)
                units.setdefault(layer, set()).add(unit)
        choice.recycled[name] = torch.tensor(found, dtype=torch.int64)
        choice.left[name] = left
    order = [layer for layer in ways.ways if layer in units]
    choice.units = {layer: torch.tensor(sorted(units[layer])) for layer in order}


def _unseen(value: Value | None, units: int, cause: str) -> str:
    """Why the units of an activation are not known from its input; "" if they are."""
    if value is None:
        return cause
    if value.scaled:
        return "they are flattened in front of it"
    return "" if value.total == units else "the report has another number of units"
