"""Redraw the demo's figure and the table of docs/demo.md from stored results.

python -m benchmarks.demo        (part of make figures; --store trains all networks anew, which takes minutes)
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from benchmarks.report import command, trained
from benchmarks.report.documents import FIGURES
from benchmarks.result_files import Record
from jumpstart_kernels.demo import SETTINGS
from jumpstart_kernels.demo.data import load_data
from jumpstart_kernels.demo.figure import Column, draw_figure
from jumpstart_kernels.demo.training import BATCH_NORM, JUMPSTART, PLAIN, Trained, build_runs, train

STORED = "demo.json"
FIGURE = "demo.png"
DOCUMENT = Path("docs/demo.md")
# The figure shows the first of each.
SEEDS = {"wine": range(5), "breast_cancer": range(5), "digits": range(1)}
IN_TABLE = ("wine", "breast_cancer")


def measure(epochs: int | None = None, seeds: Mapping[str, Sequence[int]] = SEEDS) -> Record:
    """Train the demo's networks with each seed; in as many epochs as the demo by default."""
    found: Record = {name: {} for name in seeds}
    for name, seed in ((name, seed) for name, chosen in seeds.items() for seed in chosen):
        data, setting = load_data(name, seed), SETTINGS[name]
        runs = build_runs(data, seed, setting.lam)
        train(runs, data, epochs or setting.epochs, seed)
        networks = [_stored(run) for run in runs]
        found[name][str(seed)] = {"title": data.title, "chance": data.chance, "networks": networks}
        print(f"{data.title}, seed {seed}: {', '.join(f'{run.name} {run.accuracy:.2f}' for run in runs)}")
    return {"data": found}


def _stored(run: Trained) -> Record:
    kept = {field.name: getattr(run, field.name) for field in fields(Trained)}
    return {**kept, "unit_status": run.unit_status.tolist()}


def columns_of(seeds: Mapping[str, Any]) -> dict[str, Column]:
    """A column of the figure for each stored seed of a data set."""
    return {
        seed: Column(
            stored["title"],
            stored["chance"],
            [
                Trained(**{**network, "unit_status": torch.tensor(network["unit_status"], dtype=torch.int8)})
                for network in stored["networks"]
            ],
        )
        for seed, stored in seeds.items()
    }


def make_table(data: Mapping[str, Mapping[str, Column]]) -> str:
    """Accuracies seed by seed, and what became of the units with Jumpstart."""
    header = ["seed"]
    rows: dict[str, list[str]] = {}
    for name in IN_TABLE:
        columns = data[name]
        first = f"{next(iter(columns.values())).title}: {PLAIN}"
        header += [first, BATCH_NORM, JUMPSTART, "dead units", "linear units"]
        for seed, column in columns.items():
            plain, batch_norm, jumpstart = column.runs
            cells = [f"{plain.accuracy:.2f}", f"{batch_norm.accuracy:.2f}", f"**{jumpstart.accuracy:.2f}**"]
            cells += [f"{100 * jumpstart.share(status):.1f} %" for status in (-1, 0)]
            rows.setdefault(seed, [seed]).extend(cells)
    lines = [f"| {' | '.join(cells)} |" for cells in (header, *rows.values())]
    return "\n".join([lines[0], "|---" * len(header) + "|", *lines[1:]])


def redraw(results: Path, root: Path) -> list[Path]:
    """Draw the figure and write the table."""
    record = command.read_complete(results / STORED)
    if record is None:
        return []
    data = {name: columns_of(seeds) for name, seeds in record["data"].items()}
    path = root / FIGURES / FIGURE
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_figure([next(iter(columns.values())) for columns in data.values()], path)
    command.write(root, [DOCUMENT], {"demo-seeds": make_table(data)})
    return [path]


def main(words: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if words is None else list(words)
    return trained.main("benchmarks.demo", __doc__ or "", STORED, measure, redraw, words)


if __name__ == "__main__":
    sys.exit(main())
