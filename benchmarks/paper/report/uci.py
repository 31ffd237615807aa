"""The UCI results as tables and figures."""

from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from benchmarks.paper.metrics import (
    Global,
    best_runs,
    compare,
    convergence,
    global_metrics,
    mean_accuracies,
    mean_ranks,
    trainability,
)
from benchmarks.paper.sweep import Record, runs_of, seconds_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAMES = {
    "plain": "ReLU",
    "batch_norm": "BatchNorm",
    "skips": "skip connections",
    "gelu": "GELU",
    "jumpstart": "Jumpstart",
}
PUBLISHED = Global(dead=0.07, linear=0.12, trainability=1.0, convergence=-0.03)
# Of the Okabe-Ito palette; markers and lines tell them apart without colour.
STYLES: dict[str, dict[str, Any]] = {
    "plain": {"color": "#000000", "marker": "o", "linestyle": ":"},
    "batch_norm": {"color": "#009E73", "marker": "P", "linestyle": "-."},
    "skips": {"color": "#E69F00", "marker": "D", "linestyle": "--"},
    "gelu": {"color": "#CC79A7", "marker": "X", "linestyle": (0, (1, 1))},
    "jumpstart": {"color": "#0072B2", "marker": "s", "linestyle": "-", "linewidth": 2.4},
}
HEADINGS = ("Dead Units", "Linear Units", "Trainability", "Convergence")
ROUNDING = 1e-6  # of stored accuracies; a row of the test part is more
CHOICE_HEADINGS = ("accuracy − best of all", "runs that end at chance", "dead", "linear")


def bests_of(record: Record, runs: list[Record] | None = None) -> list[dict[str, dict[str, Record]]]:
    """The best runs of each seed."""
    runs = runs_of(record) if runs is None else runs
    return [best_runs(runs, seed) for seed in range(record["settings"]["seeds"])]


def conditions(record: Record) -> str:
    settings, machine = record["settings"], record["machine"]
    minutes = seconds_of(record) / 60
    return (
        f"{len(settings['data_sets'])} data sets, {settings['seeds']} seeds, {count(record)} "
        f"of {settings['depth']} layers of {settings['width']} units, Adam at "
        f"{listed(settings['learning_rates'])}, λ of {listed(settings['lams'])}, batches of "
        f"{settings['batch_size']} rows, {settings['epochs']:,} epochs, at most {settings['steps']:,} steps. "
        f"{machine['cpu']}, {machine['jobs']} processes of one thread: {minutes:.0f} minutes of processor "
        f"time. `{machine['command']}`"
    )


def global_table(record: Record) -> str:
    """The four metrics, mean ± standard deviation over the seeds, beside what is published of Jumpstart.

    The last two also of the seeds' mean accuracies.
    """
    bests = bests_of(record)
    ranks = mean_ranks(mean_accuracies(bests))
    headings = [*HEADINGS, *(f"{heading}, of the means" for heading in HEADINGS[2:]), "mean rank"]
    lines = [f"| | {' | '.join(headings)} |", "|---|" + "---:|" * len(headings)]
    for technique, name in NAMES.items():
        lines.append(f"| {name} | {_metrics(bests, technique)} | {ranks[technique]:.2f} |")
    published = " | ".join(f"{value:.2f}".replace("-", "−") for value in PUBLISHED)
    lines.append(f"| published, Jumpstart | {published} | | | |")
    return "\n".join(lines)


def _metrics(bests: list[dict[str, dict[str, Record]]], technique: str) -> str:
    by_seed = [global_metrics(best)[technique] for best in bests]
    cells = [spread([found[i] for found in by_seed]) for i in range(len(HEADINGS))]
    means = mean_accuracies(bests)
    cells += [spread([metric(means, technique)]) for metric in (trainability, convergence)]
    return " | ".join(cells)


def pair_table(record: Record) -> str:
    """Jumpstart against each of the others, by their best runs and by one choice for all data sets each."""
    headings = ["Jumpstart against", "wins", "draws", "losses", "p (Wilcoxon)"]
    lines = [f"| compared | {' | '.join(headings)} |", "|---|---|" + "---:|" * 4]
    one_choice = [run for _, runs in one_choices(record).values() for run in runs]
    for compared, runs in (("best runs", None), ("one choice each", one_choice)):
        accuracies = mean_accuracies(bests_of(record, runs))
        for technique, name in NAMES.items():
            if technique != "jumpstart":
                pair = compare(accuracies["jumpstart"], accuracies[technique])
                cells = [compared, name, str(pair.wins), str(pair.draws), str(pair.losses)]
                lines.append(f"| {' | '.join(cells)} | {pair.p_value:.2g} |")
    return "\n".join(lines)


def runs_by_choice(record: Record, technique: str) -> dict[tuple[float, float], list[Record]]:
    """The runs of each learning rate and λ, in their order."""
    found: dict[tuple[float, float], list[Record]] = {}
    for run in runs_of(record):
        if run["technique"] == technique:
            found.setdefault((run["learning_rate"], run["lam"]), []).append(run)
    return dict(sorted(found.items()))


def one_choices(record: Record) -> dict[str, tuple[tuple[float, float], list[Record]]]:
    """Of each technique the learning rate and λ of the best mean accuracy, and its runs."""
    return {
        technique: max(
            runs_by_choice(record, technique).items(),
            key=lambda item: fmean(run["accuracy"] for run in item[1]),
        )
        for technique in NAMES
    }


def one_choice_table(record: Record) -> str:
    """Each technique with one learning rate and λ for all data sets, against the best of all runs."""
    chosen = one_choices(record)
    ranks = mean_ranks(
        mean_accuracies(bests_of(record, [run for _, runs in chosen.values() for run in runs]))
    )
    lines = [f"| | learning rate | λ | {' | '.join(CHOICE_HEADINGS)} | mean rank |", "|---|" + "---:|" * 7]
    best = best_accuracies(record)
    for technique, (choice, runs) in chosen.items():
        lines.append(f"| {_choice_row(technique, choice, runs, best)} | {ranks[technique]:.2f} |")
    return "\n".join(lines)


def data_set_table(record: Record) -> str:
    """Test accuracy of each technique's best run on each data set, and Jumpstart's dead and linear units."""
    bests, summaries = bests_of(record), record["settings"]["data_sets"]
    accuracies = mean_accuracies(bests)
    lines = [
        "| data set | rows | classes | most frequent | " + " | ".join(NAMES.values()) + " | dead | linear |",
        "|---|" + "---:|" * (5 + len(NAMES)),
    ]
    for name, summary in summaries.items():
        means = {technique: accuracies[technique][name] for technique in NAMES}
        top = max(means.values())
        cells = []
        for technique, mean in means.items():
            text = spread([best[name][technique]["accuracy"] for best in bests])
            cells.append(f"**{text}**" if mean == top else text)
        shares = [fmean(best[name]["jumpstart"][key] for best in bests) for key in ("dead", "linear")]
        rows = summary["rows"] - summary["repeats"]
        lines.append(
            f"| {summary['title']} | {rows:,} | {summary['classes']} | {summary['majority']:.2f} | "
            + " | ".join(cells)
            + "".join(f" | {share:.2f}" for share in shares)
            + " |"
        )
    return "\n".join(lines)


def choice_table(record: Record) -> str:
    """What each learning rate and λ come to over all data sets and seeds."""
    lines = [f"| | learning rate | λ | {' | '.join(CHOICE_HEADINGS)} |", "|---|" + "---:|" * 6]
    best = best_accuracies(record)
    for technique in NAMES:
        for choice, runs in runs_by_choice(record, technique).items():
            lines.append(f"| {_choice_row(technique, choice, runs, best)} |")
    return "\n".join(lines)


def best_accuracies(record: Record) -> dict[tuple[str, int], float]:
    """Of all runs, by data set and seed."""
    best: dict[tuple[str, int], float] = {}
    for run in runs_of(record):
        key = (run["data_set"], run["seed"])
        best[key] = max(best.get(key, 0.0), run["accuracy"])
    return best


def _choice_row(
    technique: str, choice: tuple[float, float], runs: list[Record], best: dict[tuple[str, int], float]
) -> str:
    rate, lam = choice
    behind = fmean(run["accuracy"] - best[run["data_set"], run["seed"]] for run in runs)
    at_chance = fmean(ends_at_chance(run) for run in runs)
    cells = [NAMES[technique], f"{rate:g}", f"{lam:g}" if lam else "", f"{behind:.2f}".replace("-", "−")]
    cells += [f"{at_chance:.0%}".replace("%", " %")]
    cells += [f"{fmean(run[key] for run in runs):.2f}" for key in ("dead", "linear")]
    return " | ".join(cells)


def note_table(record: Record) -> str:
    """What was left open by the files, and how many rows were removed since they repeat others."""
    lines = ["| data set | repeats removed | features | choices |", "|---|---:|---:|---|"]
    for summary in record["settings"]["data_sets"].values():
        note = summary["note"] or ""
        lines.append(f"| {summary['title']} | {summary['repeats']:,} | {summary['features']} | {note} |")
    return "\n".join(lines)


def draw_units(record: Record) -> "Figure":
    """The fraction of the data sets whose dead, or linear, unit ratio exceeds t."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    bests = bests_of(record)
    for axis, key in zip(axes, ("dead", "linear"), strict=True):
        for technique, name in NAMES.items():
            ratios = sorted(of_set[technique][key] for best in bests for of_set in best.values())
            heights = [1 - i / len(ratios) for i in range(len(ratios) + 1)]
            style = {k: v for k, v in STYLES[technique].items() if k != "marker"}
            axis.step([0, *ratios, 1], [*heights, 0][: len(ratios) + 2], where="post", label=name, **style)
        axis.set(xlabel=f"t, share of {key} units", xlim=(0, 1), ylim=(0, 1.02))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("data sets with more than t")
    axes[1].legend(loc="upper right")
    return figure


def draw_accuracies(record: Record) -> "Figure":
    """Test accuracy of the best run on each data set: mean over the seeds, and their range."""
    from matplotlib.figure import Figure

    bests, summaries = bests_of(record), record["settings"]["data_sets"]
    names = sorted(summaries, key=mean_accuracies(bests)["jumpstart"].__getitem__)
    figure = Figure(figsize=(9, 0.34 * len(names) + 1.4), layout="constrained")
    axis = figure.subplots()
    for i, (technique, title) in enumerate(NAMES.items()):
        offset = (2 - i) * 0.13
        for row, name in enumerate(names):
            values = [best[name][technique]["accuracy"] for best in bests]
            style = {k: v for k, v in STYLES[technique].items() if k in ("color", "marker")}
            axis.plot([min(values), max(values)], [row + offset] * 2, color=style["color"], linewidth=1)
            axis.plot(
                fmean(values), row + offset, markersize=5, linestyle="", **style, label=None if row else title
            )
    for row, name in enumerate(names):
        axis.plot([summaries[name]["majority"]] * 2, [row - 0.4, row + 0.4], color="#777777", linewidth=1)
    axis.plot([], [], color="#777777", linewidth=1, label="most frequent class")
    axis.set_yticks(range(len(names)), [summaries[name]["title"] for name in names])
    axis.set(xlabel="test accuracy", xlim=(0, 1.01), ylim=(-0.6, len(names) - 0.4))
    axis.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside upper center", ncols=6, frameon=False)
    return figure


def spread(values: list[float]) -> str:
    """Mean ± standard deviation."""
    text = f"{fmean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")
    return text.replace("-", "−")


def ends_at_chance(run: Record) -> bool:
    """Whether it answers no better on the test part than the training part's most frequent class would."""
    return run["accuracy"] <= run["chance"] + ROUNDING


def count(record: Record) -> str:
    """Of networks, and of those that diverged."""
    runs = runs_of(record)
    diverged = sum(run["diverged"] > 0 for run in runs)
    return f"{len(runs):,} networks ({diverged or 'none'} diverged)"


def listed(values: list[float]) -> str:
    *first, last = (f"{value:g}" for value in values)
    return f"{', '.join(first)} and {last}" if first else last
