"""Redraw the figures of docs/instruments.md, watching.md and pruning.md from stored results of one network.

python -m benchmarks.instruments        (part of make figures; --store trains the network anew, half a minute)
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.instruments_training import measure
from benchmarks.report import command, trained
from benchmarks.report.documents import FIGURES
from benchmarks.result_files import Record
from jumpstart_kernels import plots
from jumpstart_kernels.nn.activation import LayerExtrema
from jumpstart_kernels.penalties.by_layer import PenaltyTerms
from jumpstart_kernels.plots import style
from jumpstart_kernels.pruning import LayerReport, Merge, PruneReport, Size

STORED = "instruments.json"
PAIR_DPI = 110


def unit_status(network: Record) -> dict[str, Tensor]:
    return {name: torch.tensor(status, dtype=torch.int8) for name, status in network["unit_status"].items()}


def point_status(network: Record) -> dict[str, Tensor]:
    return {name: torch.tensor(status, dtype=torch.int8) for name, status in network["point_status"].items()}


def extrema(network: Record) -> dict[str, LayerExtrema]:
    """Of the units; those of the points are not stored."""
    none = torch.empty(0)
    return {
        name: LayerExtrema(torch.tensor(maxima), torch.tensor(network["unit_min"][name]), none, none)
        for name, maxima in network["unit_max"].items()
    }


def penalty(network: Record) -> dict[str, PenaltyTerms]:
    return {name: PenaltyTerms(*terms) for name, terms in network["penalty"].items()}


def pruned(network: Record) -> PruneReport:
    report = network["pruned"]
    layers = tuple(
        LayerReport(**{**layer, "merges": tuple(Merge(*merge) for merge in layer["merges"])})
        for layer in report["layers"]
    )
    sizes = {name: Size(**report[name]) for name in ("before", "after")}
    return PruneReport(**{**report, "layers": layers, **sizes})


# By the name of the figure: what it shows of a network, and how.
PAIRS: dict[str, tuple[Callable[[Record], Any], Callable[..., Any]]] = {
    "unit_status": (unit_status, plots.unit_status_map),
    "point_status": (point_status, plots.point_status_map),
    "extrema": (extrema, plots.extrema_strips),
    "penalty": (penalty, plots.penalty_bars),
    "cosines": (lambda network: network["records"], partial(plots.sample_cosine_map, x="epoch")),
    "pruned": (pruned, plots.pruned_units),
}


def redraw(results: Path, root: Path) -> list[Path]:
    """Draw all figures."""
    record = command.read_complete(results / STORED)
    if record is None:
        return []
    networks = record["networks"]
    folder = root / FIGURES
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, (source, draw) in PAIRS.items():
        paths.append(folder / f"instruments_{name}.png")
        draw_pair({network: source(kept) for network, kept in networks.items()}, draw, paths[-1])
    for name, draw_lines in {"curves": draw_curves, "watch": draw_watch}.items():
        paths.append(folder / f"instruments_{name}.png")
        draw_lines(networks).figure.savefig(paths[-1], dpi=style.DPI)
    return paths


def draw_curves(networks: Mapping[str, Record]) -> Any:
    runs = {name: network["records"] for name, network in networks.items()}
    return plots.learning_curves(runs, y="test accuracy")


def draw_watch(networks: Mapping[str, Record]) -> Any:
    histories = {name: network["watch"] for name, network in networks.items()}
    axes: Any = plots.learning_curves(histories, x="forward", y=["unit_dead_ratio", "unit_dormant_ratio"])
    axes.set_ylabel("fraction of units")
    return axes


def draw_pair(sources: dict[str, Any], draw: Callable[..., Any], path: Path) -> None:
    """The same plot of both networks, side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, style.rows_height(50) * 0.72), layout="constrained")
    for ax, (name, source) in zip(figure.subplots(1, len(sources)), sources.items(), strict=True):
        draw(source, ax=ax).set_title(name, fontsize=10, fontweight="bold", loc="left", pad=28)
    figure.savefig(path, dpi=PAIR_DPI)


def main(words: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if words is None else list(words)
    return trained.main("benchmarks.instruments", __doc__ or "", STORED, measure, redraw, words)


if __name__ == "__main__":
    sys.exit(main())
