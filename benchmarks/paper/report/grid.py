"""A grid of depths and widths as a table and heat maps."""

from statistics import fmean
from typing import TYPE_CHECKING

from benchmarks.paper.changes import runs_with
from benchmarks.paper.report.common import NAMES, count, listed, resources
from benchmarks.paper.sweep import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEEP, WIDE = 30, 2  # the least depth and width in the paper's summary
GOOD = 0.7  # validation accuracy
CHANCE = {"moons": 0.5, "digits": 0.1}
PUBLISHED = {"moons": {"plain": (0.00, 0.42), "batch_norm": (0.61, 0.74), "jumpstart": (0.95, 0.87)}}


def variants(record: Record) -> list[tuple[str, str, float]]:
    """Title, technique and λ of each."""
    found = [(NAMES[technique], technique, 0.0) for technique in ("plain", "batch_norm")]
    return found + [(f"Jumpstart, λ = {lam:g}", "jumpstart", lam) for lam in record["settings"]["lams"]]


def conditions(record: Record) -> str:
    settings = record["settings"]
    return (
        f"{settings['train']:,} training and {settings['validation']:,} validation points, "
        f"{settings['seeds']} seeds, {count(record)}; Adam with learning rate "
        f"{settings['base']['learning_rate']:g}, batches of at most {settings['batch_size']}, "
        f"{settings['epochs']:,} epochs, {settings['evaluations']} evaluations; depths of "
        f"{listed(settings['depths'])}, widths of {listed(settings['widths'])}. {resources(record)}"
    )


def summary_table(record: Record) -> str:
    """The share of deep networks with good accuracy and their mean accuracy, beside the published figures."""
    headings = [f"depth ≥ {DEEP}, width ≥ {WIDE}", "recipe", "networks"]
    for time in ("last epoch", "lowest training loss"):
        headings += [f"networks ≥ {GOOD}, {time}", f"mean accuracy, {time}"]
    headings.append("mean accuracy on all points, last epoch")
    headings += [
        f"{status} units, {split}" for split in ("validation", "training") for status in ("dead", "linear")
    ]
    lines = [f"| {' | '.join(headings)} |", "|---|---|" + "---:|" * (len(headings) - 2)]
    for recipe, change in record["settings"]["recipes"].items():
        for title, technique, lam in variants(record):
            runs = [
                run
                for run in runs_with(record, technique, {**change, "lam": lam})
                if run["depth"] >= DEEP and run["width"] >= WIDE
            ]
            lines.append(f"| {' | '.join([title, recipe, *_summary(record, runs)])} |")
    for technique, figures in PUBLISHED.get(record["settings"]["problem"], {}).items():
        row = [f"published, {NAMES[technique]}", "", "", *(f"{figure:.2f}" for figure in figures)]
        lines.append(f"| {' | '.join(row + [''] * (len(headings) - len(row)))} |")
    return "\n".join(lines)


def _summary(record: Record, runs: list[Record]) -> list[str]:
    if not runs:
        return ["none"] + [""] * 9
    figures = []
    for key in ("accuracy", "lowest_loss_accuracy"):
        values = [run[key] for run in runs]
        figures += [fmean(value >= GOOD for value in values), fmean(values)]
    figures.append(fmean(of_all_points(record, run) for run in runs))
    figures += [fmean(run[key] for run in runs) for key in ("dead", "linear", "train_dead", "train_linear")]
    return [str(len(runs)), *(f"{figure:.2f}" for figure in figures)]


def of_all_points(record: Record, run: Record) -> float:
    """Accuracy on training and validation points together."""
    rows = {"train_accuracy": record["settings"]["train"], "accuracy": record["settings"]["validation"]}
    return sum(run[key] * count for key, count in rows.items()) / sum(rows.values())


def cells(record: Record, runs: list[Record]) -> list[list[float]]:
    """Mean validation accuracy after the last epoch, by depth and width."""
    settings = record["settings"]
    values: dict[tuple[int, int], list[float]] = {}
    for run in runs:
        values.setdefault((run["depth"], run["width"]), []).append(run["accuracy"])
    return [[fmean(values[depth, width]) for width in settings["widths"]] for depth in settings["depths"]]


def draw_grid(record: Record) -> "Figure":
    """Heat maps of mean validation accuracy after the last epoch: rows by recipe, columns by technique."""
    from matplotlib.figure import Figure

    settings, columns = record["settings"], variants(record)
    lowest, recipes = CHANCE[settings["problem"]], settings["recipes"]
    figure = Figure(figsize=(2.5 * len(columns) + 0.8, 3.3 * len(recipes) + 0.4), layout="constrained")
    axes = figure.subplots(len(recipes), len(columns), sharex=True, sharey=True, squeeze=False)
    for row, (recipe, change) in zip(axes, recipes.items(), strict=True):
        for axis, (_, technique, lam) in zip(row, columns, strict=True):
            values = cells(record, runs_with(record, technique, {**change, "lam": lam}))
            image = axis.imshow(values, vmin=lowest, vmax=1, cmap="cividis", aspect="auto", origin="lower")
            for i, line in enumerate(values):
                for j, value in enumerate(line):
                    shade = "black" if value > (1 + lowest) / 2 else "white"
                    axis.text(j, i, f"{value:.2f}", ha="center", va="center", fontsize=7, color=shade)
            axis.set_xticks(range(len(settings["widths"])), settings["widths"])
            axis.set_yticks(range(len(settings["depths"])), settings["depths"])
        row[0].set_ylabel(f"{recipe}\ndepth")
    for axis, (title, _, _) in zip(axes[0], columns, strict=True):
        axis.set_title(title)
    for axis in axes[-1]:
        axis.set_xlabel("width")
    figure.colorbar(image, ax=axes, label="validation accuracy", extend="min")
    return figure
