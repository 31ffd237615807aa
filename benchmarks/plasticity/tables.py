"""The tables of docs/plasticity.md."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev

from benchmarks.paper.report.common import listed, resources
from benchmarks.paper.sweep import Record, runs_of
from benchmarks.plasticity.selection import of, ranked
from benchmarks.plasticity.techniques import COMBINED, TECHNIQUES

OPTIMIZERS = {"sgd": "SGD", "adam": "Adam"}
NAMES = {**{name: technique.title for name, technique in TECHNIQUES.items()}, COMBINED: "Jumpstart + best"}
RIVALS = ("continual_backprop", "l2_init")
"""That Jumpstart is to reach."""
WATCHED = ("backprop", "l2_init", "linked", "jumpstart", "jumpstart_l2_init")
"""Whose course is shown."""
PARTS = (0.1, 0.25, 0.5, 0.75, 1.0)
MOST_DEAD = 0.01
CLAIMED = ("jumpstart", "jumpstart_l2_init", COMBINED)


def is_regression(record: Record, problem: str) -> bool:
    return "error" in record["settings"]["problems"][problem]["score"]


def tested(record: Record, problem: str, optimizer: str) -> dict[str, list[Record]]:
    """Of each technique, the runs with the chosen setting, by seed."""
    runs = runs_of(record)
    found = {name: of(runs, problem, optimizer, name, tuning=False) for name in NAMES}
    return {name: sorted(group, key=lambda run: run["seed"]) for name, group in found.items() if group}


def columns(record: Record) -> list[tuple[str, str]]:
    """Problems with optimizers."""
    return [(problem, optimizer) for problem in record["settings"]["problems"] for optimizer in OPTIMIZERS]


def heading(record: Record, problem: str, optimizer: str) -> str:
    return f"{record['settings']['problems'][problem]['title']}, {OPTIMIZERS[optimizer]}"


def conditions(record: Record) -> str:
    settings = record["settings"]
    sizes = "; ".join(
        f"{of_problem['title']}: {of_problem['tasks']} tasks of {of_problem['steps']} steps, tuned on the "
        f"first {of_problem['tuned']}, mini-batches of "
        f"{of_problem['batch_size']}, {of_problem['width']} units a layer, learning rates "
        + " and ".join(f"{listed(of_problem['rates'][name])} ({OPTIMIZERS[name]})" for name in OPTIMIZERS)
        for of_problem in settings["problems"].values()
    )
    return (
        f"{settings['depth']} hidden layers. {sizes[0].upper()}{sizes[1:]}. Tuned on "
        f"{len(settings['tuning_seeds'])} seeds, shown for {settings['seeds']} others. {resources(record)}"
    )


def score(values: Sequence[float | None], bold: bool = False) -> str:
    """Mean ± standard deviation over seeds."""
    finite = [value for value in values if value is not None]
    if len(finite) < len(values):
        return f"diverged for {len(values) - len(finite)} of {len(values)} seeds"
    text = f"{fmean(finite):.3f}"
    text = f"**{text}**" if bold else text
    return f"{text} ± {stdev(finite):.3f}" if len(finite) > 1 else text


def summary_table(record: Record) -> str:
    """The score on the last tenth of the tasks; bold: the best of a column."""
    pairs = columns(record)
    found = {pair: tested(record, *pair) for pair in pairs}
    lines = [
        f"| technique | {' | '.join(heading(record, *pair) for pair in pairs)} |",
        "|---|" + "---:|" * len(pairs),
    ]
    best = {pair: order(record, pair[0], groups)[0] for pair, groups in found.items()}
    for name, title in NAMES.items():
        cells = [
            score([run["last"] for run in found[pair][name]], bold=name == best[pair])
            if name in found[pair]
            else ""
            for pair in pairs
        ]
        lines.append(f"| {title} | {' | '.join(cells)} |")
    return "\n".join(lines)


def order(record: Record, problem: str, groups: Mapping[str, list[Record]]) -> list[str]:
    """Techniques by the mean score of the last tenth, the best first."""
    sign = 1 if is_regression(record, problem) else -1

    def key(name: str) -> float:
        last = [run["last"] for run in groups[name]]
        return float("inf") if None in last else sign * fmean(last)

    return sorted(groups, key=key)


def setting_of(record: Record, run: Record) -> str:
    """The learning rate and the strength; those at an edge of what was tried are marked."""
    rates = record["settings"]["problems"][run["problem"]]["rates"][run["optimizer"]]
    text = f"{run['rate']:g}" + ("*" if run["rate"] in (rates[0], rates[-1]) else "")
    if run["strength"]:
        text += f", {run['strength']:g}"
    return text + (f", λ {run['lam']:g}" if run["lam"] else "")


def detail_table(record: Record, problem: str) -> str:
    """First and last tenth, and what the networks are like inside after the last task."""
    lines = [
        "| technique | optimizer | learning rate, strength | first tenth | last tenth | dead units "
        "| linear units | dormant units | effective rank | mean weight | mean pre-activation |",
        "|---|---|---|" + "---:|" * 8,
    ]
    for optimizer, title in OPTIMIZERS.items():
        groups = tested(record, problem, optimizer)
        for name in order(record, problem, groups):
            runs = groups[name]
            inside = [
                fmean(run[measure][-1] for run in runs if run[measure][-1] is not None)
                if any(run[measure][-1] is not None for run in runs)
                else float("nan")
                for measure in ("dead", "linear", "dormant", "rank", "magnitude", "scale")
            ]
            base = f" ({NAMES[runs[0]['base']]})" if runs[0]["base"] else ""
            cells = [NAMES[name] + base, title, setting_of(record, runs[0])]
            cells += [score([run["first"] for run in runs]), score([run["last"] for run in runs])]
            cells += [f"{share:.1%}".replace("%", " %") for share in inside[:3]]
            cells += [f"{inside[3]:.1f}", f"{inside[4]:.3f}", f"{inside[5]:.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def rate_table(record: Record) -> str:
    """Plain backpropagation and Jumpstart at every learning rate, on the seeds for tuning."""
    lines = [
        "| problem | learning rate | backpropagation, first tenth | last tenth | dead units "
        "| Jumpstart, first tenth | last tenth | dead units |",
        "|---|---:|" + "---:|" * 6,
    ]
    runs = runs_of(record)
    for problem, optimizer in columns(record):
        regression = is_regression(record, problem)
        for rate in record["settings"]["problems"][problem]["rates"][optimizer]:
            cells = [heading(record, problem, optimizer), f"{rate:g}"]
            for name in ("backprop", "jumpstart"):
                at_rate = [run for run in of(runs, problem, optimizer, name, True) if run["rate"] == rate]
                (_, _, lam), _ = ranked(at_rate, regression)[0]
                best = [run for run in at_rate if run["lam"] == lam]
                cells += [mean_of([run[part] for run in best]) for part in ("first", "last")]
                cells.append(f"{fmean(run['dead'] for run in best):.1%}".replace("%", " %"))
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def mean_of(values: Sequence[float | None]) -> str:
    finite = [value for value in values if value is not None]
    return f"{fmean(finite):.3f}" if len(finite) == len(values) else "diverged"


def goal_table(record: Record) -> str:
    """How much better Jumpstart is than each rival on the last tenth, seed by seed; and its dead units."""
    titles = " | ".join(f"against {NAMES[name]}" for name in RIVALS)
    lines = [
        f"| problem | technique | {titles} | dead units | both reached, under {MOST_DEAD:.0%} dead |".replace(
            "%", " %"
        ),
        "|---|---|" + "---:|" * (len(RIVALS) + 1) + "---|",
    ]
    for problem, optimizer in columns(record):
        groups = tested(record, problem, optimizer)
        sign = -1 if is_regression(record, problem) else 1
        for name in (name for name in CLAIMED if name in groups):
            cells, reached = [heading(record, problem, optimizer), NAMES[name]], []
            for rival in RIVALS:
                pairs = zip(groups[name], groups[rival], strict=True)
                differences = [difference(one["last"], other["last"], sign) for one, other in pairs]
                better = sum(value >= 0 for value in differences)
                mean = fmean(differences)
                text = "diverged" if abs(mean) == float("inf") else f"{mean:+.3f}".replace("-", "−")
                cells.append(f"{text} ({better} of {len(differences)})")
                reached.append(mean >= 0)
            dead = fmean(run["dead"][-1] for run in groups[name])
            cells.append(f"{dead:.2%}".replace("%", " %"))
            cells.append("yes" if all(reached) and dead < MOST_DEAD else "no")
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def course_table(record: Record) -> str:
    """Score, effective rank and mean pre-activation in the course of the tasks."""
    lines = [
        f"| problem | technique | {' | '.join(f'after {part:.0%} of the tasks' for part in PARTS)} |".replace(
            "%", " %"
        ),
        "|---|---|" + "---:|" * len(PARTS),
    ]
    for problem, optimizer in columns(record):
        groups = tested(record, problem, optimizer)
        for name in (name for name in WATCHED if name in groups):
            cells = [heading(record, problem, optimizer), NAMES[name]]
            cells += [look(groups[name], part) for part in PARTS]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def look(runs: Sequence[Record], part: float) -> str:
    """The means over seeds at a part of the tasks; of the score, over a tenth of the tasks before it."""
    count, measured = len(runs[0]["scores"]), runs[0]["measured"]
    end = round(part * count)
    place = max(place for place, task in enumerate(measured) if task < end)
    scores = [run["scores"][max(0, end - count // 10) : end] for run in runs]
    inside = [[run[measure][place] for run in runs] for measure in ("rank", "scale")]
    if any(None in values for values in (*scores, *inside)):
        return "diverged"
    mean, (rank, scale) = fmean(map(fmean, scores)), map(fmean, inside)
    return f"{mean:.3f}; {rank:.1f}; {scale:.1f}"


def difference(one: float | None, other: float | None, sign: int) -> float:
    """How much better ``one`` is; a score of None is infinitely bad, and two are equal."""
    if one is None or other is None:
        return 0.0 if one is other else float("inf") if other is None else -float("inf")
    return sign * (one - other)
