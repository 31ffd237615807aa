"""The units that permutation pruning and its peers remove, as a figure."""

from typing import TYPE_CHECKING, Any

from benchmarks.paper.report.pruning_runs import Way, middle, names_of, own_ways, results_of
from benchmarks.paper.sweep import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Of the Okabe-Ito palette; markers tell them apart without color.
STYLES: dict[str, dict[str, Any]] = {
    "one ranking": {"color": "#E69F00", "marker": "o"},
    "same search": {"color": "#009E73", "marker": "^"},
}
OWN_COLOR, OWN_MARKERS = "#0072B2", ("x", "D", "s")
ROW, MARGINS = 0.5, 1.3  # inches


def draw_units(record: Record) -> "Figure":
    """The share of the units that each method removes: a panel for each data set and shape."""
    from matplotlib.figure import Figure

    settings = record["settings"]
    rows, columns = len(settings["shapes"]), len(settings["data_sets"])
    trainings = list(settings["trainings"])
    height = rows * (ROW * len(trainings) + 0.6) + MARGINS
    figure = Figure(figsize=(3.4 * columns + 1.6, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    for place, cell in results_of(record).items():
        row = list(settings["shapes"]).index(place.shape)
        axis = axes[row, list(settings["data_sets"]).index(place.data_set)]
        axis.set_title(", ".join(names_of(record, place)[:2]), fontsize=9)
        _draw_cell(axis, record, cell, trainings.index(place.training))
    for axis in axes[-1]:
        axis.set_xlabel("share of the units removed", fontsize=8)
    axes[0, 0].set(ylim=(len(trainings) - 0.5, -0.5))
    for axis in axes[:, 0]:
        axis.set_yticks(range(len(trainings)), trainings)
    _legend(figure, record)
    return figure


def _draw_cell(axis: "Axes", record: Record, cell: dict[Way, list[Record]], row: int) -> None:
    units = next(iter(cell.values()))[0]["removable"]
    for place, protocol in enumerate(record["settings"]["protocols"]):
        y, style = row + 0.27 * (1 if place else -1), STYLES[protocol]
        shares = [
            middle(cell[Way(name, protocol)], "removed") / units for name in record["settings"]["peers"]
        ]
        axis.plot(shares, [y] * len(shares), linestyle="", markersize=4, alpha=0.4, **style)
        axis.plot(max(shares), y, linestyle="", markersize=7, **style)
    for way, marker in zip(own_ways(record), OWN_MARKERS, strict=False):
        share = middle(cell[way], "removed") / units
        axis.plot(share, row, linestyle="", marker=marker, color=OWN_COLOR, markersize=6)
    axis.axhline(row + 0.5, color="#CCCCCC", linewidth=0.6)
    axis.grid(axis="x", alpha=0.3)
    axis.tick_params(labelsize=8)
    axis.spines[["top", "right"]].set_visible(False)


def _legend(figure: "Figure", record: Record) -> None:
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], linestyle="", marker=marker, color=OWN_COLOR, label=f"ours, {way.protocol}")
        for way, marker in zip(own_ways(record), OWN_MARKERS, strict=False)
    ]
    handles += [
        Line2D([], [], linestyle="", label=f"peers, {protocol} (large: the best)", **STYLES[protocol])
        for protocol in record["settings"]["protocols"]
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=8)
