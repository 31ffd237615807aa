"""The extrema of the units or points of each layer, relative to 0 and the margin."""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jumpstart_kernels.functional.checks import check_margin
from jumpstart_kernels.plots import sources, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_MARKS = 32  # values of a layer drawn individually
BINS = 160  # of the whole width
HALF = 0.44  # of a row, filled by the peak of a distribution
LINEAR_UP_TO = 12  # margins; a wider range is drawn on a scale that is linear only up to the margin


@sources.on_cpu
def extrema_strips(
    source: Any, *, of: str = "units", margin: float = 1.0, ax: "Axes | None" = None, legend: bool = True
) -> "Axes":
    """The largest and smallest pre-activation of each unit or point; one row per layer.

    In each row the maxima are above the line and the minima below it: one mark each, or their distribution if
    there are more than 32. A unit is dead if its maximum is not above 0 and linear if its minimum is; the
    penalty pushes the maxima beyond the margin and the minima beyond its negative. NaN is left out; infinity
    is drawn at the edge.

    Args:
        source: extrema by layer from :func:`~jumpstart_kernels.layer_extrema`; for units also a
            :class:`~jumpstart_kernels.usage.report.UsageReport` or a ``UnitUsage``.
        of: ``"units"`` or ``"points"``.
        margin: of the layers.
        ax: axes to draw on; by default those of a new figure, ``.figure`` of the result.
        legend: whether to draw a legend above the plot.

    Returns:
        The axes.

    Raises:
        TypeError, ValueError: an argument has the wrong type, or there is no layer.
        ImportError: matplotlib is not installed.
    """
    check_margin(margin)
    layers = sources.extrema_of(source, of)
    style.need_matplotlib()
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    if ax is None:
        ax = style.new_axes(4.8, style.rows_height(len(layers)), layers)
    finite = torch.cat([side[side.isfinite()] for pair in layers.values() for side in pair])
    low = min(-1.5 * margin, float(finite.min()) if len(finite) else 0.0)
    high = max(1.5 * margin, float(finite.max()) if len(finite) else 0.0)
    if low == high:
        low, high = -1.0, 1.0
    scale = margin if margin > 0 and max(-low, high) > LINEAR_UP_TO * margin else math.inf
    left, right = (_stretch(torch.tensor(end, dtype=torch.float64), scale) for end in (low, high))
    room = 0.03 * (right - left)
    edges = torch.linspace(float(left - room), float(right + room), BINS + 1, dtype=torch.float64)

    for row, pair in enumerate(layers.values()):
        for values, colour, up in zip(pair, (style.MAXIMUM, style.MINIMUM), (True, False), strict=True):
            known = _stretch(values[~values.isnan()].clamp(low, high), scale)
            if len(known) > MAX_MARKS:
                _draw_distribution(ax, known, edges, row, colour, up)
            elif len(known):
                ax.vlines(known.tolist(), row, row - HALF if up else row + HALF, colors=colour, linewidth=1.3)
    ax.hlines(range(len(layers)), edges[0], edges[-1], color="#CCCCCC", linewidth=0.4, zorder=0)
    ends = _stretch(torch.tensor([-margin, margin], dtype=torch.float64), scale).tolist()
    ax.axvline(0, color=style.BLACK, linewidth=0.9, zorder=3)
    for end in ends:
        ax.axvline(end, color=style.GREY, linewidth=0.8, linestyle=(0, (4, 2)), zorder=3)

    style.name_rows(ax, list(layers))
    style.bare(ax, "top", "right", "left")
    ax.set_xlim(float(edges[0]), float(edges[-1]))
    ticks = _ticks(low, high, margin, scale)
    ax.set_xticks(
        _stretch(torch.tensor(ticks, dtype=torch.float64), scale).tolist(), [f"{t:g}" for t in ticks]
    )
    ax.tick_params(axis="x", labelsize=7)
    how = "" if scale == math.inf else ", logarithmic beyond the margin"
    ax.set_xlabel(f"pre-activations of the {of}{how}", fontsize=8)
    if legend:
        sides = [Patch(color=style.MAXIMUM, label="largest"), Patch(color=style.MINIMUM, label="smallest")]
        line = Line2D([], [], color=style.GREY, linewidth=0.8, linestyle=(0, (4, 2)), label="±margin")
        style.legend_above(ax, [*sides, line])
    return ax


def _draw_distribution(ax: "Axes", values: Tensor, edges: Tensor, row: int, colour: str, up: bool) -> None:
    """The fraction of the values in each bin, smoothed over neighbouring bins, at most half a row high."""
    shares = torch.histogram(values, edges).hist
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], dtype=shares.dtype)
    smooth = torch.conv1d(shares.view(1, 1, -1), kernel.view(1, 1, -1), padding=2).flatten()
    heights = HALF * smooth / smooth.max()
    centres = (edges[:-1] + edges[1:]) / 2
    reached = heights > 0
    ends = (row - heights if up else row + heights).tolist()
    ax.fill_between(centres.tolist(), row, ends, where=reached.tolist(), color=colour, linewidth=0.3)


def _stretch(values: Tensor, scale: float) -> Tensor:
    """Linear up to ``scale``, then a decade as wide as ``scale``."""
    if scale == math.inf:
        return values
    beyond = values.abs() / scale
    return torch.where(beyond <= 1, values, values.sign() * scale * (1 + beyond.clamp(min=1).log10()))


def _ticks(low: float, high: float, margin: float, scale: float) -> list[float]:
    from matplotlib.ticker import MaxNLocator

    if scale == math.inf:
        return [float(tick) for tick in MaxNLocator(7).tick_values(low, high) if low <= tick <= high]
    ticks = [0.0]
    for end, sign in ((high, 1), (-low, -1)):
        decades = max(0, math.floor(math.log10(max(end, margin) / margin)))
        every = 1 + decades // 5
        first = 0 if decades < 8 else every  # the margins are then too close to 0 for their own tick label
        ticks += [sign * margin * 10**decade for decade in range(first, decades + 1, every)]
    return sorted(ticks)
