"""The networks trained on CIFAR-10: which techniques bring plain ones near skips, and what happens inside."""

from collections.abc import Mapping
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from benchmarks.paper.cifar import ranked
from benchmarks.paper.cifar_techniques import TECHNIQUES
from benchmarks.paper.report.common import listed, resources
from benchmarks.paper.sweep import Record, runs_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OPTIMIZERS = {"adamw": "AdamW", "sgd": "SGD", "muon": "Muon"}
# Of the Okabe-Ito palette; the markers tell them apart without colour.
COLORS = {"adamw": ("#0072B2", "s"), "sgd": ("#E69F00", "^"), "muon": ("#D55E00", "o")}
SHOWN = (
    "plain_adamw",
    "jumpstart_adamw",
    "batch_norm_skips_muon",
    "tat_jumpstart_muon",
    "looks_linear_jumpstart_muon",
)
"""The networks whose insides are drawn."""


def trained(record: Record) -> dict[str, list[Record]]:
    """Of every technique that has them, the runs in full with the best hyperparameters, one for each seed."""
    runs = runs_of(record)
    found = {}
    for name in TECHNIQUES:
        tested = [run for run in runs if run["name"] == name and not run["tuning"]]
        if tested:
            best = ranked(tested, name, tuning=False)[0]
            same = [run for run in tested if _tried(run) == _tried(best)]
            found[name] = sorted(same, key=lambda run: run["seed"])
    return found


def _tried(run: Record) -> tuple[float, float]:
    return run["learning_rate"], run["lam"]


def mean_accuracy(runs: list[Record]) -> float:
    """On the test images."""
    return fmean(run["unseen_accuracy"] for run in runs)


def conditions(record: Record) -> str:
    settings = record["settings"]
    schedule, counts = settings["schedule"], settings["counts"]
    blocks = ", ".join(map(str, schedule["blocks"]))
    rates = "; ".join(
        f"{OPTIMIZERS[name]}: {listed(values)}" for name, values in settings["learning_rates"].items()
    )
    return (
        f"{counts['train']:,} training images with random crops and flips, {counts['validation']:,} to "
        f"choose hyperparameters, {counts['test']:,} to test; stages of {blocks} bottlenecks, "
        f"{schedule['width']} channels in the stem, which has a stride of {schedule['stem_stride']}; "
        f"{schedule['steps']:,} steps of {schedule['batch_size']} images, the learning rate warmed up "
        f"linearly over a tenth of them, then a cosine to 0, gradients clipped to a norm of "
        f"{schedule['max_norm']:g}, no weight decay. Every technique: all learning rates ({rates}) and λ "
        f"({listed(settings['lams'])}) for {settings['tuning_steps']} steps, the best "
        f"{settings['finalists']} in full, the best of these with {settings['seeds']} seeds. "
        f"{resources(record)}"
    )


def technique_table(record: Record) -> str:
    """Test accuracy of each technique with each optimizer, the best first."""
    rows: dict[tuple[str, str], dict[str, list[Record]]] = {}
    for name, runs in trained(record).items():
        technique = TECHNIQUES[name]
        rows.setdefault((technique.title, technique.group), {})[technique.optimizer] = runs
    lines = [
        f"| technique | {' | '.join(OPTIMIZERS.values())} | train accuracy |",
        "|---|" + "---:|" * (len(OPTIMIZERS) + 1),
    ]
    best = {key: max(found.values(), key=mean_accuracy) for key, found in rows.items()}
    for key in sorted(rows, key=lambda key: -mean_accuracy(best[key])):
        cells = [
            spread_of([run["unseen_accuracy"] for run in rows[key][name]]) if name in rows[key] else ""
            for name in OPTIMIZERS
        ]
        cells.append(f"{fmean(run['train_accuracy'] for run in best[key]):.3f}")
        lines.append(f"| {key[0]} | {' | '.join(cells)} |")
    return "\n".join(lines)


def detail_table(record: Record) -> str:
    """What was chosen, and what the networks are like inside after training."""
    lines = [
        "| technique | optimizer | learning rate | λ | cosine of two images, last layer, before and after "
        "| effective rank of the features, before and after | dead units | parameters |",
        "|---|---|" + "---:|" * 6,
    ]
    for name, runs in sorted(trained(record).items(), key=lambda item: -mean_accuracy(item[1])):
        technique, run = TECHNIQUES[name], runs[0]
        rates = technique.learning_rates
        edge = " (edge)" if run["learning_rate"] in (rates[0], rates[-1]) else ""
        first, last = run["diagnoses"][0], run["diagnoses"][-1]
        units = run["units"].get("unit_dead_ratio")
        cells = [
            technique.title,
            OPTIMIZERS[technique.optimizer],
            f"{run['learning_rate']:g}{edge}",
            f"{run['lam']:g}" if technique.penalty else "",
            f"{first['cosines'][-1]:.2f} → {last['cosines'][-1]:.2f}".replace("-", "−"),
            f"{first['rank']:.1f} → {last['rank']:.1f}",
            "" if units is None else f"{units:.3f}",
            f"{run['parameters'] / 1e6:.2f} M",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread_of(values: list[float]) -> str:
    """Mean ± standard deviation, in thousandths."""
    text = f"{fmean(values):.3f}"
    return f"{text} ± {stdev(values):.3f}" if len(values) > 1 else text


def draw_accuracies(record: Record) -> "Figure":
    """Every seed's test accuracy, by technique and optimizer."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    found = trained(record)
    best: dict[str, float] = {}
    for name, runs in found.items():
        title = TECHNIQUES[name].title
        best[title] = max(best.get(title, 0.0), mean_accuracy(runs))
    titles = sorted(best, key=lambda title: best[title])
    figure = Figure(figsize=(8.5, 1.2 + 0.27 * len(titles)), layout="constrained")
    axis = figure.subplots()
    for name, runs in found.items():
        color, marker = COLORS[TECHNIQUES[name].optimizer]
        row = titles.index(TECHNIQUES[name].title)
        accuracies = [run["unseen_accuracy"] for run in runs]
        axis.plot(accuracies, [row] * len(runs), marker, color=color, alpha=0.7, markersize=5, linestyle="")
    axis.axvline(0.1, color="#666666", linestyle=":", linewidth=1)
    axis.set_yticks(range(len(titles)), titles)
    axis.set_xlabel("test accuracy of each seed; dotted: chance")
    axis.grid(alpha=0.3)
    axis.set_axisbelow(True)
    handles = [
        Line2D([], [], color=color, marker=marker, linestyle="", label=OPTIMIZERS[name])
        for name, (color, marker) in COLORS.items()
    ]
    figure.legend(handles=handles, loc="outside upper right", ncols=len(handles), frameon=False)
    return figure


def diagnosed(record: Record) -> Mapping[str, Record]:
    """The first seed's run of each network whose insides are drawn."""
    found = trained(record)
    return {name: found[name][0] for name in SHOWN if name in found}


def draw_insides(record: Record) -> "Figure":
    """Cosine between two images by layer over training, and gradients by layer before and after."""
    from matplotlib.figure import Figure

    import jumpstart_kernels as jk

    runs = diagnosed(record)
    figure = Figure(figsize=(2.6 * len(runs) + 0.8, 5.8), layout="constrained")
    axes = figure.subplots(2, len(runs), squeeze=False, height_ratios=(3, 2))
    for column, (name, run) in enumerate(runs.items()):
        technique = TECHNIQUES[name]
        above, below = axes[:, column]
        cosines = [
            {
                "step": each["step"],
                "cosines": {str(layer): value for layer, value in enumerate(each["cosines"], 1)},
            }
            for each in run["diagnoses"]
        ]
        jk.plots.sample_cosine_map(cosines, ax=above, legend=column == len(runs) - 1)
        layers = len(run["diagnoses"][0]["cosines"])
        above.set_yticks(range(0, layers, 8), [str(layer + 1) for layer in range(0, layers, 8)])
        above.set_title(f"{technique.title},\n{OPTIMIZERS[technique.optimizer]}", fontsize=9)
        for which, style in ((0, "-"), (-1, "--")):
            values = run["diagnoses"][which]["gradients"]
            label = "before training" if which == 0 else "after training"
            below.plot(
                range(1, len(values) + 1),
                values,
                style,
                color="#0072B2" if which == 0 else "#D55E00",
                label=label,
            )
        below.set_yscale("log")
        below.set_ylim(1e-6, 1e2)
        below.set_xlabel("convolution")
        below.grid(alpha=0.3)
    axes[0, 0].set_ylabel("activation")
    axes[1, 0].set_ylabel("gradient / weight, norms")
    axes[1, 0].legend(fontsize=8, frameon=False)
    return figure


TABLES = {
    "cifar-conditions": conditions,
    "cifar-techniques": technique_table,
    "cifar-details": detail_table,
}
