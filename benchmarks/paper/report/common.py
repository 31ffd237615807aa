"""What the reports of the experiments share: names and styles of techniques, formats of numbers."""

from statistics import fmean, stdev
from typing import Any

from benchmarks.paper.sweep import Record, runs_of, seconds_of

NAMES = {
    "plain": "ReLU",
    "batch_norm": "BatchNorm",
    "skips": "skip connections",
    "gelu": "GELU",
    "jumpstart": "Jumpstart",
}
# Of the Okabe-Ito palette; markers and lines tell them apart without colour.
STYLES: dict[str, dict[str, Any]] = {
    "plain": {"color": "#000000", "marker": "o", "linestyle": ":"},
    "batch_norm": {"color": "#009E73", "marker": "P", "linestyle": "-."},
    "skips": {"color": "#E69F00", "marker": "D", "linestyle": "--"},
    "gelu": {"color": "#CC79A7", "marker": "X", "linestyle": (0, (1, 1))},
    "jumpstart": {"color": "#0072B2", "marker": "s", "linestyle": "-", "linewidth": 2.4},
}
ROUNDING = 1e-6  # of stored accuracies; one row of the test split changes them by more


def ends_at_chance(run: Record) -> bool:
    """Whether it is no better on the test split than the most frequent class of the training split."""
    return run["accuracy"] <= run["chance"] + ROUNDING


def spread(values: list[float]) -> str:
    """Mean ± standard deviation."""
    text = f"{fmean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")
    return text.replace("-", "−")


def percent(share: float) -> str:
    return f"{share:.0%}".replace("%", " %")


def listed(values: list[float]) -> str:
    *first, last = (f"{value:g}" for value in values)
    return f"{', '.join(first)} and {last}" if first else last


def count(record: Record) -> str:
    """The number of networks, and of those that diverged."""
    runs = runs_of(record)
    diverged = sum(run["diverged"] > 0 for run in runs)
    return f"{len(runs):,} networks ({diverged or 'none'} diverged)"


def resources(record: Record) -> str:
    """The machine, the time it took, and the command."""
    machine = record["machine"]
    processes = "process" if machine["jobs"] == 1 else "processes"
    return (
        f"{machine['cpu']}, {machine['jobs']} single-threaded {processes}, "
        f"{seconds_of(record) / 60:.0f} minutes of CPU time: `{machine['command']}`"
    )
