"""Draw the figures of docs/instruments.md, watching.md and pruning.md, all of the demo's network.

python -m benchmarks.instruments        (--epochs N)
"""

import argparse
import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import jumpstart_kernels as jk
from jumpstart_kernels.demo.data import Data, accuracy, load_data
from jumpstart_kernels.demo.training import LEARNING_RATE, WEIGHT_DECAY, build_network, one_thread, train_step
from jumpstart_kernels.plots import style
from jumpstart_kernels.pruning import PruneReport, permutation_prune

FOLDER = Path(__file__).parent.parent / "docs" / "figures"
LAM = 0.2
EPOCHS_PER_COSINE = 5
TOLERANCE = 0.1
WATCH: dict[str, Any] = {"every": 2, "samples": 0, "warn_dead": None, "warn_linear": None}
WINDOWS = 40  # of observed forwards, over the training
PLAIN, JUMPSTART = "plain", "Jumpstart"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--epochs", type=int, default=400, metavar="N")
    parser.add_argument("--folder", type=Path, default=FOLDER, metavar="FOLDER")
    arguments = parser.parse_args()
    data = load_data("wine", seed=0)
    torch.manual_seed(0)
    plain = build_network(data.features, data.classes)
    jumpstart = jk.replace_relu(copy.deepcopy(plain))
    options = {**WATCH, "window": max(1, arguments.epochs // WATCH["every"] // WINDOWS)}
    watches = {name: jk.watch(model, **options) for name, model in ((PLAIN, plain), (JUMPSTART, jumpstart))}
    with one_thread():
        runs = {
            PLAIN: train(plain, data, arguments.epochs, lam=0.0),
            JUMPSTART: train(jumpstart, data, arguments.epochs, lam=LAM),
        }
        for watch in watches.values():
            watch.remove()
        models = {PLAIN: plain, JUMPSTART: jumpstart}
        usage = {name: jk.unit_usage(model, [data.x_train]) for name, model in models.items()}
        extrema = {name: jk.layer_extrema(model, data.x_train) for name, model in models.items()}
        pruned = {name: prune(model, data) for name, model in models.items()}
    parts = {name: jk.penalty_by_layer(batch) for name, batch in extrema.items()}
    plots = jk.plots
    drawings: dict[str, tuple[dict[str, Any], Callable[..., Any]]] = {
        "unit_status": (usage, plots.unit_status_map),
        "point_status": (usage, plots.point_status_map),
        "extrema": (extrema, plots.extrema_strips),
        "penalty": (parts, plots.penalty_bars),
        "cosines": (runs, partial(plots.sample_cosine_map, x="epoch")),
        "pruned": (pruned, plots.pruned_units),
    }
    for name, (sources, draw) in drawings.items():
        draw_pair(sources, draw, arguments.folder / f"instruments_{name}.png")
    curves: Any = plots.learning_curves(runs, y="test accuracy").figure
    curves.savefig(arguments.folder / "instruments_curves.png", dpi=style.DPI)
    histories = {name: watch.history for name, watch in watches.items()}
    units: Any = plots.learning_curves(histories, x="forward", y=["unit_dead_ratio", "unit_dormant_ratio"])
    units.set_ylabel("fraction of units")
    units.figure.savefig(arguments.folder / "instruments_watch.png", dpi=style.DPI)


def train(model: torch.nn.Module, data: Data, epochs: int, lam: float) -> list[dict[str, Any]]:
    """Full-batch training; returns a record per epoch, some with the cosines, after one of the start."""
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    records: list[dict[str, Any]] = [{"epoch": 0, "cosines": jk.sample_cosines(model, data.x_train)}]
    for epoch in range(epochs):
        train_step(model, optimizer, data.x_train, data.y_train, lam)
        model.eval()
        with torch.no_grad():
            hits = accuracy(model(data.x_test).argmax(1), data.y_test)
        model.train()
        records.append({"epoch": epoch + 1, "test accuracy": hits})
        if (epoch + 1) % EPOCHS_PER_COSINE == 0:
            records[-1]["cosines"] = jk.sample_cosines(model, data.x_train)
    return records


def prune(model: torch.nn.Module, data: Data) -> PruneReport:
    """What of a network is redundant for its training data; printed as well."""
    result = permutation_prune(model, [data.x_train], tolerance=TOLERANCE, unseen=[data.x_test])
    print(result.report)
    return result.report


def draw_pair(sources: dict[str, Any], draw: Callable[..., Any], path: Path) -> None:
    """The same plot of both networks, side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.6, style.rows_height(50) * 0.72), layout="constrained")
    for ax, (name, source) in zip(figure.subplots(1, len(sources)), sources.items(), strict=True):
        draw(source, ax=ax).set_title(name, fontsize=10, fontweight="bold", loc="left", pad=28)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
