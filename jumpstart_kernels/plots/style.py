"""Colours and figure settings shared by all plots of the project, including the demo's."""

import importlib.util
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# The Okabe-Ito palette and greys, distinguishable for all kinds of colour vision. The status colours also
# differ in lightness.
BLACK, GREY, LIGHT_GREY, ORANGE = "#000000", "#777777", "#999999", "#E69F00"
YELLOW, GREEN, SKY, BLUE = "#F0E442", "#009E73", "#56B4E9", "#0072B2"
VERMILION, PURPLE = "#D55E00", "#CC79A7"

STATUS = {-1: ("dead", BLACK), 0: ("linear", YELLOW), 1: ("nonlinear", GREEN)}
UNMATCHED_COLOUR = "#FFFFFF"  # a layer whose dimension 0 does not hold the points
MAXIMUM, MINIMUM = BLUE, VERMILION
TERMS = {  # of the penalty: dead is dark and linear light, as in STATUS
    "unit_positive": ("dead units (s⁺)", BLACK),
    "unit_negative": ("linear units (s⁻)", YELLOW),
    "point_positive": ("dead points (s⁺)", GREY),
    "point_negative": ("linear points (s⁻)", ORANGE),
}
PRUNED = {  # the units of a layer in a PruneReport, from dark to light but for what is left
    "kept": ("kept", GREEN),
    "dead_count": ("dead", BLACK),
    "merged_count": ("merged", SKY),
    "passed_on": ("gone with their layer", ORANGE),
}
COSINES = "cividis"  # a sequential map made for all kinds of colour vision, dark to light
# Lines differ in their dashes too.
LINES: tuple[dict[str, Any], ...] = (
    {"color": BLUE, "linestyle": "-"},
    {"color": VERMILION, "linestyle": (0, (4, 1.2))},
    {"color": GREEN, "linestyle": (0, (1, 1))},
    {"color": PURPLE, "linestyle": (0, (6, 1.2, 1, 1.2))},
    {"color": ORANGE, "linestyle": "-"},
    {"color": SKY, "linestyle": (0, (4, 1.2))},
    {"color": BLACK, "linestyle": (0, (1, 1))},
    {"color": GREY, "linestyle": (0, (6, 1.2, 1, 1.2))},
)
MARKERS = ("", "s", "^", "D", "v")  # for each further pass through LINES
GRID: dict[str, Any] = {"color": "#DDDDDD", "linewidth": 0.6}
DPI = 200

ROW = 0.17  # inches of a layer
NAME, SHORT_NAME = 0.058, 12  # inches per letter of a layer's name, and the length that needs no extra room
MARGINS = 1.3  # inches of title, axis and legend together
MAX_NAMES = 60  # layers that are all named


def need_matplotlib() -> None:
    """Raise if matplotlib is missing, and say how to install it."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ImportError("plots need matplotlib: pip install jumpstart_kernels[plots]")


def new_axes(width: float, height: float, names: Iterable[str] = ()) -> "Axes":
    """Axes in a new figure of a size in inches, not registered with pyplot; wider for long names."""
    from matplotlib.figure import Figure

    width += NAME * max(0, max(map(len, names), default=0) - SHORT_NAME)
    return Figure(figsize=(width, height), layout="constrained").subplots()


def rows_height(layers: int) -> float:
    """Height in inches of a figure with this many rows."""
    return max(1.2, ROW * layers) + MARGINS


def name_rows(axes: "Axes", names: list[str]) -> None:
    """Label the rows with layer names at the left, the first at the top: all, or every second, third, ..."""
    every = every_name(len(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_yticks(range(0, len(names), every), names[::every], fontsize=7)
    axes.tick_params(axis="y", length=0, pad=2)


def every_name(rows: int) -> int:
    """How many rows share one label, so that labels do not overlap."""
    return -(-rows // MAX_NAMES)


def legend_above(axes: "Axes", handles: list[Any], columns: int = 4) -> None:
    """Place the legend between axes and title, where it hides nothing."""
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1.0), "borderaxespad": 0.2}
    lengths: dict[str, Any] = {"handlelength": 1.2, "columnspacing": 1.0, "handletextpad": 0.5}
    axes.legend(handles=handles, ncols=columns, frameon=False, fontsize=7, **place, **lengths)


def bare(axes: "Axes", *sides: str) -> None:
    """Hide all spines, or the given ones."""
    axes.spines[list(sides) or ["top", "right", "bottom", "left"]].set_visible(False)
