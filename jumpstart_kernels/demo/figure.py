"""The figure: the unit status of each network above its learning curves."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from jumpstart_kernels.demo.training import BATCH_NORM, JUMPSTART, PLAIN, Trained
from jumpstart_kernels.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES: dict[str, dict[str, Any]] = {
    PLAIN: {"color": style.LIGHT_GREY, "linewidth": 3.5},
    BATCH_NORM: {"color": style.VERMILION, "linewidth": 1.5, "linestyle": (0, (4, 1.2))},
    JUMPSTART: {"color": style.BLUE, "linewidth": 2.2},
}
CHANCE: dict[str, Any] = {"color": style.BLACK, "linewidth": 1.2, "linestyle": ":"}
FORMATS = (".png", ".svg", ".pdf")

_BESIDE: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}


class Column(NamedTuple):
    """A data set and the networks trained on it."""

    title: str
    chance: float
    runs: Sequence[Trained]


def draw_figure(columns: Sequence[Column], path: Path) -> None:
    """Write the unit-status map of each network above the learning curves, one column per data set.

    Args:
        columns: the same networks in each.
        path: the output file, in one of ``FORMATS``.
    """
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    first = columns[0].runs
    networks = len(first)
    size = (max(3.1 * len(columns), 5.2), 0.95 * networks + 3.6)  # inches
    figure = Figure(figsize=size)
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.05)
    axes = figure.subplots(
        networks + 1, len(columns), squeeze=False, height_ratios=[1] * networks + [2.4], sharey="row"
    )
    for down, column in zip(axes.T, columns, strict=True):
        for axis, run in zip(down[:-1], column.runs, strict=True):
            draw_unit_status(axis, run)
            axis.tick_params(labelbottom=run is column.runs[-1])
        down[0].annotate(
            column.title, (0.5, 1), (0, 20), fontsize=12, fontweight="bold", **_BESIDE, ha="center"
        )
        down[networks - 1].set_xlabel("layer")
        draw_curves(down[-1], column)
    for axis, run in zip(axes[:-1, 0], first, strict=True):
        axis.set_ylabel("unit", labelpad=2)
        text = {"color": LINES[run.name]["color"], "fontweight": "bold", "fontsize": 9, "rotation": 90}
        axis.annotate(run.name, (0, 0.5), (-38, 0), **text, **_BESIDE, ha="center", va="center")
    axes[-1, 0].set_ylabel("test accuracy")

    status = [Patch(facecolor=colour, label=f"{name} unit") for name, colour in style.STATUS.values()]
    lines = [Line2D([], [], label=run.name, **LINES[run.name]) for run in first]
    lines.append(Line2D([], [], label="chance", **CHANCE))
    figure.legend(handles=status, loc="outside upper center", ncols=3, frameon=False)
    figure.legend(handles=lines, loc="outside lower center", ncols=4, frameon=False)
    figure.savefig(path, dpi=style.DPI)


def draw_unit_status(axis: "Axes", run: Trained) -> None:
    """Layers on the x axis, units on the y axis; each cell is one unit of the trained network."""
    from matplotlib.colors import ListedColormap

    layers, units = run.unit_status.shape
    colours = ListedColormap([colour for _, colour in style.STATUS.values()])
    edges = [[i + 0.5 for i in range(count + 1)] for count in (layers, units)]  # cells centred on 1, 2, ...
    status = run.unit_status.T.numpy()  # [units, layers]
    axis.pcolormesh(*edges, status, cmap=colours, vmin=-1, vmax=1, edgecolors="white", linewidth=0.6)
    axis.set_title(
        f"accuracy {run.accuracy:.2f}, {run.share(-1):.1%} dead, {run.share(0):.1%} linear",
        fontsize=8.5,
        loc="left",
        pad=3,
    )
    axis.set_xticks([1, *range(10, layers + 1, 10)])
    axis.set_yticks([1, units])
    axis.tick_params(length=0)
    style.bare(axis)


def draw_curves(axis: "Axes", column: Column) -> None:
    """Test accuracy of each network after each epoch, and the chance level."""
    for run in column.runs:
        epochs, accuracies = zip(*run.curve, strict=True)
        axis.plot(epochs, accuracies, **LINES[run.name])
    axis.axhline(column.chance, **CHANCE)
    axis.set_xlim(0, column.runs[0].curve[-1][0])
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("epoch")
    axis.grid(axis="y", **style.GRID)
    axis.set_axisbelow(True)
    style.bare(axis, "top", "right")
