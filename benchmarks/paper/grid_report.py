"""A grid of depths and widths as a table and heat maps."""

from statistics import fmean
from typing import TYPE_CHECKING

from benchmarks.paper.sweep import Record, runs_of, seconds_of
from benchmarks.paper.uci_report import NAMES, listed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEEP, WIDE = 30, 2  # the least depth and width of what the paper sums up
GOOD = 0.7  # validation accuracy
CHANCE = {"moons": 0.5, "digits": 0.1}
PUBLISHED = {"moons": {"plain": (0.00, 0.42), "batch_norm": (0.61, 0.74), "jumpstart": (0.95, 0.87)}}


def columns(record: Record) -> dict[str, tuple[str, float]]:
    """Heading to technique and λ."""
    found = {NAMES[technique]: (technique, 0.0) for technique in ("plain", "batch_norm")}
    return found | {f"Jumpstart, λ = {lam:g}": ("jumpstart", lam) for lam in record["settings"]["lams"]}


def conditions(record: Record) -> str:
    settings, machine = record["settings"], record["machine"]
    return (
        f"{settings['train']:,} training and {settings['validation']} validation points, "
        f"{settings['seeds']} seeds, {len(runs_of(record)):,} networks, Adam at "
        f"{settings['learning_rate']}, batches of at most {settings['batch_size']}, "
        f"{settings['epochs']:,} epochs; depths of {listed(settings['depths'])}, widths of "
        f"{listed(settings['widths'])}. {machine['cpu']}, {machine['jobs']} processes of one thread: "
        f"{seconds_of(record) / 60:.0f} minutes of processor time. `{machine['command']}`"
    )


def summary_table(record: Record) -> str:
    """Share of the deep networks with good accuracy, and their mean accuracy, beside the published ones."""
    published = PUBLISHED.get(record["settings"]["problem"], {})
    headings = [f"depths from {DEEP}, widths from {WIDE}", "networks"]
    headings += [f"share of accuracy ≥ {GOOD}", "mean accuracy"]
    headings += ["published share", "published mean"] if published else []
    lines = [f"| {' | '.join(headings)} |", "|---|" + "---:|" * (len(headings) - 1)]
    for heading, (technique, lam) in columns(record).items():
        accuracies = [
            run["accuracy"]
            for run in runs_of(record)
            if (run["technique"], run["lam"]) == (technique, lam)
            and run["depth"] >= DEEP
            and run["width"] >= WIDE
        ]
        share = fmean(accuracy >= GOOD for accuracy in accuracies)
        cells = [heading, str(len(accuracies)), f"{share:.2f}", f"{fmean(accuracies):.2f}"]
        cells += [f"{value:.2f}" for value in published.get(technique, ())]
        lines.append(f"| {' | '.join(cells)} |")
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
    lowest = CHANCE[settings["problem"]]
    figure = Figure(figsize=(2.5 * len(found) + 0.8, 3.6), layout="constrained")
    axes = figure.subplots(1, len(found), sharey=True)
    for axis, (heading, (technique, lam)) in zip(axes, found.items(), strict=True):
        values = cells(record, technique, lam)
        image = axis.imshow(values, vmin=lowest, vmax=1, cmap="cividis", aspect="auto", origin="lower")
        for row, line in enumerate(values):
            for column, value in enumerate(line):
                shade = "black" if value > (1 + lowest) / 2 else "white"
                axis.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=7, color=shade)
        axis.set_xticks(range(len(settings["widths"])), settings["widths"])
        axis.set_yticks(range(len(settings["depths"])), settings["depths"])
        axis.set(title=heading, xlabel="width")
    axes[0].set_ylabel("depth")
    figure.colorbar(image, ax=axes, label="validation accuracy", extend="min")
    return figure
