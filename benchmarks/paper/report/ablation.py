"""The ablations as tables and a figure: for each factor, the runs that differ from the base in it."""

from collections.abc import Callable
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

from benchmarks.paper.ablation import BASELINES, FACTORS
from benchmarks.paper.changes import Change, runs_with
from benchmarks.paper.report.common import (
    NAMES,
    STYLES,
    count,
    ends_at_chance,
    percent,
    resources,
    spread,
)
from benchmarks.paper.sweep import Record

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEADINGS = {
    "lam": "λ",
    "lam_schedule": "λ schedule",
    "reduction": "reduction",
    "terms": "terms",
    "rate_schedule": "learning rate schedule",
    "learning_rate": "learning rate",
    "initialization": "initialization",
    "max_norm": "gradient clipping",
    "weight_decay": "weight decay",
}


def conditions(record: Record) -> str:
    settings, base = record["settings"], record["settings"]["base"]
    titles = [summary["title"] for summary in settings["data_sets"].values()]
    return (
        f"{', '.join(titles)}; {settings['seeds']} seeds, {count(record)} of "
        f"{settings['depth']} layers of {settings['width']} units, {settings['epochs']:,} epochs, at most "
        f"{settings['steps']:,} steps. Base: Adam with learning rate {base['learning_rate']:g}, constant "
        f"λ = {base['lam']:g}, balanced reduction, PyTorch's initialization, gradients clipped to a norm of "
        f"{base['max_norm']:g}. {resources(record)}"
    )


def factor_table(factor: str, record: Record) -> str:
    """The runs of each value of a factor, with Jumpstart."""
    changes = record["settings"]["factors"][factor]
    return _table(record, [("jumpstart", change) for change in changes], named=False)


def baseline_table(record: Record) -> str:
    """Initialization and gradient clipping in networks without Jumpstart, and with it."""
    techniques = (*BASELINES, "jumpstart")
    rows = [(technique, change) for technique in techniques for change in record["settings"]["baselines"]]
    return _table(record, [row for row in rows if runs_with(record, *row)], named=True)


def by_seed(runs: list[Record], key: str) -> list[float]:
    """The mean over the data sets, for each seed."""
    values: dict[int, list[float]] = {}
    for run in runs:
        values.setdefault(run["seed"], []).append(run[key])
    return [fmean(of_seed) for of_seed in values.values()]


def _table(record: Record, rows: list[tuple[str, Change]], named: bool) -> str:
    fields = list(dict.fromkeys(field for _, change in rows for field in change))
    headings = ["technique"] * named + [HEADINGS[field] for field in fields]
    headings += ["accuracy, last epoch", "accuracy, lowest training loss", "runs at chance"]
    headings += ["dead units", "linear units"]
    lines = [f"| {' | '.join(headings)} |", "|---" * (named + len(fields)) + "|" + "---:|" * 5]
    for technique, change in rows:
        runs = runs_with(record, technique, change)
        cells = [NAMES[technique]] * named + [_value(field, change[field]) for field in fields]
        cells += [spread(by_seed(runs, key)) for key in ("accuracy", "lowest_loss_accuracy")]
        cells.append(percent(fmean(map(ends_at_chance, runs))))
        cells += [f"{fmean(run[key] for run in runs):.2f}" for key in ("dead", "linear")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _value(field: str, value: Any) -> str:
    if field == "max_norm":
        return "none" if value is None else f"norm ≤ {value:g}"
    return value if isinstance(value, str) else f"{value:g}"


def draw_factors(record: Record) -> "Figure":
    """Test accuracy for every value of every factor: mean over data sets and seeds, and the seeds' range."""
    from matplotlib.figure import Figure

    halves = _in_halves(record["settings"]["factors"])
    heights = [0.23 * sum(map(len, half.values())) + 0.35 * len(half) + 0.6 for half in halves]
    figure = Figure(figsize=(13, max(heights)), layout="constrained")
    base = fmean(by_seed(runs_with(record, "jumpstart", {}), "accuracy"))
    columns: Any = figure.subfigures(1, 2)
    shared = None
    for half, column in zip(halves, columns, strict=True):
        axes = column.subplots(
            len(half), squeeze=False, height_ratios=[len(changes) for changes in half.values()]
        )
        for axis, (factor, changes) in zip(axes[:, 0], half.items(), strict=True):
            if shared is not None:
                axis.sharex(shared)
            shared = shared or axis
            axis.axvline(base, color="#777777", linewidth=1, linestyle=":")
            axis.set_title(factor, loc="left", fontsize=9)
            axis.grid(axis="x", alpha=0.3)
            axis.tick_params(labelbottom=axis is axes[-1, 0])
            _draw_values(axis, record, changes)
        data_sets = len(record["settings"]["data_sets"])
        axes[-1, 0].set_xlabel(f"test accuracy after the last epoch, mean of {data_sets} data sets")
    return figure


def _in_halves(factors: dict[str, list[Change]]) -> tuple[dict[str, list[Change]], dict[str, list[Change]]]:
    """The factors in order, with about as many values on the left as on the right."""
    total = sum(map(len, factors.values()))
    left: dict[str, list[Change]] = {}
    right: dict[str, list[Change]] = {}
    for factor, changes in factors.items():
        fits = not right and sum(map(len, [*left.values(), changes])) <= total / 2
        (left if fits or not left else right)[factor] = changes
    return left, right


def _draw_values(axis: "Axes", record: Record, changes: list[Change]) -> None:
    labels = []
    for row, change in enumerate(changes):
        values = by_seed(runs_with(record, "jumpstart", change), "accuracy")
        colour = STYLES["jumpstart"]["color"]
        axis.plot([min(values), max(values)], [row, row], color=colour, linewidth=1)
        axis.plot(fmean(values), row, marker="s", markersize=5, linestyle="", color=colour)
        parts = [_value(field, value) for field, value in change.items() if field != "lam"]
        parts += [f"λ = {change['lam']:g}"] if "lam" in change else []
        labels.append(", ".join(parts))
    axis.set_yticks(range(len(labels)), labels, fontsize=8)
    axis.set_ylim(len(labels) - 0.5, -0.5)


TABLES: dict[str, Callable[[Record], str]] = {
    "ablation-conditions": conditions,
    **{
        f"ablation-{factor.replace(' ', '-').replace('λ', 'lam')}": partial(factor_table, factor)
        for factor in FACTORS
    },
    "ablation-baselines": baseline_table,
}
