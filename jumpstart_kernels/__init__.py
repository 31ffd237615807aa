"""Jumpstart regularization for plain deep ReLU networks, at the cost of a ReLU.

>>> model = jumpstart_kernels.replace_relu(model)
>>> loss = criterion(model(x), y) + lam * jumpstart_kernels.penalty(model)
"""

import importlib
from typing import TYPE_CHECKING, Any

from jumpstart_kernels import functional, nn, schedules
from jumpstart_kernels.nn import *  # a layer for each activation
from jumpstart_kernels.ops.backends import use_backend
from jumpstart_kernels.penalties import (
    PenaltyCounts,
    PenaltyInjection,
    count_units_and_points,
    inject_penalty,
    penalty,
    penalty_by_layer,
)
from jumpstart_kernels.version import __version__

if TYPE_CHECKING:  # at run time only once they are used: see _MODULES
    from jumpstart_kernels import integrations, plots, pruning
    from jumpstart_kernels.initialization import looks_linear_
    from jumpstart_kernels.recycling import recycle
    from jumpstart_kernels.surgery import find_relu, link_relu, replace_relu, restore_relu
    from jumpstart_kernels.usage.cosines import sample_cosines
    from jumpstart_kernels.usage.loader import unit_usage
    from jumpstart_kernels.usage.metric import UnitUsage
    from jumpstart_kernels.usage.rolling import watch
    from jumpstart_kernels.usage.unit_warnings import UnitWarning
    from jumpstart_kernels.usage.watching import layer_extrema

__all__ = [
    *nn.__all__,
    "PenaltyCounts",
    "PenaltyInjection",
    "UnitUsage",
    "UnitWarning",
    "__version__",
    "count_units_and_points",
    "find_relu",
    "functional",
    "inject_penalty",
    "layer_extrema",
    "integrations",
    "link_relu",
    "looks_linear_",
    "penalty",
    "penalty_by_layer",
    "replace_relu",
    "plots",
    "pruning",
    "recycle",
    "restore_relu",
    "sample_cosines",
    "schedules",
    "unit_usage",
    "use_backend",
    "watch",
]

# What a forward and its penalty do not need: importing these takes longer, or needs more, than the rest.
_MODULES = {
    "UnitUsage": "usage.metric",
    "UnitWarning": "usage.unit_warnings",
    "find_relu": "surgery",
    "layer_extrema": "usage.watching",
    "link_relu": "surgery",
    "looks_linear_": "initialization",
    "recycle": "recycling",
    "replace_relu": "surgery",
    "restore_relu": "surgery",
    "sample_cosines": "usage.cosines",
    "unit_usage": "usage.loader",
    "watch": "usage.rolling",
}
_PACKAGES = ("initialization", "integrations", "plots", "pruning", "recycling", "surgery", "usage")


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    if name in _PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES, *_PACKAGES})
