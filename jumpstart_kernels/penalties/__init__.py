"""The penalty: over all layers, by layer, across ranks, and injected into backward."""

from jumpstart_kernels.penalties.by_layer import PenaltyTerms, penalty_by_layer
from jumpstart_kernels.penalties.injection import (
    PenaltyCounts,
    PenaltyInjection,
    count_units_and_points,
    inject_penalty,
)
from jumpstart_kernels.penalties.reduction import penalty

__all__ = [
    "PenaltyCounts",
    "PenaltyInjection",
    "PenaltyTerms",
    "count_units_and_points",
    "inject_penalty",
    "penalty",
    "penalty_by_layer",
]
