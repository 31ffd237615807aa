"""The penalty by layer and by term."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

from jumpstart_kernels.penalties.by_layer import PenaltyTerms
from jumpstart_kernels.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def penalty_bars(
    parts: Mapping[str, PenaltyTerms], *, ax: "Axes | None" = None, legend: bool = True
) -> "Axes":
    """Each layer's contribution to the penalty, stacked by dead and linear units and points.

    Args:
        parts: by layer, from :func:`~jumpstart_kernels.penalty_by_layer`. Values that are not finite are left
            out, which the axis label says.
        ax: axes to draw on; by default those of a new figure, ``.figure`` of the result.
        legend: whether to draw a legend above the bars.

    Returns:
        The axes.

    Raises:
        TypeError, ValueError: ``parts`` has the wrong type, or no layer.
        ImportError: matplotlib is not installed.
    """
    if not isinstance(parts, Mapping) or not all(isinstance(part, PenaltyTerms) for part in parts.values()):
        raise TypeError("parts must be PenaltyTerms by layer, of jumpstart_kernels.penalty_by_layer")
    if not parts:
        raise ValueError("parts must have a layer, got none")
    style.need_matplotlib()
    if ax is None:
        ax = style.new_axes(4.8, style.rows_height(len(parts)), parts)
    left = [0.0] * len(parts)
    left_out = any(not math.isfinite(value) for part in parts.values() for value in part)
    for term, (label, colour) in style.TERMS.items():
        values = [getattr(part, term) for part in parts.values()]
        values = [value if math.isfinite(value) else 0.0 for value in values]
        ax.barh(range(len(parts)), values, 0.8, left, color=colour, label=label)
        left = [a + b for a, b in zip(left, values, strict=True)]
    style.name_rows(ax, list(parts))
    style.bare(ax, "top", "right", "left")
    ax.set_xlim(0, 1.02 * max(left) or 1.0)
    ax.tick_params(axis="x", labelsize=7)
    ax.grid(axis="x", **style.GRID)
    ax.set_axisbelow(True)
    ax.locator_params(axis="x", nbins=5)
    how = " without NaN and ∞" if left_out else ""
    ax.set_xlabel(f"penalty, {sum(left):.3g} in all{how}", fontsize=8)
    if legend:
        style.legend_above(ax, ax.get_legend_handles_labels()[0], columns=2)
    return ax
