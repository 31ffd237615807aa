"""Plots of a network's units and points, with matplotlib, which is imported on first use.

>>> jk.plots.unit_status_map(jk.unit_usage(model, loader)).figure.savefig("units.png")

Each function draws on the given axes, or in a new figure, and returns them. None calls ``show`` or changes
matplotlib's settings.
"""

from jumpstart_kernels.plots.bars import penalty_bars
from jumpstart_kernels.plots.cosines import sample_cosine_map
from jumpstart_kernels.plots.curves import learning_curves
from jumpstart_kernels.plots.maps import point_status_map, unit_status_map
from jumpstart_kernels.plots.overview import overview
from jumpstart_kernels.plots.page import usage_page
from jumpstart_kernels.plots.pruned import pruned_units
from jumpstart_kernels.plots.strips import extrema_strips

__all__ = [
    "extrema_strips",
    "learning_curves",
    "overview",
    "penalty_bars",
    "point_status_map",
    "pruned_units",
    "sample_cosine_map",
    "unit_status_map",
    "usage_page",
]
