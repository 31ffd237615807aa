"""The linked-neuron experiments as tables, and the accuracies of all activations as a figure."""

from statistics import fmean
from typing import TYPE_CHECKING, Any

from benchmarks.paper.report.common import count, resources, spread
from benchmarks.paper.sweep import Record, runs_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Test accuracy on CIFAR-10 in the best epoch, in arXiv 1712.02609: the best and the median of the runs of the
# depth experiment (Section 4.1), one run of each ResNet-50 (Section 4.3).
PUBLISHED: dict[str, dict[str, tuple[float, ...]]] = {
    "depth": {
        "relu": (0.1000, 0.1000),
        "relu_wide": (0.1000, 0.1000),
        "linked_relu": (0.5667, 0.5607),
        "batch_norm": (0.5202, 0.5114),
        "prelu": (0.1000, 0.1000),
        "prelu_wide": (0.1000, 0.1000),
        "linked_prelu": (0.5458, 0.5210),
        "selu": (0.5654, 0.5643),
        "selu_wide": (0.5707, 0.5703),
        "linked_selu": (0.5876, 0.5670),
        "silu": (0.1000, 0.1000),
        "silu_wide": (0.1000, 0.1000),
        "linked_silu": (0.1000, 0.1000),
    },
    "resnet50": {
        "relu_batch_norm": (0.8973,),
        "linked_relu": (0.9048,),
        "linked_relu_batch_norm": (0.9027,),
        "selu": (0.8611,),
        "selu_batch_norm": (0.9041,),
        "linked_selu": (0.9088,),
        "linked_selu_batch_norm": (0.9134,),
    },
}
PUBLISHED_STEPS = {  # of the ResNet-50: the time of a training, relative to Linked ReLU's
    "linked_relu": 1.0,
    "linked_relu_batch_norm": 2.09,
    "selu": 1.38,
    "selu_batch_norm": 2.07,
    "linked_selu": 1.6,
    "linked_selu_batch_norm": 2.08,
}
# Of the Okabe-Ito palette; markers tell them apart without colour.
KINDS: dict[str, dict[str, Any]] = {
    "single": {"color": "#000000", "marker": "o"},
    "√2 wider": {"color": "#E69F00", "marker": "^"},
    "linked": {"color": "#0072B2", "marker": "s"},
    "BatchNorm": {"color": "#009E73", "marker": "P"},
}
PUBLISHED_STYLE: dict[str, Any] = {"color": "#D55E00", "marker": "|", "markersize": 11, "markeredgewidth": 2}
ROW, MARGINS = 0.25, 1.1  # inches
NETWORKS = {"depth": "the depth network", "resnet50": "ResNet-50"}


def conditions(record: Record) -> str:
    settings = record["settings"]
    network = (
        f"a 7×7 convolution of stride 2 and {settings['depth']} 3×3 convolutions of {settings['width']} units"
        if settings["network"] == "depth"
        else "a ResNet-50 of 16 to 128 channels, images shifted and flipped"
    )
    return (
        f"{settings['data']}, {settings['train']:,} training and {settings['test']:,} test images; "
        f"{network}; Adam with learning rate {settings['learning_rate']:g}, batches of "
        f"{settings['batch_size']}, {settings['epochs']:,} epochs, λ = {settings['lam']:g}; "
        f"{settings['seeds']} seeds, {count(record)}. {_resources(record)}"
    )


def _resources(record: Record) -> str:
    machine = record["machine"]
    if machine["device_type"] == "cpu":
        return resources(record)
    return f"{machine['device']}, {machine['jobs']} processes: `{machine['command']}`"


def runs_by_variant(record: Record) -> dict[str, list[Record]]:
    """In the order of the settings."""
    found: dict[str, list[Record]] = {name: [] for name in record["settings"]["variants"]}
    for run in runs_of(record):
        found[run["variant"]].append(run)
    return found


def variant_table(record: Record) -> str:
    """Accuracies with their spread, the published ones, and units that see one side only."""
    published = PUBLISHED[record["settings"]["network"]]
    lines = [
        "| network | parameters | test accuracy, last epoch | best epoch | published, CIFAR-10, best epoch "
        "| units never positive | always positive |",
        "|---|" + "---:|" * 6,
    ]
    for name, runs in runs_by_variant(record).items():
        diverged = sum(run["diverged"] for run in runs)
        title = runs[0]["title"] + (f" ({diverged} of {len(runs)} diverged)" if diverged else "")
        cells = [title, f"{runs[0]['parameters']:,}"]
        cells += [spread([run[key] for run in runs]) for key in ("accuracy", "best_accuracy")]
        cells.append(" to ".join(sorted({f"{value:.2f}" for value in published.get(name, ())})))
        for key in ("never_positive", "always_positive"):
            shares = [run[key] for run in runs if run[key] is not None]
            cells.append(f"{fmean(shares):.2f}" if shares else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def kind_of(run: Record) -> str:
    """The key of :data:`KINDS`."""
    if run["linked"]:
        return "linked"
    return "BatchNorm" if run["batch_norm"] else "√2 wider" if run["wide"] else "single"


def draw_accuracies(record: Record) -> "Figure":
    """Test accuracy of every variant in its best epoch: each seed, their mean, and the published range."""
    from matplotlib.figure import Figure

    variants = runs_by_variant(record)
    figure = Figure(figsize=(7.6, ROW * len(variants) + MARGINS), layout="constrained")
    axis = figure.subplots()
    published = PUBLISHED[record["settings"]["network"]]
    for row, (name, runs) in enumerate(variants.items()):
        if row % 2:
            axis.axhspan(row - 0.5, row + 0.5, color="#F4F4F4", linewidth=0)
        values = [run["best_accuracy"] for run in runs]
        style = KINDS[kind_of(runs[0])]
        axis.plot([min(values), max(values)], [row, row], color=style["color"], linewidth=1)
        axis.plot(values, [row] * len(values), linestyle="", markersize=4, alpha=0.4, **style)
        axis.plot(fmean(values), row, linestyle="", markersize=7, **style)
        for value in sorted(set(published.get(name, ()))):
            axis.plot(value, row, linestyle="", **PUBLISHED_STYLE)
    axis.axvline(0.1, color="#777777", linewidth=1, linestyle=":")
    axis.set_yticks(range(len(variants)), [runs[0]["title"] for runs in variants.values()], fontsize=8)
    axis.set(ylim=(len(variants) - 0.5, -0.5), xlim=(0, 1), xlabel=_label(record))
    axis.grid(axis="x", alpha=0.3)
    axis.spines[["top", "right"]].set_visible(False)
    _legend(axis, {kind_of(runs[0]) for runs in variants.values()})
    return figure


def _label(record: Record) -> str:
    return f"test accuracy in the best epoch, {record['settings']['data']}; dotted: chance"


def _legend(axis: "Axes", kinds: set[str]) -> None:
    from matplotlib.lines import Line2D

    styles = {name: style for name, style in KINDS.items() if name in kinds}
    styles["published, on CIFAR-10"] = PUBLISHED_STYLE
    handles = [Line2D([], [], linestyle="", label=name, **style) for name, style in styles.items()]
    axis.figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)


def step_conditions(record: Record) -> str:
    machine = record["machine"]
    threads = f", {machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    return (
        f"Medians and quartiles of rounds in which the networks take turns. {machine['device']}"
        f"{threads if machine['device_type'] == 'cpu' else ''}: `{machine['command']}`"
    )


def step_table(record: Record) -> str:
    """The time of a training step of each network, and its ratio to Linked ReLU's."""
    lines = [
        "| network | variant | batch | ms a step | ratio to Linked ReLU | published |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for network in record["networks"]:
        for name, variant in network["variants"].items():
            published = PUBLISHED_STEPS.get(name) if network["network"] == "resnet50" else None
            cells = [NETWORKS[network["network"]], variant["title"], str(network["input"][0])]
            lower, upper = (1e3 * value for value in variant["quartiles"])
            cells += [
                f"{1e3 * variant['median']:.2f} ({lower:.2f} to {upper:.2f})",
                f"{variant['ratio']:.2f}",
            ]
            cells.append("" if published is None else f"{published:.2f}")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
