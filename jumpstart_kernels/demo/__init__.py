"""``python -m jumpstart_kernels demo``: a network that trains only with Jumpstart."""

import sys
import time
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jumpstart_kernels.demo.data import TITLES, Data, check_name, load_data
from jumpstart_kernels.demo.figure import FORMATS, Column, draw_figure
from jumpstart_kernels.demo.training import (
    BATCH_SIZE,
    DEPTH,
    LEARNING_RATE,
    WEIGHT_DECAY,
    WIDTH,
    Run,
    build_runs,
    one_thread,
    train,
)
from jumpstart_kernels.ops import backends

if TYPE_CHECKING:
    from rich.table import Table

EXTRAS = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "rich": "rich"}  # module to package


class Setting(NamedTuple):
    """How a data set is trained on."""

    epochs: int
    lam: float


SETTINGS = {"wine": Setting(1000, 0.2), "breast_cancer": Setting(1000, 0.3), "digits": Setting(600, 0.3)}


def run(datasets: list[str], epochs: int | None, seed: int, output: Path) -> int:
    """Train the three networks on each data set; print a table for each and write the figure.

    Args:
        datasets: any of ``"wine"``, ``"breast_cancer"`` and ``"digits"``.
        epochs: passes over each data set; by default those in ``SETTINGS``.
        seed: for the split, the initial weights and the order of the batches.
        output: file for the figure: ``.png``, ``.svg`` or ``.pdf``.

    Returns:
        The exit status: 0, or 2 if a package is missing, which is named on stderr.

    Raises:
        ValueError: an argument is out of range, or the folder of ``output`` does not exist.
    """
    missing = [package for module, package in EXTRAS.items() if find_spec(module) is None]
    if missing:
        need = f"the demo needs {', '.join(missing)}"
        print(f"error: {need}: pip install jumpstart_kernels[demo]", file=sys.stderr)
        return 2
    _check_arguments(datasets, epochs, seed, output)
    from rich.console import Console
    from rich.progress import Progress

    start = time.perf_counter()
    console = Console(highlight=False)
    console.print(
        f"A network of {DEPTH} layers of {WIDTH} ReLU units, trained as it is, with BatchNorm, "
        f"and with Jumpstart\n(Adam, learning rate {LEARNING_RATE}, weight decay {WEIGHT_DECAY}, "
        f"batches of {BATCH_SIZE}). Jumpstart changes one line:\n\n"
        "    loss = criterion(model(x), y) + lam * jk.penalty(model)\n",
        markup=False,
        soft_wrap=True,
    )
    columns: list[Column] = []
    with one_thread(), Progress(console=console, refresh_per_second=4) as progress:
        tasks = {
            name: progress.add_task(TITLES[name], total=epochs or SETTINGS[name].epochs, start=False)
            for name in datasets
        }
        for name, task in tasks.items():
            data = load_data(name, seed)
            runs = build_runs(data, seed, SETTINGS[name].lam)
            progress.start_task(task)
            advance = partial(progress.advance, task)
            train(runs, data, epochs or SETTINGS[name].epochs, seed, on_epoch=advance)
            columns.append(Column(data.title, data.chance, runs))
            progress.console.print(make_table(data, runs))
    draw_figure(columns, output)
    seconds = time.perf_counter() - start
    backend = backends.select(data.x_train)
    console.print(
        f"{output} shows every unit. {seconds:.0f} s, with Jumpstart on the {backend} backend.",
        markup=False,
        soft_wrap=True,
    )
    return 0


def make_table(data: Data, runs: list[Run]) -> "Table":
    """The results of the networks, with step times relative to the first."""
    from rich.table import Table

    samples = f"{len(data.x_train)} training and {len(data.x_test)} test samples"
    settings = f"{runs[0].curve[-1][0]} epochs, lam = {runs[-1].lam}"
    table = Table(
        title=f"{data.title}: {samples}, {data.features} features, {data.classes} classes",
        caption=f"{settings}; chance is {data.chance:.2f}; median step times",
    )
    table.add_column("network")
    for header in ("test accuracy", "dead units", "linear units", "s per step", f"/ {runs[0].name}"):
        table.add_column(header, justify="right")
    for run in runs:
        table.add_row(
            run.name,
            f"{run.accuracy:.2f}",
            f"{run.share(-1):.1%}",
            f"{run.share(0):.1%}",
            f"{run.median_step:.5f}",
            f"{run.median_step / runs[0].median_step:.2f}",
        )
    return table


def _check_arguments(datasets: list[str], epochs: int | None, seed: int, output: Path) -> None:
    if not datasets:
        raise ValueError("datasets must name at least one data set, got none")
    for name in datasets:
        check_name(name)
    if epochs is not None and epochs < 1:
        raise ValueError(f"epochs must be at least 1, got {epochs}")
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be in [0, 2**32 - 1], got {seed}")
    if output.suffix.lower() not in FORMATS:
        raise ValueError(f"output must be a {', '.join(FORMATS)} file, got {str(output)!r}")
    if not output.absolute().parent.is_dir():
        raise ValueError(f"output must be in an existing folder, got {str(output)!r}")
