"""The networks trained on CIFAR-10, as a table and learning curves."""

from typing import TYPE_CHECKING, Any

from benchmarks.paper.sweep import Record

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Of the Okabe-Ito palette; the markers tell them apart without colour.
STYLES: dict[str, dict[str, Any]] = {
    "batch_norm_skips": {"color": "#009E73", "marker": "P", "linestyle": "-."},
    "plain": {"color": "#000000", "marker": "o", "linestyle": ":"},
    "jumpstart": {"color": "#0072B2", "marker": "s"},
    "jumpstart_1.5": {"color": "#56B4E9", "marker": "^"},
    "jumpstart_2": {"color": "#D55E00", "marker": "v"},
}


def conditions(record: Record) -> str:
    settings, machine = record["settings"], record["machine"]
    norm = settings["max_norm"]
    clipping = "" if norm is None else f", gradients clipped to a norm of {norm:g}"
    blocks = ", ".join(map(str, settings["blocks"]))
    return (
        f"{settings['train']:,} training and {settings['test']:,} test images with random crops and flips; "
        f"stages of {blocks} bottlenecks, {settings['channels']} channels in the stem at width 1; Adam, "
        f"the learning rate warmed up linearly to {settings['learning_rate']:g} over a tenth of the steps, "
        f"then a cosine to 0; batches of {settings['batch_size']}, {settings['epochs']} epochs, "
        f"λ = {settings['lam']:g}, weight decay {settings['weight_decay']:g}{clipping}; seed "
        f"{settings['seed']}. {machine['device']}: `{machine['command']}`"
    )


def variant_table(record: Record) -> str:
    """Accuracy after the last epoch, unit usage over the test images, and time."""
    lines = [
        "| network | parameters | test accuracy | dead units | linear units | dead points "
        "| seconds per epoch |",
        "|---|" + "---:|" * 6,
    ]
    for variant in record["variants"].values():
        usage = variant["usage"]
        ratios = [usage[name] for name in ("unit_dead_ratio", "unit_linear_ratio", "point_dead_ratio")]
        title = variant["title"] + (", diverged" if variant["epochs"][-1]["loss"] is None else "")
        cells = [title, f"{variant['parameters'] / 1e6:.2f} M", f"{variant['accuracy']:.3f}"]
        cells += [f"{ratio:.3f}" for ratio in ratios]
        cells.append(f"{variant['train_seconds'] / len(variant['epochs']):.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def draw_curves(record: Record) -> "Figure":
    """Test accuracy over the epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.5, 3.8), layout="constrained")
    axis = figure.subplots()
    for name, variant in record["variants"].items():
        accuracies = [epoch["accuracy"] for epoch in variant["epochs"]]
        axis.plot(
            range(1, len(accuracies) + 1), accuracies, label=variant["title"], markersize=4, **STYLES[name]
        )
    axis.set(xlabel="epoch", ylabel="test accuracy", ylim=(0, None))
    axis.grid(alpha=0.3)
    figure.legend(loc="outside right upper")
    return figure
