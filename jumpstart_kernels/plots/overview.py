"""All pictures of one model side by side: a layer is the same row in each."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jumpstart_kernels.modules import LayerExtrema
from jumpstart_kernels.penalty_by_layer import penalty_by_layer
from jumpstart_kernels.plots import sources, style
from jumpstart_kernels.plots.bars import penalty_bars
from jumpstart_kernels.plots.maps import point_status_map, unit_status_map
from jumpstart_kernels.plots.strips import extrema_strips

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANEL = 3.6  # inches


def overview(
    usage: Any,
    extrema: Mapping[str, LayerExtrema] | None = None,
    *,
    margin: float = 1.0,
    figure: "Figure | None" = None,
) -> "Figure":
    """Status of units and points; with ``extrema`` also these, and the penalty by layer.

    Args:
        usage: a :class:`~jumpstart_kernels.usage_report.UsageReport` or a ``UnitUsage``.
        extrema: of a batch such as training takes, :func:`~jumpstart_kernels.layer_extrema`. Layers that are
            not those of ``usage`` are named again.
        margin: of the layers.
        figure: an empty figure to draw on; by default a new one, which pyplot knows nothing of.

    Returns:
        The figure.

    Raises:
        TypeError, ValueError: an argument is something else, or has no layer.
        ImportError: matplotlib is not installed.
    """
    usage = sources.as_report(usage)
    if extrema is not None:
        sources.check_extrema(extrema)
    parts = None if extrema is None else penalty_by_layer(extrema, margin=margin)
    status = sources.unit_status(usage)
    style.need_matplotlib()
    from matplotlib.figure import Figure

    panels = 2 if extrema is None else 5
    if figure is None:
        height = style.rows_height(len(status)) + 0.3
        figure = Figure(figsize=(PANEL * panels + 0.8, height))
        figure.set_layout_engine("constrained", w_pad=0.08)
    axes = figure.subplots(1, panels)
    unit_status_map(usage, ax=axes[0])
    point_status_map(usage, ax=axes[1])
    titles = ["Units over all data", "Points over all data"]
    if extrema is not None and parts is not None:
        extrema_strips(extrema, of="units", margin=margin, ax=axes[2])
        extrema_strips(extrema, of="points", margin=margin, ax=axes[3])
        penalty_bars(parts, ax=axes[4])
        titles += ["Extrema of units in a batch", "Extrema of points in a batch", "Penalty of the batch"]
    for axis, title in zip(axes, titles, strict=True):
        axis.set_title(title, fontsize=9.5, fontweight="bold", loc="left", pad=28)
    same = extrema is None or list(extrema) == list(status)
    for axis in axes[1:] if same else axes[1:2]:
        axis.tick_params(axis="y", labelleft=False)  # the rows are those of the first
    return figure
