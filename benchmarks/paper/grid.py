"""The papers' grids of depths and widths: which networks train with which technique.

    python -m benchmarks.paper.grid moons --output benchmarks/results/paper_moons.json
    python -m benchmarks.paper.grid digits --data FOLDER --output benchmarks/results/paper_digits.json

Without ``--data``, digits are those of scikit-learn, a third of UCI's. An interrupted sweep resumes.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.paper.changes import RECIPES, Change, runs_of_changes
from benchmarks.paper.datasets import load_table
from benchmarks.paper.stack_training import Run, Schedule, train
from benchmarks.paper.sweep import Record, run_command, sweep
from jumpstart_kernels.cli.inputs import positive
from jumpstart_kernels.demo.data import Data

TECHNIQUES = ("jumpstart", "batch_norm", "plain")
MOONS, MOONS_NOISE = (85, 43), 0.1  # training and validation points


def make_moons(seed: int, folder: Path | None = None) -> Data:
    """Different points for each seed, in scikit-learn's own scale."""
    from sklearn import datasets

    train, validation = MOONS
    x, y = datasets.make_moons(train + validation, noise=MOONS_NOISE, random_state=seed)
    points, labels = torch.from_numpy(x).float(), torch.from_numpy(y)
    return Data("Two Moons", points[:train], labels[:train], points[train:], labels[train:])


def load_digits(seed: int, folder: Path | None = None) -> Data:
    """Digits of 8×8 pixels in ``[-1, 1]``, a third of them for validation.

    UCI's optdigits from a folder, or the third of them that scikit-learn has.
    """
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    if folder is None:
        x, y = datasets.load_digits(return_X_y=True)
    else:
        table = load_table("optdigits", folder)
        x, y = table.rows.astype("float64"), table.labels
    parts = train_test_split(x, y, test_size=1 / 3, stratify=y, random_state=seed)
    x_train, x_test = (torch.from_numpy(part).float().view(-1, 1, 8, 8) / 8 - 1 for part in parts[:2])
    return Data("Digits", x_train, torch.from_numpy(parts[2]), x_test, torch.from_numpy(parts[3]))


@dataclass(frozen=True)
class Problem:
    """A data set, and how networks are trained on it."""

    load: Callable[[int, Path | None], Data]
    """Takes the seed, and the folder of UCI's files."""
    depths: tuple[int, ...]
    widths: tuple[int, ...]
    learning_rate: float
    lams: tuple[float, ...]
    """Of Jumpstart."""
    epochs: int
    batch_size: int
    evaluations: int
    seeds: int
    recipes: Mapping[str, Change]
    """Every technique is trained with each."""


PROBLEMS = {
    "moons": Problem(
        make_moons,
        depths=(1, 5, 10, 20, 30, 50, 80, 120),
        widths=(1, 2, 4, 8, 16, 25),
        learning_rate=0.01,
        lams=(0.3, 1.0),
        epochs=5000,
        batch_size=85,
        evaluations=100,
        seeds=5,
        recipes=RECIPES,
    ),
    "digits": Problem(
        load_digits,
        depths=(10, 20, 30, 50, 68),
        widths=(2, 4, 8),
        learning_rate=0.003,
        lams=(0.3,),
        epochs=30,
        batch_size=64,
        evaluations=6,
        seeds=2,
        recipes={
            "as published": RECIPES["as published"],
            "stabilized, no weight decay": RECIPES["stabilized"] | {"weight_decay": 0.0},
        },
    ),
}


@dataclass(frozen=True)
class Task:
    """Networks of one shape and technique, trained as one stack."""

    problem: str
    folder: Path | None
    technique: str
    depth: int
    width: int
    seeds: int
    epochs: int

    @property
    def name(self) -> str:
        return f"{self.technique}/{self.depth}/{self.width}"

    def runs(self) -> tuple[Run, ...]:
        problem = PROBLEMS[self.problem]
        base = Run(self.technique, 0, problem.learning_rate)
        lams = problem.lams if self.technique == "jumpstart" else (0.0,)
        changes = [{**recipe, "lam": lam} for recipe in problem.recipes.values() for lam in lams]
        return runs_of_changes(base, changes, self.seeds)


def work(task: Task) -> list[Record]:
    """Train a task's networks."""
    problem, runs = PROBLEMS[task.problem], task.runs()
    data = [problem.load(run.seed, task.folder) for run in runs]
    schedule = Schedule(task.epochs, sys.maxsize, problem.batch_size, problem.evaluations)
    outcomes = train(runs, data, task.depth, task.width, schedule)
    place = {"depth": task.depth, "width": task.width}
    records = [place | asdict(run) | outcome.record() for run, outcome in zip(runs, outcomes, strict=True)]
    for record in records:
        del record["curve"]  # for so many networks it would be most of the file
    return records


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper.grid", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("problem", choices=list(PROBLEMS), help="moons: linear layers; digits: convolutions")
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="folder of files in UCI's format, for digits"
    )
    parser.add_argument("--depth", type=positive, action="append", metavar="N", help="may be repeated")
    parser.add_argument("--width", type=positive, action="append", metavar="N", help="may be repeated")
    parser.add_argument("--seeds", type=positive, metavar="N", help="seeds of each shape and technique")
    parser.add_argument("--epochs", type=positive, metavar="N", help="epochs of each run")
    parser.add_argument("--jobs", type=positive, default=2, metavar="N", help="processes; default: 2")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json", help="file of the results")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    return run_command("grid", words, parse_arguments, run)


def run(arguments: argparse.Namespace, command: list[str]) -> Record:
    problem = PROBLEMS[arguments.problem]
    depths, widths = arguments.depth or problem.depths, arguments.width or problem.widths
    seeds, epochs = arguments.seeds or problem.seeds, arguments.epochs or problem.epochs
    tasks = [
        Task(arguments.problem, arguments.data, technique, depth, width, seeds, epochs)
        for depth in sorted(depths, reverse=True)  # the longest first
        for technique in TECHNIQUES
        for width in sorted(widths, reverse=True)
    ]
    data = problem.load(0, arguments.data)
    settings = {
        "problem": arguments.problem,
        "depths": depths,
        "widths": widths,
        "seeds": seeds,
        "base": asdict(Run("plain", 0, problem.learning_rate)),
        "recipes": problem.recipes,
        "lams": problem.lams,
        "epochs": epochs,
        "batch_size": problem.batch_size,
        "evaluations": problem.evaluations,
        "train": len(data.y_train),
        "validation": len(data.y_test),
    }
    return sweep(
        work, {task.name: task for task in tasks}, arguments.output, settings, arguments.jobs, command
    )


if __name__ == "__main__":
    sys.exit(main())
