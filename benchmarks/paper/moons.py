"""The paper's grid of depths and widths: networks on two moons, one validation accuracy for each.

    python -m benchmarks.paper.moons --output benchmarks/results/paper_moons.json

85 training points at once, Adam at 0.01, 5,000 epochs. A sweep that was stopped goes on where it was.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from benchmarks.paper.sweep import Record, seconds_of, sweep
from benchmarks.paper.training import Run, Schedule, train
from jumpstart_kernels.cli_inputs import CommandError, positive
from jumpstart_kernels.demo.data import Data

DEPTHS = (1, 5, 10, 20, 30, 50, 80, 120)
WIDTHS = (1, 2, 4, 8, 16, 25)
TECHNIQUES = ("jumpstart", "batch_norm", "plain")
LEARNING_RATE = 0.01
LAMS = (0.01, 0.1, 1.0)
TRAIN, VALIDATION, NOISE = 85, 43, 0.1


@dataclass(frozen=True)
class Task:
    """Networks of one shape and technique, trained at once."""

    technique: str
    depth: int
    width: int
    seeds: int
    schedule: Schedule

    @property
    def name(self) -> str:
        return f"{self.technique}/{self.depth}/{self.width}"

    def runs(self) -> list[Run]:
        lams = LAMS if self.technique == "jumpstart" else (0.0,)
        return [
            Run(self.technique, seed, LEARNING_RATE, lam)
            for seed, lam in itertools.product(range(self.seeds), lams)
        ]


def make_moons(seed: int) -> Data:
    """Other points for each seed, as many of each moon, in scikit-learn's own scale."""
    from sklearn import datasets

    x, y = datasets.make_moons(TRAIN + VALIDATION, noise=NOISE, random_state=seed)
    points, labels = torch.from_numpy(x).float(), torch.from_numpy(y)
    return Data("Two Moons", points[:TRAIN], labels[:TRAIN], points[TRAIN:], labels[TRAIN:])


def work(task: Task) -> list[Record]:
    runs = task.runs()
    data = [make_moons(run.seed) for run in runs]
    outcomes = train(runs, data, task.depth, task.width, task.schedule)
    place = {"depth": task.depth, "width": task.width}
    return [place | asdict(run) | outcome.record() for run, outcome in zip(runs, outcomes, strict=True)]


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper.moons", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--depth", type=positive, action="append", metavar="N", help=f"default: {DEPTHS}")
    parser.add_argument("--width", type=positive, action="append", metavar="N", help=f"default: {WIDTHS}")
    parser.add_argument("--seeds", type=positive, default=5, metavar="N", help="default: 5")
    parser.add_argument("--epochs", type=positive, default=5000, metavar="N", help="default: 5000")
    parser.add_argument("--jobs", type=positive, default=2, metavar="N", help="processes; default: 2")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json", help="the results")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    words = sys.argv[1:] if words is None else words
    arguments = parse_arguments(words)
    depths, widths = arguments.depth or DEPTHS, arguments.width or WIDTHS
    schedule = Schedule(arguments.epochs, arguments.epochs, TRAIN)
    tasks = [
        Task(technique, depth, width, arguments.seeds, schedule)
        for depth in sorted(depths, reverse=True)  # the longest first
        for technique in TECHNIQUES
        for width in widths
    ]
    settings = {
        "depths": depths,
        "widths": widths,
        "seeds": arguments.seeds,
        "learning_rate": LEARNING_RATE,
        "lams": LAMS,
        "train": TRAIN,
        "validation": VALIDATION,
        "noise": NOISE,
        "epochs": arguments.epochs,
    }
    command = ["python", "-m", "benchmarks.paper.moons", *words]
    try:
        record = sweep(
            work, {task.name: task for task in tasks}, arguments.output, settings, arguments.jobs, command
        )
    except (CommandError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(record['tasks'])} tasks, {seconds_of(record):.0f} s of one process")
    return 0


if __name__ == "__main__":
    sys.exit(main())
