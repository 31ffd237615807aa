"""The grid of depths and widths as a table and heat maps."""

from statistics import fmean
from typing import TYPE_CHECKING

from benchmarks.paper.sweep import Record, runs_of, seconds_of
from benchmarks.paper.uci_report import NAMES, listed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEEP, WIDE = 30, 2  # the least depth and width of what the paper sums up
GOOD = 0.7  # validation accuracy
PUBLISHED = {"plain": (0.00, 0.42), "batch_norm": (0.61, 0.74), "jumpstart": (0.95, 0.87)}


def columns(record: Record) -> dict[str, tuple[str, float]]:
    """Heading to technique and λ."""
    found = {NAMES[technique]: (technique, 0.0) for technique in ("plain", "batch_norm")}
    return found | {f"Jumpstart, λ = {lam:g}": ("jumpstart", lam) for lam in record["settings"]["lams"]}


def conditions(record: Record) -> str:
    settings, machine = record["settings"], record["machine"]
    return (
        f"{settings['train']} training and {settings['validation']} validation points with noise "
        f"{settings['noise']}, {settings['seeds']} seeds, {len(runs_of(record)):,} networks, Adam at "
        f"{settings['learning_rate']}, all points at once, {settings['epochs']:,} epochs; depths of "
        f"{listed(settings['depths'])}, widths of {listed(settings['widths'])}. {machine['cpu']}, "
        f"{machine['jobs']} processes of one thread: {seconds_of(record) / 60:.0f} minutes of one process. "
        f"`{machine['command']}`"
    )


def summary_table(record: Record) -> str:
    """Share of the deep networks with good accuracy, and their mean accuracy, beside the published ones."""
    lines = [
        f"| depths from {DEEP}, widths from {WIDE} | networks | share of accuracy ≥ {GOOD} | mean accuracy "
        "| published share | published mean |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for heading, (technique, lam) in columns(record).items():
        accuracies = [
            run["accuracy"]
            for run in runs_of(record)
            if (run["technique"], run["lam"]) == (technique, lam)
            and run["depth"] >= DEEP
            and run["width"] >= WIDE
        ]
        share = fmean(accuracy >= GOOD for accuracy in accuracies)
        published = " | ".join(f"{value:.2f}" for value in PUBLISHED[technique])
        lines.append(
            f"| {heading} | {len(accuracies)} | {share:.2f} | {fmean(accuracies):.2f} | {published} |"
        )
    return "\n".join(lines)


def cells(record: Record, technique: str, lam: float) -> list[list[float]]:
    """Mean validation accuracy by depth and width."""
    settings = record["settings"]
    values: dict[tuple[int, int], list[float]] = {}
    for run in runs_of(record):
        if (run["technique"], run["lam"]) == (technique, lam):
            values.setdefault((run["depth"], run["width"]), []).append(run["accuracy"])
    return [[fmean(values[depth, width]) for width in settings["widths"]] for depth in settings["depths"]]


def draw_grid(record: Record) -> "Figure":
    """Heat maps of mean validation accuracy, one for each technique and λ."""
    from matplotlib.figure import Figure

    settings, found = record["settings"], columns(record)
    figure = Figure(figsize=(2.5 * len(found) + 0.8, 3.6), layout="constrained")
    axes = figure.subplots(1, len(found), sharey=True)
    for axis, (heading, (technique, lam)) in zip(axes, found.items(), strict=True):
        values = cells(record, technique, lam)
        image = axis.imshow(values, vmin=0.5, vmax=1, cmap="cividis", aspect="auto", origin="lower")
        for row, line in enumerate(values):
            for column, value in enumerate(line):
                shade = "black" if value > 0.75 else "white"
                axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=shade)
        axis.set_xticks(range(len(settings["widths"])), settings["widths"])
        axis.set_yticks(range(len(settings["depths"])), settings["depths"])
        axis.set(title=heading, xlabel="width")
    axes[0].set_ylabel("depth")
    figure.colorbar(image, ax=axes, label="validation accuracy", extend="min")
    return figure
