"""What permutation pruning has removed, layer by layer."""

from typing import TYPE_CHECKING

from jumpstart_kernels.plots import style
from jumpstart_kernels.pruning.report import PruneReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def pruned_units(report: PruneReport, *, ax: "Axes | None" = None, legend: bool = True) -> "Axes":
    """The units of each layer: kept, dead, merged into others, and gone together with their layer.

    Args:
        report: ``result.report`` of :func:`~jumpstart_kernels.pruning.permutation_prune`. Layers whose units
            can only be removed together are one row.
        ax: axes to draw on; by default those of a new figure, ``.figure`` of the result.
        legend: whether to draw a legend above the bars.

    Returns:
        The axes.

    Raises:
        TypeError: ``report`` is something else.
        ImportError: matplotlib is not installed.
    """
    if not isinstance(report, PruneReport):
        raise TypeError(
            "report must be a PruneReport, result.report of jumpstart_kernels.pruning.permutation_prune, got "
            f"{type(report).__name__}"
        )
    style.need_matplotlib()
    names = [layer.label for layer in report.layers]
    if ax is None:
        ax = style.new_axes(4.8, style.rows_height(len(names)), names)
    left = [0] * len(names)
    for count, (label, colour) in style.PRUNED.items():
        values = [int(getattr(layer, count)) for layer in report.layers]
        ax.barh(range(len(names)), values, 0.8, left, color=colour, label=label)
        left = [a + b for a, b in zip(left, values, strict=True)]
    style.name_rows(ax, names)
    style.bare(ax, "top", "right", "left")
    ax.set_xlim(0, 1.02 * max(left))
    ax.tick_params(axis="x", labelsize=7)
    ax.grid(axis="x", **style.GRID)
    ax.set_axisbelow(True)
    ax.locator_params(axis="x", nbins=6, integer=True)
    ax.set_xlabel(f"units, {report.removed} of {report.units} removed", fontsize=8)
    if legend:
        style.legend_above(ax, ax.get_legend_handles_labels()[0], columns=2)
    return ax
