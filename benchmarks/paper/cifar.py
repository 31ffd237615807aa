"""Plain networks as deep as ResNet-50 on CIFAR-10: what brings them near BatchNorm and skip connections.

    python -m benchmarks.paper.cifar --data cifar10_jpeg.npz --output benchmarks/results/paper_cifar.json
    python -m benchmarks.paper.cifar --only plain_adamw --only tat_muon --data ... --output ...

For a CPU: few channels, images and steps. Every technique is tried with all its learning rates and penalty
weights, for a quarter of the steps; the best two are trained in full, and the better with further
seeds. All this is measured on images of their own, and the last is tested. An interrupted run resumes, and
further techniques join the same file.
"""

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.paper.cifar_images import Images, load_images
from benchmarks.paper.cifar_techniques import LAMS, OPTIMIZERS, TECHNIQUES
from benchmarks.paper.cifar_training import Schedule, Training
from benchmarks.paper.sweep import CPU, Record, run_command, runs_of, sweep
from jumpstart_kernels.cli.inputs import positive

SCHEDULE = Schedule(steps=1200, batch_size=50, evaluations=6, width=8)
TUNING_STEPS = 300
FINALISTS = 2
SEEDS = 3
SMALL_SCHEDULE = Schedule(steps=2, batch_size=10, evaluations=2, width=4, blocks=(1, 1))


class Counts(NamedTuple):
    """How many images there are of each kind."""

    train: int
    validation: int
    """Further training images, on which hyperparameters are compared."""
    test: int


COUNTS = Counts(5000, 2000, 2000)
SMALL_COUNTS = Counts(40, 20, 20)


@dataclass(frozen=True)
class Task:
    """One network to train."""

    technique: str
    learning_rate: float
    lam: float
    seed: int
    schedule: Schedule
    data: Path
    counts: Counts
    tuning: bool
    """Whether it is one of many, for fewer steps; else it is tested, too."""

    @property
    def name(self) -> str:
        """Unique."""
        kind = "tune" if self.tuning else "train"
        return f"{kind} {self.technique} {self.learning_rate:g} {self.lam:g} {self.seed}"


@cache
def load_parts(data: Path, counts: Counts) -> Images:
    """Training images, validation ones behind them, and test images."""
    return load_images(data, counts.train + counts.validation, counts.test)


def work(task: Task) -> list[Record]:
    """Train a task's network."""
    images, count = load_parts(task.data, task.counts), task.counts.train
    validation = images.x_train[count:], images.y_train[count:]
    training = Training(
        TECHNIQUES[task.technique],
        task.learning_rate,
        task.lam,
        task.seed,
        task.schedule,
        Images(images.x_train[:count], images.y_train[:count], *validation, images.classes),
        CPU,
    )
    record = training.run(
        unseen=None if task.tuning else (images.x_test, images.y_test),
        diagnosed=not task.tuning and task.seed == 0,
    )
    described = TECHNIQUES[task.technique].described()
    return [{"name": task.technique, "tuning": task.tuning, "technique": described, **record}]


def ranked(runs: Iterable[Record], technique: str, *, tuning: bool) -> list[Record]:
    """A technique's runs with the first seed, by their accuracy on the validation images."""
    tried = [run for run in runs if (run["name"], run["tuning"], run["seed"]) == (technique, tuning, 0)]
    return sorted(tried, key=lambda run: (run["diverged"], -run["accuracy"]))


def tuning_tasks(names: Sequence[str], common: Mapping[str, Any], schedule: Schedule) -> list[Task]:
    """Every technique with every learning rate and penalty weight."""
    return [
        Task(name, rate, lam, 0, schedule, tuning=True, **common)
        for name in names
        for rate in TECHNIQUES[name].learning_rates
        for lam in TECHNIQUES[name].lams
    ]


def further_tasks(
    record: Record, names: Sequence[str], common: Mapping[str, Any], schedule: Schedule, seeds: range
) -> list[Task]:
    """In full: for the first seed the best of tuning, for others the best of those."""
    runs, first = runs_of(record), 0 in seeds
    return [
        Task(name, run["learning_rate"], run["lam"], seed, schedule, tuning=False, **common)
        for seed in seeds
        for name in names
        for run in ranked(runs, name, tuning=first)[: FINALISTS if first else 1]
    ]


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper.cifar", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FILE.npz", help="CIFAR-10 as JPEG files")
    parser.add_argument(
        "--only",
        action="append",
        choices=list(TECHNIQUES),
        metavar="TECHNIQUE",
        help=f"may be repeated; by default all: {', '.join(TECHNIQUES)}",
    )
    parser.add_argument("--small", action="store_true", help="small networks and few steps, for tests")
    parser.add_argument("--seeds", type=positive, default=SEEDS, metavar="N", help=f"default: {SEEDS}")
    parser.add_argument("--jobs", type=positive, default=2, metavar="N", help="processes; default: 2")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json", help="file of the results")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    return run_command("cifar", words, parse_arguments, run)


def run(arguments: argparse.Namespace, command: list[str]) -> Record:
    small = arguments.small
    names = arguments.only or list(TECHNIQUES)
    schedule, counts = (SMALL_SCHEDULE, SMALL_COUNTS) if small else (SCHEDULE, COUNTS)
    steps = schedule.steps if small else TUNING_STEPS
    tuning = Schedule(**{**asdict(schedule), "steps": steps, "evaluations": 1})
    settings = {
        "schedule": asdict(schedule),
        "tuning_steps": steps,
        "finalists": FINALISTS,
        "counts": counts._asdict(),
        "learning_rates": OPTIMIZERS,
        "lams": LAMS,
        "seeds": arguments.seeds,
    }
    common = {"data": arguments.data, "counts": counts}
    load_parts(arguments.data, counts)  # an error here is one line, not one of a process's
    tasks = {task.name: task for task in tuning_tasks(names, common, tuning)}
    record = sweep(work, tasks, arguments.output, settings, arguments.jobs, command)
    for seeds in (range(1), range(1, arguments.seeds)):
        further = further_tasks(record, names, common, schedule, seeds)
        tasks |= {task.name: task for task in further}
        record = sweep(work, tasks, arguments.output, settings, arguments.jobs, command)
    return record


if __name__ == "__main__":
    sys.exit(main())
