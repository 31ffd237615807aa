"""The UCI results as tables and figures."""

from statistics import fmean
from typing import TYPE_CHECKING

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
from benchmarks.paper.report.common import (
    NAMES,
    STYLES,
    count,
    ends_at_chance,
    listed,
    percent,
    resources,
    spread,
)
from benchmarks.paper.sweep import Record, runs_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PUBLISHED = Global(dead=0.07, linear=0.12, trainability=1.0, convergence=-0.03)
HEADINGS = ("Dead Units", "Linear Units", "Trainability", "Convergence")
HYPERPARAMETER_HEADINGS = (
    "| technique | learning rate | λ | accuracy − best of all | runs at chance | dead units | linear units |"
)


def bests_of(record: Record, runs: list[Record] | None = None) -> list[dict[str, dict[str, Record]]]:
    """The best runs of each seed."""
    runs = runs_of(record) if runs is None else runs
    return [best_runs(runs, seed) for seed in range(record["settings"]["seeds"])]


def conditions(record: Record) -> str:
    settings = record["settings"]
    return (
        f"{len(settings['data_sets'])} data sets, {settings['seeds']} seeds, {count(record)} "
        f"of {settings['depth']} layers of {settings['width']} units; Adam with learning rates "
        f"{listed(settings['learning_rates'])}, λ of {listed(settings['lams'])}, batches of "
        f"{settings['batch_size']} rows, {settings['epochs']:,} epochs, at most {settings['steps']:,} steps. "
        f"{resources(record)}"
    )


def global_table(record: Record) -> str:
    """The four metrics, mean ± standard deviation over the seeds, beside those published for Jumpstart.

    The last two also from accuracies averaged over the seeds.
    """
    bests = bests_of(record)
    ranks = mean_ranks(mean_accuracies(bests))
    headings = [*HEADINGS, *(f"{heading} of mean accuracies" for heading in HEADINGS[2:]), "mean rank"]
    lines = [f"| technique | {' | '.join(headings)} |", "|---|" + "---:|" * len(headings)]
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
    """Jumpstart against each of the others, by best runs and with hyperparameters shared by all data sets."""
    headings = ["Jumpstart against", "wins", "draws", "losses", "p (Wilcoxon)"]
    lines = [f"| compared by | {' | '.join(headings)} |", "|---|---|" + "---:|" * 4]
    shared = [run for _, runs in shared_hyperparameters(record).values() for run in runs]
    for compared, runs in (("best runs", None), ("shared hyperparameters", shared)):
        accuracies = mean_accuracies(bests_of(record, runs))
        for technique, name in NAMES.items():
            if technique != "jumpstart":
                pair = compare(accuracies["jumpstart"], accuracies[technique])
                cells = [compared, name, str(pair.wins), str(pair.draws), str(pair.losses)]
                lines.append(f"| {' | '.join(cells)} | {pair.p_value:.2g} |")
    return "\n".join(lines)


def runs_by_hyperparameters(record: Record, technique: str) -> dict[tuple[float, float], list[Record]]:
    """The runs of each learning rate and λ, in ascending order."""
    found: dict[tuple[float, float], list[Record]] = {}
    for run in runs_of(record):
        if run["technique"] == technique:
            found.setdefault((run["learning_rate"], run["lam"]), []).append(run)
    return dict(sorted(found.items()))


def shared_hyperparameters(record: Record) -> dict[str, tuple[tuple[float, float], list[Record]]]:
    """For each technique, the learning rate and λ with the best mean accuracy, and their runs."""
    return {
        technique: max(
            runs_by_hyperparameters(record, technique).items(),
            key=lambda item: fmean(run["accuracy"] for run in item[1]),
        )
        for technique in NAMES
    }


def shared_hyperparameter_table(record: Record) -> str:
    """Each technique with the same learning rate and λ on all data sets, against the best of all runs."""
    chosen = shared_hyperparameters(record)
    ranks = mean_ranks(
        mean_accuracies(bests_of(record, [run for _, runs in chosen.values() for run in runs]))
    )
    lines = [f"{HYPERPARAMETER_HEADINGS} mean rank |", "|---|" + "---:|" * 7]
    best = best_accuracies(record)
    for technique, (pair, runs) in chosen.items():
        lines.append(f"| {_hyperparameter_row(technique, pair, runs, best)} | {ranks[technique]:.2f} |")
    return "\n".join(lines)


def data_set_table(record: Record) -> str:
    """Test accuracy of each technique's best run on each data set, and Jumpstart's dead and linear units."""
    bests, summaries = bests_of(record), record["settings"]["data_sets"]
    accuracies = mean_accuracies(bests)
    lines = [
        "| data set | rows | classes | majority class | "
        + " | ".join(NAMES.values())
        + " | dead units | linear units |",
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
        rows = summary["rows"] - summary["duplicates"]
        lines.append(
            f"| {summary['title']} | {rows:,} | {summary['classes']} | {summary['majority']:.2f} | "
            + " | ".join(cells)
            + "".join(f" | {share:.2f}" for share in shares)
            + " |"
        )
    return "\n".join(lines)


def hyperparameter_table(record: Record) -> str:
    """The results of each learning rate and λ over all data sets and seeds."""
    lines = [HYPERPARAMETER_HEADINGS, "|---|" + "---:|" * 6]
    best = best_accuracies(record)
    for technique in NAMES:
        for pair, runs in runs_by_hyperparameters(record, technique).items():
            lines.append(f"| {_hyperparameter_row(technique, pair, runs, best)} |")
    return "\n".join(lines)


def best_accuracies(record: Record) -> dict[tuple[str, int], float]:
    """Of all runs, by data set and seed."""
    best: dict[tuple[str, int], float] = {}
    for run in runs_of(record):
        key = (run["data_set"], run["seed"])
        best[key] = max(best.get(key, 0.0), run["accuracy"])
    return best


def _hyperparameter_row(
    technique: str, pair: tuple[float, float], runs: list[Record], best: dict[tuple[str, int], float]
) -> str:
    rate, lam = pair
    behind = fmean(run["accuracy"] - best[run["data_set"], run["seed"]] for run in runs)
    cells = [NAMES[technique], f"{rate:g}", f"{lam:g}" if lam else "", f"{behind:.2f}".replace("-", "−")]
    cells.append(percent(fmean(map(ends_at_chance, runs))))
    cells += [f"{fmean(run[key] for run in runs):.2f}" for key in ("dead", "linear")]
    return " | ".join(cells)


def note_table(record: Record) -> str:
    """How many duplicate rows were removed, and the preprocessing that the files leave open."""
    lines = ["| data set | duplicates removed | features | preprocessing |", "|---|---:|---:|---|"]
    for summary in record["settings"]["data_sets"].values():
        note = summary["note"] or ""
        lines.append(f"| {summary['title']} | {summary['duplicates']:,} | {summary['features']} | {note} |")
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
