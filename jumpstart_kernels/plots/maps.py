"""Maps of status: one row per layer, one cell per unit or point."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from jumpstart_kernels.plots import sources, style
from jumpstart_kernels.usage.report import UNMATCHED

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MAX_CELLS = 200  # more in a row are too narrow to tell apart
MAX_OUTLINED = 64
COLUMNS = 1000  # of the image, if rows differ in their number of cells or have too many


@sources.on_cpu
def unit_status_map(
    usage: Any, *, ax: "Axes | None" = None, sort: bool | None = None, legend: bool = True
) -> "Axes":
    """Which units of each layer are dead, linear or nonlinear; one row per layer, the first at the top.

    Every row has the full width, regardless of its number of units. The fractions of dead and linear units at
    its right also show a single unit among thousands. White: a layer that saw no data.

    Args:
        usage: a :class:`~jumpstart_kernels.usage.report.UsageReport`, a ``UnitUsage``, extrema by layer from
            :func:`~jumpstart_kernels.layer_extrema`, or int8 ``[C]`` by layer: −1 dead, 0 linear,
            1 nonlinear.
        ax: axes to draw on; by default those of a new figure, ``.figure`` of the result.
        sort: whether to sort each row's units by status; by default if a layer has more than 200, whose cells
            would be too narrow to see.
        legend: whether to draw a legend above the map.

    Returns:
        The axes.

    Raises:
        TypeError, ValueError: ``usage`` has the wrong type, or no layer.
        ImportError: matplotlib is not installed.
    """
    usage = sources.as_report(usage)
    status = sources.unit_status(usage)
    if sort is None:
        sort = max(map(len, status.values())) > MAX_CELLS
    rows = {name: row.sort().values if sort else row for name, row in status.items()}
    ax = _draw(rows, ax, "units", legend, ordered="by status" if sort else None)
    nan_units = sources.nan_units(usage)
    if nan_units:
        ax.set_xlabel(f"{ax.get_xlabel()}\n{nan_units:,} saw a NaN, shown as nonlinear")
    return ax


@sources.on_cpu
def point_status_map(
    usage: Any, *, ax: "Axes | None" = None, sort: bool | None = None, legend: bool = True
) -> "Axes":
    """For which data points each layer is dead, linear or nonlinear; one row per layer, the first at the top.

    At the right of a row: the fractions of points. White: dimension 0 of the layer does not hold the same
    points as the others, or is empty.

    Args:
        usage: as in :func:`unit_status_map`; int8 ``[points]`` by layer.
        ax: axes to draw on; by default those of a new figure, ``.figure`` of the result.
        sort: whether to sort the points by how many layers are dead for them, then linear, alike in every
            row; by default if there are more than 200.
        legend: whether to draw a legend above the map.

    Returns:
        The axes.

    Raises:
        TypeError, ValueError: ``usage`` has the wrong type, or no layer.
        ImportError: matplotlib is not installed.
    """
    status = sources.point_status(usage)
    if sort is None:
        sort = max(map(len, status.values())) > MAX_CELLS
    if sort:
        table = torch.stack(list(status.values()))  # [layers, points]
        dead, linear = ((table == value).sum(0) for value in (-1, 0))
        order = (dead * (len(table) + 1) + linear).argsort(descending=True, stable=True)
        status = {name: row[order] for name, row in status.items()}
    return _draw(status, ax, "points", legend, ordered="by dead layers" if sort else None)


def _draw(
    rows: Mapping[str, Tensor], ax: "Axes | None", cells: str, legend: bool, ordered: str | None
) -> "Axes":
    style.need_matplotlib()
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Patch

    names, counts = list(rows), [len(row) for row in rows.values()]
    if ax is None:
        ax = style.new_axes(4.8, style.rows_height(len(names)), names)
    width = counts[0] if len(set(counts)) == 1 and 0 < counts[0] <= COLUMNS else COLUMNS
    columns = torch.stack([_stretched(row, width) for row in rows.values()])  # [layers, width]
    colours = {value: colour for value, (_, colour) in style.STATUS.items()}
    colours[UNMATCHED] = style.UNMATCHED_COLOUR
    palette = torch.tensor([to_rgba(colours[value]) for value in sorted(colours)])
    image = palette[columns.long() + 1].numpy()
    ax.imshow(image, aspect="auto", extent=(0, 1, len(names) - 0.5, -0.5), interpolation="nearest")
    _outline(ax, counts)

    style.name_rows(ax, names)
    style.bare(ax)
    _number(ax, rows)
    ax.tick_params(axis="x", length=2, labelsize=7)
    if len(set(counts)) == 1:
        count = counts[0]
        shown = sorted({0, *range(9, count, 10), count - 1}) if count <= 40 else [0, count - 1]
        shown = shown if count else []
        if ordered:
            ax.set_xticks([0, 1], ["0", f"{count:,}"])
        else:
            ax.set_xticks([(i + 0.5) / count for i in shown], [f"{i + 1:,}" for i in shown])
        ax.set_xlabel(f"{cells}, ordered {ordered}" if ordered else cells, fontsize=8)
    else:
        ax.set_xticks([0, 0.5, 1], ["0", "50 %", "100 %"])
        how = f", ordered {ordered}" if ordered else ""
        ax.set_xlabel(f"{min(counts):,} to {max(counts):,} {cells} a layer{how}", fontsize=8)
    if legend:
        patches = [Patch(facecolor=colour, label=name) for name, colour in style.STATUS.values()]
        style.legend_above(ax, patches)
    return ax


def _stretched(row: Tensor, width: int) -> Tensor:
    """``[cells]`` to ``[width]``, with cells of equal width."""
    if not len(row):
        return torch.full((width,), UNMATCHED, dtype=torch.int8)
    return row[(torch.arange(width) * 2 + 1) * len(row) // (2 * width)]


def _outline(ax: "Axes", counts: list[int]) -> None:
    """White lines between rows, and between cells that are wide enough."""
    from matplotlib.collections import LineCollection

    lines = [[(0.0, i - 0.5), (1.0, i - 0.5)] for i in range(1, len(counts))]
    if max(counts) <= MAX_OUTLINED:
        for i, count in enumerate(counts):
            lines += [[(j / count, i - 0.5), (j / count, i + 0.5)] for j in range(1, count)]
    ax.add_collection(LineCollection(lines, colors="white", linewidths=0.6), autolim=False)


def _number(ax: "Axes", rows: Mapping[str, Tensor]) -> None:
    """The fractions of dead and linear cells, beside each row that has a name."""
    every = style.every_name(len(rows))
    place: dict[str, Any] = {"fontsize": 6.5, "ha": "right", "textcoords": "offset points"}
    for right, (value, (name, _)) in zip((30, 60), list(style.STATUS.items())[:2], strict=True):
        ax.annotate(name, (1, 1), (right, 3), xycoords="axes fraction", va="bottom", **place)
        for i, row in list(enumerate(rows.values()))[::every]:
            share = float((row == value).double().mean()) if len(row) and UNMATCHED not in row else None
            xycoords = ("axes fraction", "data")
            ax.annotate(_percent(share), (1, i), (right, 0), xycoords=xycoords, va="center_baseline", **place)


def _percent(share: float | None) -> str:
    if share is None or share == 0:
        return "–" if share is None else "0"
    if share < 0.001:
        return "<0.1 %"
    if 0.9995 <= share < 1:
        return ">99.9 %"
    return f"{share:.1%}".removesuffix("%").removesuffix(".0") + " %"
