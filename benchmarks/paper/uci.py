"""The UCI tables of the paper: networks of 50 layers of 4 units on every data set, with each technique.

    python -m benchmarks.paper.uci --data FOLDER --output benchmarks/results/paper_uci.json

Without ``--data``, on scikit-learn's data sets alone. An interrupted sweep resumes from its output.
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.paper.changes import RECIPES, Change, combine, runs_of_changes
from benchmarks.paper.datasets import describe, load_split, names
from benchmarks.paper.networks import TECHNIQUES
from benchmarks.paper.stack_training import DIGITS, Run, Schedule, train
from benchmarks.paper.sweep import Record, run_command, sweep
from jumpstart_kernels.cli.errors import CommandError
from jumpstart_kernels.cli.inputs import positive

DEPTH, WIDTH = 50, 4
LEARNING_RATES = (0.01, 0.001)
LAMS = (0.001, 0.01, 0.1, 1.0)


@dataclass(frozen=True)
class Task:
    """Networks of one data set and technique."""

    data_set: str
    folder: Path | None
    runs: tuple[Run, ...]
    depth: int
    width: int
    schedule: Schedule

    @property
    def name(self) -> str:
        return f"{self.data_set}/{self.runs[0].technique}"


def runs_of_technique(technique: str, recipe: Change, seeds: int) -> tuple[Run, ...]:
    lams = LAMS if technique == "jumpstart" else (0.0,)
    changes = [{**recipe, **change} for change in combine(learning_rate=LEARNING_RATES, lam=lams)]
    return runs_of_changes(Run(technique, 0, LEARNING_RATES[0]), changes, seeds)


def work(task: Task) -> list[Record]:
    """Train a task's networks, in one stack for each shape of the training split."""
    splits = {seed: load_split(task.data_set, seed, task.folder) for seed in {run.seed for run in task.runs}}
    by_shape: dict[Any, list[Run]] = defaultdict(list)
    for run in task.runs:
        by_shape[splits[run.seed].x_train.shape].append(run)
    records = []
    for runs in by_shape.values():
        data = [splits[run.seed] for run in runs]
        outcomes = train(runs, data, task.depth, task.width, task.schedule)
        for run, outcome, split in zip(runs, outcomes, data, strict=True):
            chance = round(split.chance, DIGITS)
            records.append({"data_set": task.data_set, **asdict(run), **outcome.record(), "chance": chance})
    return records


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper.uci", description=__doc__.partition("\n")[0]
    )
    add_arguments(parser)
    parser.add_argument(
        "--recipe", choices=list(RECIPES), default="as published", help="default: %(default)s"
    )
    return parser.parse_args(words)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="folder of files in UCI's format")
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="a data set to train on; may be repeated"
    )
    parser.add_argument("--seeds", type=positive, default=5, metavar="N", help="default: 5")
    parser.add_argument("--steps", type=positive, default=4000, metavar="N", help="at most; default: 4000")
    parser.add_argument("--epochs", type=positive, default=4000, metavar="N", help="at most; default: 4000")
    parser.add_argument("--depth", type=positive, default=DEPTH, metavar="N", help=f"default: {DEPTH}")
    parser.add_argument("--width", type=positive, default=WIDTH, metavar="N", help=f"default: {WIDTH}")
    parser.add_argument("--jobs", type=positive, default=2, metavar="N", help="processes; default: 2")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json", help="file of the results")


def main(words: Sequence[str] | None = None) -> int:
    return run_command("uci", words, parse_arguments, run)


def run(arguments: argparse.Namespace, command: list[str]) -> Record:
    recipe = RECIPES[arguments.recipe]
    grid = {technique: runs_of_technique(technique, recipe, arguments.seeds) for technique in TECHNIQUES}
    settings = {"learning_rates": LEARNING_RATES, "lams": LAMS, "recipe": {arguments.recipe: recipe}}
    return run_grid(grid, settings, arguments, command)


def run_grid(
    grid: Mapping[str, tuple[Run, ...]], settings: Record, arguments: argparse.Namespace, command: list[str]
) -> Record:
    """Sweep the runs of each technique over the selected data sets.

    Raises:
        CommandError: a data set does not exist, or the output has results for other settings.
    """
    available = names(arguments.data)
    unknown = [name for name in arguments.only or () if name not in available]
    if unknown:
        raise CommandError(f"--only {unknown[0]}: must be one of {', '.join(available)}")
    chosen = [name for name in available if name in (arguments.only or available)]
    summaries = {name: asdict(describe(name, arguments.data)) for name in chosen}
    depth, width = arguments.depth, arguments.width
    schedule = Schedule(arguments.epochs, arguments.steps)
    tasks = [
        Task(name, arguments.data, runs, depth, width, schedule)
        for runs in sorted(grid.values(), key=len, reverse=True)  # longest first
        for name in sorted(chosen, key=lambda name: -summaries[name]["rows"])
    ]
    shape = {"depth": depth, "width": width, "seeds": arguments.seeds}
    settings = {**shape, **settings, **asdict(schedule), "data_sets": summaries}
    named = {task.name: task for task in tasks}
    return sweep(work, named, arguments.output, settings, arguments.jobs, command)


if __name__ == "__main__":
    sys.exit(main())
