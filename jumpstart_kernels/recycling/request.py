"""What a caller of :func:`~jumpstart_kernels.recycle` asks for, checked."""

from collections import Counter
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from jumpstart_kernels.functional.numbers import check_nonnegative
from jumpstart_kernels.nn.linked import LinkedActivation
from jumpstart_kernels.recycling.choice import SILENT_IF_DEAD
from jumpstart_kernels.recycling.states import CHOICES
from jumpstart_kernels.recycling.wrappers import Unwrapped
from jumpstart_kernels.usage.activations import has_slopes
from jumpstart_kernels.usage.report import DEAD, UsageReport

STATUSES = ("dormant", "dead")


class Request(NamedTuple):
    """The units that a caller wants recycled. Activations have the names of the report."""

    names: dict[str, str]
    """The activations of the report: its name of each by that in the model without wrappers."""
    modules: dict[str, nn.Module]
    units: dict[str, Tensor]
    """bool ``[C]`` of each activation."""
    left: dict[str, Counter[str]]
    """How many have the status in name only, and why that is so."""


def check_options(
    tau: Any, status: Any, keep_mean: Any, optimizer_state: Any, initialize: Any, generator: Any
) -> None:
    """Raise for options of a wrong type or value."""
    check_nonnegative("tau", tau)
    for name, value, allowed in (
        ("status", status, STATUSES),
        ("optimizer_state", optimizer_state, CHOICES),
    ):
        if value not in allowed:
            raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")
    if not isinstance(keep_mean, bool):
        raise TypeError(f"keep_mean must be a bool, got {type(keep_mean).__name__}")
    if initialize is not None and not callable(initialize):
        raise TypeError(f"initialize must be callable, got {type(initialize).__name__}")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator, got {type(generator).__name__}")


def report_of(usage: Any) -> UsageReport:
    """The report that ``usage`` is, or has."""
    report = usage
    if not isinstance(usage, UsageReport) and all(
        callable(getattr(usage, name, None)) for name in ("report", "reset")
    ):
        report = usage.report()
    if not isinstance(report, UsageReport):
        raise TypeError(
            "usage must be a UsageReport, or have report() that returns one and reset(), "
            f"got {type(usage).__name__}"
        )
    return report


def request(unwrapped: Unwrapped, report: UsageReport, status: str, tau: float, keep_mean: bool) -> Request:
    """The units of a report that are to be recycled.

    Raises:
        ValueError: the report lacks scores or means that are needed, or is of another model.
    """
    statuses = report.unit_status
    dead = status == "dead"
    units = {name: each == DEAD for name, each in statuses.items()} if dead else report.dormant(tau)
    found = Request({}, {}, {name: mask.cpu() for name, mask in units.items()}, {})
    modules = dict(unwrapped.model.named_modules())
    for layer, mask in found.units.items():
        base, mark, call = layer.partition("#")
        name = unwrapped.name_of(base, modules)
        if name is None:
            raise ValueError(f"usage must be of model, which has no layer {base!r}")
        found.names[f"{name}{mark}{call}"] = layer
        module = found.modules[layer] = modules[name]
        kind, reason = type(module), ""
        if isinstance(module, LinkedActivation):
            reason = "they are linked"
        elif dead and kind not in SILENT_IF_DEAD and not has_slopes(module):
            reason = f"a dead unit of {kind.__name__} is not constant: status='dormant'"
        if reason and bool(mask.any()):
            found.left[layer] = Counter({reason: int(mask.sum())})
            found.units[layer] = torch.zeros_like(mask)
        needed = keep_mean and not (dead and kind in SILENT_IF_DEAD) and bool(found.units[layer].any())
        if needed and layer not in report.unit_mean:
            raise ValueError(
                f"usage must have unit_mean of {layer!r}, as with dormancy=True; with keep_mean=False it is "
                "not needed"
            )
    return found
