"""Jumpstart regularization for plain deep ReLU networks, at the cost of a ReLU.

>>> model = jumpstart_kernels.replace_relu(model)
>>> loss = criterion(model(x), y) + lam * jumpstart_kernels.penalty(model)
"""

import importlib
from typing import Any

from jumpstart_kernels import functional, schedules
from jumpstart_kernels.backends import use_backend
from jumpstart_kernels.injection import (
    PenaltyCounts,
    PenaltyInjection,
    count_units_and_points,
    inject_penalty,
)
from jumpstart_kernels.modules import JumpstartReLU, clear_records, no_record
from jumpstart_kernels.penalty import penalty
from jumpstart_kernels.penalty_by_layer import penalty_by_layer
from jumpstart_kernels.surgery import find_relu, replace_relu, restore_relu
from jumpstart_kernels.version import __version__
from jumpstart_kernels.watching import layer_extrema

__all__ = [
    "JumpstartReLU",
    "PenaltyCounts",
    "PenaltyInjection",
    "UnitUsage",
    "__version__",
    "clear_records",
    "count_units_and_points",
    "find_relu",
    "functional",
    "inject_penalty",
    "layer_extrema",
    "integrations",
    "no_record",
    "penalty",
    "penalty_by_layer",
    "replace_relu",
    "plots",
    "restore_relu",
    "schedules",
    "unit_usage",
    "use_backend",
]


def __getattr__(name: str) -> Any:
    if name in ("UnitUsage", "unit_usage"):  # they bring torchmetrics, which training does not need
        from jumpstart_kernels import usage

        return getattr(usage, name)
    if name in ("integrations", "plots"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
