"""Draw docs/figures/plasticity.png and write the tables of docs/plasticity.md from the stored results.

python -m benchmarks.plasticity.report        (part of make figures)
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.paper.sweep import Record
from benchmarks.plasticity import tables
from benchmarks.report import command
from benchmarks.report.documents import DPI, FIGURES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DOCUMENT = Path("docs/plasticity.md")
CAPTION = "Score and dead units over the tasks for each technique, problem and optimizer"
SMOOTHED = 20  # a point of a curve is the mean over this fraction of the tasks
# Of the Okabe-Ito palette; lines tell them apart without colour.
STYLES: dict[str, dict[str, Any]] = {
    "backprop": {"color": "#000000", "linewidth": 2},
    "l2": {"color": "#888888", "linestyle": "--"},
    "l2_init": {"color": "#56B4E9", "linewidth": 2},
    "shrink_and_perturb": {"color": "#888888", "linestyle": ":"},
    "redo": {"color": "#009E73", "linestyle": "-."},
    "continual_backprop": {"color": "#E69F00", "linewidth": 2},
    "linked": {"color": "#CC79A7", "linestyle": "-"},
    "layer_norm": {"color": "#CC79A7", "linestyle": ":"},
    "jumpstart": {"color": "#0072B2", "linewidth": 2.4},
    "jumpstart_l2_init": {"color": "#0072B2", "linewidth": 2, "linestyle": (0, (3, 1))},
    "jumpstart_best": {"color": "#D55E00", "linewidth": 2.4},
}
BANDS = ("backprop", "continual_backprop", "jumpstart", "jumpstart_best")


def curves(runs: list[Record]) -> Tensor:
    """Scores of each seed, smoothed, ``[seeds, tasks - window + 1]``."""
    scores = [[float("nan") if value is None else value for value in run["scores"]] for run in runs]
    values = torch.tensor(scores, dtype=torch.float64)
    return F.avg_pool1d(values[:, None], max(1, values.shape[1] // SMOOTHED), 1)[:, 0]


def draw(record: Record) -> "Figure":
    """Rows: problems. Columns: score and dead units with each optimizer."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    problems = record["settings"]["problems"]
    figure = Figure(figsize=(13, 3 * len(problems) + 0.9), layout="constrained")
    axes = figure.subplots(len(problems), 4, squeeze=False)
    for row, (problem, setting) in zip(axes, problems.items(), strict=True):
        for place, (optimizer, title) in enumerate(tables.OPTIMIZERS.items()):
            groups = tables.tested(record, problem, optimizer)
            draw_scores(row[2 * place], groups)
            draw_dead(row[2 * place + 1], groups)
            row[2 * place].set_title(f"{setting['title']}, {title}", fontsize=10)
            row[2 * place].set_ylabel(setting["score"])
            row[2 * place + 1].set_ylabel("dead units")
            if tables.is_regression(record, problem):
                set_logarithmic(row[2 * place])
        for axis in row:
            axis.set_xlabel("task")
            axis.grid(alpha=0.3)
    handles = [Line2D([], [], label=tables.NAMES[name], **style) for name, style in STYLES.items()]
    figure.legend(handles=handles, loc="outside upper center", ncols=6, frameon=False)
    return figure


def set_logarithmic(axis: "Axes") -> None:
    """With ticks at 1, 2 and 5 that read as plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def draw_scores(axis: "Axes", groups: dict[str, list[Record]]) -> None:
    """Means over seeds; for some techniques the band from the lowest to the highest."""
    for name, runs in groups.items():
        values = curves(runs)
        first = len(runs[0]["scores"]) - values.shape[1] + 1
        tasks = range(first, first + values.shape[1])
        axis.plot(tasks, values.nanmean(0), **STYLES[name])
        if name in BANDS:
            low, high = values.amin(0), values.amax(0)
            axis.fill_between(tasks, low, high, color=STYLES[name]["color"], alpha=0.15, linewidth=0)


def draw_dead(axis: "Axes", groups: dict[str, list[Record]]) -> None:
    for name, runs in groups.items():
        means = torch.tensor([run["dead"] for run in runs], dtype=torch.float64).mean(0)
        axis.plot([task + 1 for task in runs[0]["measured"]], means, **STYLES[name])


def redraw(results: Path, root: Path) -> list[Path]:
    """Draw the figure, and write the tables."""
    record = command.read_complete(results / "plasticity.json")
    if record is None:
        return []
    picture = root / FIGURES / "plasticity.png"
    picture.parent.mkdir(parents=True, exist_ok=True)
    draw(record).savefig(picture, dpi=DPI)
    parts = {
        "plasticity-conditions": tables.conditions(record),
        "plasticity-summary": tables.summary_table(record),
        "plasticity-goal": tables.goal_table(record),
        "plasticity-rates": tables.rate_table(record),
        "plasticity-course": tables.course_table(record),
        "figure-plasticity": f"![{CAPTION}](figures/{picture.name})",
    }
    for problem in record["settings"]["problems"]:
        parts[f"plasticity-{problem}"] = tables.detail_table(record, problem)
    command.write(root, [DOCUMENT], parts)
    return [picture]


def main(words: Sequence[str] | None = None) -> int:
    parser = command.make_parser("benchmarks.plasticity.report", __doc__ or "")
    command.run(parser.parse_args(words), parser, redraw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
