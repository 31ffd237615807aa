"""Sparse networks as tables, the claim that they test, and accuracy over sparsity as a figure."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from benchmarks.paper.report.common import NAMES, count, listed, resources
from benchmarks.paper.sweep import Record, runs_of
from benchmarks.paper.tickets_arms import ARMS, NO_REWINDING, trainings_of
from jumpstart_kernels.plots.style import GREY, GRID, LINES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TECHNIQUES = ("plain", "jumpstart")
CLAIMED, WITHIN = (0.9, 0.98), 0.01
"""The sparsities of the claim, and the accuracy that one shot may lack."""
STYLES = {arm: {**line, "marker": marker} for arm, line, marker in zip(ARMS, LINES, "os^DvP", strict=False)}
REFERENCE: dict[str, Any] = {"color": GREY, "linestyle": (0, (1, 1)), "linewidth": 1.2}
PANEL = (3.1, 2.0)  # inches

Place = tuple[str, int, int]  # data set, depth, width


def places(record: Record) -> list[Place]:
    """The data sets by shape, in the order of the settings."""
    found = {(run["data_set"], run["depth"], run["width"]) for run in runs_of(record)}
    order = list(record["settings"].get("data_sets", {}))
    return sorted(found, key=lambda place: (place[1:], order.index(place[0]) if order else 0))


def chosen(
    record: Record, place: Place, technique: str, arms: Iterable[str], sparsity: float
) -> list[Record]:
    """The runs, one for each seed, of the arm and λ with the highest mean accuracy on the validation rows."""
    groups: dict[tuple[str, float], list[Record]] = {}
    for run in runs_of(record):
        at = (run["data_set"], run["depth"], run["width"], run["technique"], run["sparsity"])
        if at == (*place, technique, sparsity) and run["arm"] in ("dense", *arms):
            groups.setdefault((run["arm"], run["lam"]), []).append(run)
    return max(groups.values(), key=lambda runs: fmean(run["validation_accuracy"] for run in runs))


def accuracies(runs: list[Record]) -> list[float]:
    """Test accuracies by seed."""
    return [run["accuracy"] for run in sorted(runs, key=lambda run: run["seed"])]


@dataclass(frozen=True)
class Verdict:
    """The claim in one place: the two sides' runs."""

    place: Place
    sparsity: float
    peer: list[Record]
    """Iterative with rewinding, with ReLU or Jumpstart, whichever the validation rows prefer."""
    shot: list[Record]
    """One shot with Jumpstart and no rewinding, in the way that the validation rows prefer."""

    @property
    def differences(self) -> list[float]:
        pairs = zip(accuracies(self.shot), accuracies(self.peer), strict=True)
        return [shot - peer for shot, peer in pairs]

    @property
    def holds(self) -> bool:
        return fmean(self.differences) >= -WITHIN


def verdicts(record: Record) -> list[Verdict]:
    """The claim at each of its sparsities, in each place, as far as it was measured."""
    settings = record["settings"]
    arms = [arm for arm in NO_REWINDING if arm in settings["arms"]]
    if not arms or "iterative" not in settings["arms"]:
        return []
    found = []
    for place in places(record):
        for sparsity in (value for value in CLAIMED if value in settings["sparsities"]):
            sides = [chosen(record, place, name, ["iterative"], sparsity) for name in TECHNIQUES]
            peer = max(sides, key=lambda runs: fmean(run["validation_accuracy"] for run in runs))
            shot = chosen(record, place, "jumpstart", arms, sparsity)
            found.append(Verdict(place, sparsity, peer, shot))
    return found


def conditions(record: Record) -> str:
    settings, machine = record["settings"], record["machine"]
    shared = (
        f"Sparsities are of the weights of the hidden layers; iterative pruning in {len(settings['rounds'])} "
        f"rounds, at {listed(settings['rounds'])}; λ of {listed(settings['lams'])}; {settings['seeds']} "
        f"seeds, {count(record)}"
    )
    if settings["network"] == "resnet20":
        return (
            f"ResNet-20 on {settings['train']:,} images of CIFAR-10, a tenth of them for validation, "
            f"{settings['test']:,} for the test; SGD with learning rate {settings['learning_rate']:g}, "
            f"weight decay {settings['weight_decay']:g}, batches of {settings['batch_size']}, "
            f"{settings['epochs']} epochs a training. {shared}. {machine['device']}: `{machine['command']}`"
        )
    shapes = " and ".join(f"{depth} layers of {width} units" for depth, width in settings["shapes"])
    return (
        f"Networks of {shapes}; Adam with learning rate {settings['learning_rate']:g}, falling linearly to "
        f"0, He initialization, gradients clipped to a norm of {settings['recipe']['max_norm']:g}, batches "
        f"of at most {settings['batch_size']}, {settings['steps']} steps a training. {shared}. "
        f"{resources(record)}"
    )


def claim(record: Record) -> str:
    """Whether it holds, in words."""
    found = verdicts(record)
    parts = []
    for sparsity in CLAIMED:
        at = [verdict for verdict in found if verdict.sparsity == sparsity]
        if not at:
            continue
        holding = sum(verdict.holds for verdict in at)
        differences = [100 * fmean(verdict.differences) for verdict in at]
        parts.append(
            f"at {sparsity:g} in {holding} of {len(at)} cases (differences of {_signed(min(differences))} to "
            f"{_signed(max(differences))} points, {_signed(fmean(differences))} on average)"
        )
    holds = "holds here" if all(verdict.holds for verdict in found) else "does not hold here"
    return (
        "The claim is that one shot without rewinding, with Jumpstart, is within 1 point of accuracy of "
        f"iterative pruning with rewinding. It **{holds}**: {', '.join(parts)}."
    )


def _signed(points: float) -> str:
    return f"{points:+.1f}".replace("-", "−")


def claim_table(record: Record) -> str:
    """Both sides of the claim, in every place."""
    lines = [
        "| data | network | sparsity | iterative, rewound, % | trainings "
        "| one shot, no rewinding, Jumpstart, % | trainings | difference | within 1 point |",
        "|---|---|---:|---|---:|---|---:|---:|---|",
    ]
    for verdict in verdicts(record):
        name, depth, width = verdict.place
        peer, shot = verdict.peer[0], verdict.shot[0]
        cells = [name, f"{depth} × {width}", f"{verdict.sparsity:g}"]
        cells += [f"{points(accuracies(verdict.peer))} ({NAMES[peer['technique']]})", str(peer["trainings"])]
        kind = f"{ARMS[shot['arm']].removeprefix('one shot, ')}; λ = {shot['lam']:g}"
        cells += [f"{points(accuracies(verdict.shot))} ({kind})", str(shot["trainings"])]
        cells += [points(verdict.differences), "yes" if verdict.holds else "no"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def points(values: list[float]) -> str:
    """Mean ± standard deviation over the seeds, in percent."""
    text = f"{100 * fmean(values):.1f}" + (f" ± {100 * stdev(values):.1f}" if len(values) > 1 else "")
    return text.replace("-", "−")


def effect(record: Record) -> str:
    """What Jumpstart changes in each way, by shape: the means over data sets with ReLU and with Jumpstart."""
    settings = record["settings"]
    ways = {ARMS[arm]: [arm] for arm in ("iterative", "random") if arm in settings["arms"]}
    ways["one shot without rewinding"] = [arm for arm in NO_REWINDING if arm in settings["arms"]]
    lines = []
    for (depth, width), of_shape in by_shape(record).items():
        for sparsity in (value for value in (0.0, *CLAIMED) if value in (0.0, *settings["sparsities"])):
            parts = []
            for title, arms in ways.items() if sparsity else (("dense", []),):
                means = [mean_accuracy(record, of_shape, name, arms, sparsity) for name in TECHNIQUES]
                parts.append(f"{title} {means[0]:.3f} with ReLU, {means[1]:.3f} with Jumpstart")
            at = f" at {sparsity:g}" if sparsity else ""
            lines.append(f"- {depth} layers of {width} units{at}: {'; '.join(parts)}.")
    return "\n".join(lines)


def accuracy_table(record: Record) -> str:
    """Test accuracy of every arm at every sparsity, mean over data sets and seeds."""
    settings = record["settings"]
    sparsities = [0.0, *settings["sparsities"]]
    headings = " | ".join(f"{sparsity:g}" for sparsity in sparsities)
    lines = [f"| network | way | activation | {headings} |", "|---|---|---|" + "---:|" * len(sparsities)]
    for shape, of_shape in by_shape(record).items():
        for arm in settings["arms"]:
            for technique in TECHNIQUES:
                means = [mean_accuracy(record, of_shape, technique, [arm], value) for value in sparsities]
                cells = [f"{shape[0]} × {shape[1]}", ARMS[arm], NAMES[technique]]
                lines.append(f"| {' | '.join([*cells, *(f'{mean:.3f}' for mean in means)])} |")
    return "\n".join(lines)


def cost_table(record: Record) -> str:
    """What each way costs in all, beside its accuracy, at the sparsities of the claim."""
    settings = record["settings"]
    sparsities = [value for value in CLAIMED if value in settings["sparsities"]]
    unit = "CPU seconds" if record["machine"]["device_type"] == "cpu" else "seconds"
    headings = ["network", "way"]
    for sparsity in sparsities:
        headings += [f"{sparsity:g}: trainings", "steps", f"{unit}, ReLU / Jumpstart"]
        headings.append("accuracy, ReLU / Jumpstart")
    lines = [f"| {' | '.join(headings)} |", "|---|---|" + "---:|" * (len(headings) - 2)]
    for (depth, width), of_shape in by_shape(record).items():
        for arm in settings["arms"]:
            cells = [f"{depth} × {width}", ARMS[arm]]
            for sparsity in sparsities:
                cells += _costs(record, of_shape, arm, sparsity)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _costs(record: Record, of_shape: list[Place], arm: str, sparsity: float) -> list[str]:
    """Trainings and steps; seconds of networks trained alone, and accuracies, with ReLU and Jumpstart."""
    trainings = trainings_of(arm, sparsity)
    steps, seconds, means = 0, [], []
    for technique in TECHNIQUES:
        runs = [run for place in of_shape for run in chosen(record, place, technique, [arm], sparsity)]
        steps = runs[0]["steps"] * trainings
        seconds.append(fmean(run["step_seconds"] for run in runs) * steps)
        means.append(mean_accuracy(record, of_shape, technique, [arm], sparsity))
    cells = [" / ".join(f"{value:.1f}" for value in seconds), " / ".join(f"{mean:.3f}" for mean in means)]
    return [str(trainings), f"{steps:,}", *cells]


def by_shape(record: Record) -> dict[tuple[int, int], list[Place]]:
    found: dict[tuple[int, int], list[Place]] = {}
    for place in places(record):
        found.setdefault(place[1:], []).append(place)
    return found


def mean_accuracy(
    record: Record, of_shape: list[Place], technique: str, arms: Iterable[str], sparsity: float
) -> float:
    return fmean(fmean(accuracies(chosen(record, place, technique, arms, sparsity))) for place in of_shape)


def draw_accuracies(record: Record) -> "Figure":
    """Test accuracy over sparsity: columns by data set, rows by shape and activation, lines by arm."""
    from matplotlib.figure import Figure

    shapes = by_shape(record)
    rows = [(shape, technique) for shape in shapes for technique in TECHNIQUES]
    columns = max(map(len, shapes.values()))
    size = (PANEL[0] * columns + 0.6, PANEL[1] * len(rows) + 0.8)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(rows), columns, sharex=True, sharey=True, squeeze=False)
    for line, (shape, technique) in zip(axes, rows, strict=True):
        for axis, place in zip(line, shapes[shape], strict=False):
            _draw_panel(axis, record, place, technique)
        line[0].set_ylabel(f"{shape[0]} × {shape[1]}, {NAMES[technique]}\ntest accuracy")
    for axis, (name, _, _) in zip(axes[0], next(iter(shapes.values())), strict=False):
        axis.set_title(name)
    for axis in axes[-1]:
        axis.set_xlabel("sparsity")
    _legend(figure, record)
    return figure


def _draw_panel(axis: "Axes", record: Record, place: Place, technique: str) -> None:
    """Mean over the seeds, with their range."""
    sparsities = [0.0, *record["settings"]["sparsities"]]
    ticks = range(len(sparsities))
    if technique != "plain" and "iterative" in record["settings"]["arms"]:
        runs = [chosen(record, place, "plain", ["iterative"], sparsity) for sparsity in sparsities]
        axis.plot(ticks, [fmean(accuracies(each)) for each in runs], **REFERENCE)
    for arm in record["settings"]["arms"]:
        values = [accuracies(chosen(record, place, technique, [arm], sparsity)) for sparsity in sparsities]
        style = STYLES[arm]
        axis.plot(ticks, [fmean(each) for each in values], linewidth=1.5, markersize=3.5, **style)
        lows, highs = [min(each) for each in values], [max(each) for each in values]
        axis.fill_between(ticks, lows, highs, color=style["color"], alpha=0.12, linewidth=0)
    axis.set_xticks(ticks, [f"{sparsity:g}" for sparsity in sparsities])
    axis.set_ylim(0, 1)
    axis.grid(**GRID)
    axis.spines[["top", "right"]].set_visible(False)


def _legend(figure: "Figure", record: Record) -> None:
    from matplotlib.lines import Line2D

    styles = {ARMS[arm]: STYLES[arm] for arm in record["settings"]["arms"]}
    styles["iterative, rewound, ReLU (for comparison)"] = REFERENCE
    handles = [Line2D([], [], label=title, **style) for title, style in styles.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False)
