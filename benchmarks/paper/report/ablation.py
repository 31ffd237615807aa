"""What to set, as tables and a figure: the runs of each question beside the common beginning."""

from collections.abc import Callable
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

from benchmarks.paper.changes import Change, runs_with
from benchmarks.paper.choices import BESIDE, QUESTIONS
from benchmarks.paper.sweep import Record, seconds_of
from benchmarks.paper.uci_report import NAMES, STYLES, count, ends_at_chance, spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HEADINGS = {
    "lam": "λ",
    "lam_schedule": "schedule of λ",
    "reduction": "reduction",
    "terms": "terms",
    "rate_schedule": "schedule of the rate",
    "learning_rate": "learning rate",
    "initialization": "initialization",
    "max_norm": "gradient norm",
    "weight_decay": "weight decay",
}


def conditions(record: Record) -> str:
    settings, machine, base = record["settings"], record["machine"], record["settings"]["base"]
    titles = [summary["title"] for summary in settings["data_sets"].values()]
    return (
        f"{', '.join(titles)}; {settings['seeds']} seeds, {count(record)} of "
        f"{settings['depth']} layers of {settings['width']} units, {settings['epochs']:,} epochs, at most "
        f"{settings['steps']:,} steps. If not said otherwise: Adam at {base['learning_rate']:g}, "
        f"λ = {base['lam']:g}, constant; the balanced reduction; PyTorch's initialization; gradients cut to "
        f"a norm of at most {base['max_norm']:g}. {machine['cpu']}, {machine['jobs']} processes of one "
        f"thread: {seconds_of(record) / 60:.0f} minutes of processor time. `{machine['command']}`"
    )


def question_table(question: str, record: Record) -> str:
    """The runs of each answer to a question, in Jumpstart's networks."""
    changes = record["settings"]["questions"][question]
    return _table(record, [("jumpstart", change) for change in changes], named=False)


def beside_table(record: Record) -> str:
    """Initialization and cut gradients in networks without Jumpstart, and with."""
    techniques = (*BESIDE, "jumpstart")
    there = [(technique, change) for technique in techniques for change in record["settings"]["beside"]]
    return _table(record, [pair for pair in there if runs_with(record, *pair)], named=True)


def by_seed(runs: list[Record], key: str) -> list[float]:
    """Mean over the data sets, of each seed."""
    values: dict[int, list[float]] = {}
    for run in runs:
        values.setdefault(run["seed"], []).append(run[key])
    return [fmean(of_seed) for of_seed in values.values()]


def _table(record: Record, rows: list[tuple[str, Change]], named: bool) -> str:
    fields = list(dict.fromkeys(field for _, change in rows for field in change))
    headings = [""] * named + [HEADINGS[field] for field in fields]
    headings += ["accuracy, last epoch", "accuracy, least training loss", "runs that end at chance"]
    headings += ["dead", "linear"]
    lines = [f"| {' | '.join(headings)} |", "|---" * (named + len(fields)) + "|" + "---:|" * 5]
    for technique, change in rows:
        runs = runs_with(record, technique, change)
        cells = [NAMES[technique]] * named + [_value(field, change[field]) for field in fields]
        cells += [spread(by_seed(runs, key)) for key in ("accuracy", "kept_accuracy")]
        cells.append(f"{fmean(map(ends_at_chance, runs)):.0%}".replace("%", " %"))
        cells += [f"{fmean(run[key] for run in runs):.2f}" for key in ("dead", "linear")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _value(field: str, value: Any) -> str:
    if field == "max_norm":
        return "not cut" if value is None else f"at most {value:g}"
    return value if isinstance(value, str) else f"{value:g}"


def draw_choices(record: Record) -> "Figure":
    """Test accuracy of every answer: mean over data sets and seeds, and the range of the seeds."""
    from matplotlib.figure import Figure

    halves = _in_halves(record["settings"]["questions"])
    heights = [0.23 * sum(map(len, half.values())) + 0.35 * len(half) + 0.6 for half in halves]
    figure = Figure(figsize=(13, max(heights)), layout="constrained")
    base = fmean(by_seed(runs_with(record, "jumpstart", {}), "accuracy"))
    columns: Any = figure.subfigures(1, 2)
    shared = None
    for half, column in zip(halves, columns, strict=True):
        axes = column.subplots(
            len(half), squeeze=False, height_ratios=[len(changes) for changes in half.values()]
        )
        for axis, (question, changes) in zip(axes[:, 0], half.items(), strict=True):
            if shared is not None:
                axis.sharex(shared)
            shared = shared or axis
            axis.axvline(base, color="#777777", linewidth=1, linestyle=":")
            axis.set_title(question, loc="left", fontsize=9)
            axis.grid(axis="x", alpha=0.3)
            axis.tick_params(labelbottom=axis is axes[-1, 0])
            _draw_answers(axis, record, changes)
        data_sets = len(record["settings"]["data_sets"])
        axes[-1, 0].set_xlabel(f"test accuracy behind the last epoch, mean of {data_sets} data sets")
    return figure


def _in_halves(questions: dict[str, list[Change]]) -> tuple[dict[str, list[Change]], dict[str, list[Change]]]:
    """The questions in order, with about as many answers on the left as on the right."""
    answers = sum(map(len, questions.values()))
    left: dict[str, list[Change]] = {}
    right: dict[str, list[Change]] = {}
    for question, changes in questions.items():
        fits = not right and sum(map(len, [*left.values(), changes])) <= answers / 2
        (left if fits or not left else right)[question] = changes
    return left, right


def _draw_answers(axis: "Axes", record: Record, changes: list[Change]) -> None:
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
    "choices-conditions": conditions,
    **{
        f"choices-{question.replace(' ', '-').replace('λ', 'lam')}": partial(question_table, question)
        for question in QUESTIONS
    },
    "choices-beside": beside_table,
}
