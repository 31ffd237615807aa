"""All plots of one model side by side, with a layer in the same row of each."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from jumpstart_kernels.nn.activation import LayerExtrema
from jumpstart_kernels.penalties.by_layer import penalty_by_layer
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
    """Status of units and points; with ``extrema`` also the extrema and the penalty by layer.

    Args:
        usage: a :class:`~jumpstart_kernels.usage.report.UsageReport` or a ``UnitUsage``.
        extrema: of a training batch, from :func:`~jumpstart_kernels.layer_extrema`. If its layers differ from
            those of ``usage``, they are labelled again.
        margin: of the layers.
        figure: an empty figure to draw on; by default a new one, not registered with pyplot.

    Returns:
        The figure.

    Raises:
        TypeError, ValueError: an argument has the wrong type, or there is no layer.
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
        axis.tick_params(axis="y", labelleft=False)  # same rows as the first
    return figure
