"""Learning curves."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from jumpstart_kernels.plots import sources, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def learning_curves(
    runs: Mapping[str, Sequence[Mapping[str, Any]]] | Sequence[Mapping[str, Any]],
    *,
    y: str | Sequence[str],
    x: str = "epoch",
    ax: "Axes | None" = None,
    legend: bool = True,
) -> "Axes":
    """Any metric over training, for one run or several.

    Args:
        runs: records in chronological order, ``[{"epoch": 0, "accuracy": 0.3}, ...]``, or several of these by
            run name. A record without ``x`` or ``y``, or with None or NaN for it, is left out.
        y: the name of the metric, or several names; one line per name and run.
        x: the name of the value on the x axis.
        ax: axes to draw on; by default those of a new figure, ``.figure`` of the result.
        legend: whether to name the lines, if there are several.

    Returns:
        The axes.

    Raises:
        TypeError: ``runs`` has the wrong type.
        ValueError: ``y`` is empty, or no record has a name in it.
        ImportError: matplotlib is not installed.
    """
    named = dict(runs) if isinstance(runs, Mapping) else {"": runs}
    for records in named.values():
        sources.check_records("runs must be lists", records)
    quantities = [y] if isinstance(y, str) else list(y)
    if not quantities:
        raise ValueError("y must name at least one metric, got none")
    known = {name for records in named.values() for record in records for name in record}
    for quantity in (x, *quantities):
        if quantity not in known:
            raise ValueError(f"no record has {quantity!r}; they have {', '.join(sorted(known)) or 'nothing'}")
    style.need_matplotlib()
    if ax is None:
        ax = style.new_axes(5.2, 3.4)
    lines = [(run, quantity) for run in named for quantity in quantities]
    for i, (run, quantity) in enumerate(lines):
        pairs = [(record.get(x), record.get(quantity)) for record in named[run]]
        points = [(float(a), float(b)) for a, b in pairs if a is not None and b is not None]
        points = [point for point in points if not any(map(math.isnan, point))]
        label = " ".join(part for part in (run, quantity if len(quantities) > 1 else "") if part)
        across, up = zip(*points, strict=True) if points else ((), ())
        again, number = divmod(i, len(style.LINES))
        marker = style.MARKERS[again % len(style.MARKERS)]
        look = {"linewidth": 1.8, "markersize": 4, "markevery": 1 + len(points) // 10, **style.LINES[number]}
        look["marker"] = marker or ("o" if len(points) == 1 else "")  # a line of one point is invisible
        ax.plot(across, up, label=label, **look)
    ax.set_xlabel(x)
    if len(quantities) == 1:
        ax.set_ylabel(quantities[0])
    ax.grid(axis="y", **style.GRID)
    ax.set_axisbelow(True)
    style.bare(ax, "top", "right")
    if legend and len(lines) > 1:
        style.legend_above(ax, ax.get_legend_handles_labels()[0], columns=3)
    return ax
