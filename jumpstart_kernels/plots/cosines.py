"""The mean cosine between samples, over the layers and the training."""

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from jumpstart_kernels.plots import sources, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROUNDING = 1e-3  # beyond ±1, that of a mean of another source
NEGATIVE = -0.1  # from here on the colours begin at −1


def sample_cosine_map(
    records: Sequence[Mapping[str, Any]],
    *,
    x: str = "step",
    y: str = "cosines",
    ax: "Axes | None" = None,
    legend: bool = True,
) -> "Axes":
    """The mean cosine between samples of each layer over training; one row per layer, the first at the top.

    Light: the layer's inputs all point in nearly one direction. The colours are those from 0 to 1, with what
    is below 0 as dark as 0; from −1 if a cosine is below −0.1, as only few samples can have it in the mean.
    A cell reaches halfway to the neighbouring records, the axis from the first to the last. White: NaN, or a
    record without the layer.

    Args:
        records: in chronological order, ``[{"step": 0, "cosines": {"relu": 0.3, ...}}, ...]``, with cosines
            by layer from :func:`~jumpstart_kernels.sample_cosines` or the ``cosines`` of a report. A record
            without ``x`` or ``y``, or with None for it, is left out.
        x: the name of the value on the x axis.
        y: the name of the cosines.
        ax: axes to draw on; by default those of a new figure, ``.figure`` of the result.
        legend: whether to draw a colour bar beside the map.

    Returns:
        The axes.

    Raises:
        TypeError: ``records`` or something in it has the wrong type.
        ValueError: no record has ``x`` and ``y``, there is no layer, a cosine is beyond ±1, or the order is
            not chronological.
        ImportError: matplotlib is not installed.
    """
    positions, columns = _checked(records, x, y)
    names = list(dict.fromkeys(name for column in columns for name in column))
    if not names:
        raise ValueError(f"records must have a layer in {y!r}, got none")
    rows = [[column.get(name, math.nan) for column in columns] for name in names]
    lowest = min((value for row in rows for value in row if not math.isnan(value)), default=0.0)
    style.need_matplotlib()
    from matplotlib import colormaps
    from numpy.ma import masked_invalid

    if ax is None:
        ax = style.new_axes(5.6, style.rows_height(len(names)), names)
    colours = colormaps[style.COSINES].with_extremes(bad=style.UNMATCHED_COLOUR)
    mesh = ax.pcolormesh(
        _edges(positions),
        [row - 0.5 for row in range(len(names) + 1)],
        masked_invalid(rows),
        cmap=colours,
        vmin=-1.0 if lowest < NEGATIVE else 0.0,
        vmax=1.0,
        rasterized=True,  # an .svg of many small cells would be slow
    )
    style.name_rows(ax, names)
    style.bare(ax)
    ax.tick_params(axis="x", length=2, labelsize=7)
    if len(positions) == 1:
        ax.set_xticks(positions, [f"{positions[0]:g}"])
    ax.set_xlabel(x, fontsize=8)
    if legend:
        below = "min" if NEGATIVE <= lowest < 0 else "neither"
        bar = ax.figure.colorbar(mesh, ax=ax, extend=below, pad=0.02, aspect=30)
        bar.set_label("mean cosine between samples", fontsize=8)
        bar.ax.tick_params(labelsize=7, length=2)
        bar.outline.set_visible(False)
    return ax


def _checked(
    records: Sequence[Mapping[str, Any]], x: str, y: str
) -> tuple[list[float], list[dict[str, float]]]:
    """The values of ``x``, and the cosines by layer at each."""
    sources.check_records("records must be a list", records)
    positions: list[float] = []
    columns = []
    for record in records:
        position, cosines = record.get(x), record.get(y)
        if position is None or cosines is None:
            continue
        if not isinstance(cosines, Mapping):
            raise TypeError(f"records must have cosines by layer in {y!r}, got {type(cosines).__name__}")
        position = _number(position, f"as {x!r}")
        if not math.isfinite(position):
            raise ValueError(f"records must have a finite {x!r}, got {position}")
        if positions and position <= positions[-1]:
            raise ValueError(
                f"records must be in chronological order, got {x} {position:g} after {positions[-1]:g}"
            )
        positions.append(position)
        columns.append({name: _cosine(value, name) for name, value in cosines.items()})
    if not positions:
        known = ", ".join(sorted({str(name) for record in records for name in record}))
        raise ValueError(f"no record has both {x!r} and {y!r}; they have {known or 'nothing'}")
    return positions, columns


def _cosine(value: object, name: str) -> float:
    cosine = _number(value, f"for layer {name!r}")
    if abs(cosine) > 1 + ROUNDING:
        raise ValueError(f"records must have cosines in [-1, 1], got {cosine:g} for layer {name!r}")
    return cosine


def _number(value: Any, where: str) -> float:
    is_number = isinstance(value, numbers.Real) or (isinstance(value, Tensor) and value.dim() == 0)
    if isinstance(value, bool) or not is_number:
        raise TypeError(f"records must have a number {where}, got {type(value).__name__}")
    return float(value)


def _edges(positions: list[float]) -> list[float]:
    """Of cells that meet halfway between neighbours; the first begins and the last ends at its record."""
    if len(positions) == 1:
        return [positions[0] - 0.5, positions[0] + 0.5]
    inner = [(a + b) / 2 for a, b in zip(positions, positions[1:], strict=False)]
    return [positions[0], *inner, positions[-1]]
