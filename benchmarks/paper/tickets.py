"""Sparse networks: one shot without rewinding, with Jumpstart, against iterative pruning with rewinding.

    python -m benchmarks.paper.tickets --data FOLDER --output benchmarks/results/paper_tickets.json
    python -m benchmarks.paper.tickets --network resnet20 --data cifar10_jpeg.npz --output ...    # for a GPU

Plain networks are trained on UCI's letter, optdigits and pendigits, or, without ``--data``, on scikit-learn's
breast cancer. An interrupted experiment resumes.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import nn

from benchmarks.paper import tickets_images
from benchmarks.paper.changes import RECIPES
from benchmarks.paper.datasets import describe, load_split
from benchmarks.paper.networks import Shape
from benchmarks.paper.stack_training import Run, Schedule, make_network
from benchmarks.paper.sweep import Record, run_command, sweep
from benchmarks.paper.tickets_arms import ARMS, OTHER_SEED, ROUNDS, SPARSITIES, Member, choose_lam, compare
from benchmarks.paper.tickets_training import hold_out, train_members
from jumpstart_kernels.cli.errors import CommandError
from jumpstart_kernels.cli.inputs import find_device, positive

DATA_SETS = ("letter-recognition", "optdigits", "pendigits")
SMALL = ("breast_cancer",)  # without UCI's files
SHAPES = ((6, 128), (20, 64))
LAMS = (0.1, 1.0)
LEARNING_RATE = 0.003
STEPS, BATCH_SIZE, SEEDS = 400, 128, 3
RECIPE = RECIPES["stabilized"] | {"weight_decay": 0.0}
TIMED = 40  # steps of a network alone


@dataclass(frozen=True)
class Task:
    """Networks of a data set, shape and technique, with every seed and λ."""

    data_set: str
    folder: Path | None
    depth: int
    width: int
    runs: tuple[Run, ...]
    schedule: Schedule
    arms: tuple[str, ...]
    sparsities: tuple[float, ...]

    @property
    def name(self) -> str:
        return f"{self.data_set}/{self.depth}/{self.width}/{self.runs[0].technique}"


def work(task: Task) -> list[Record]:
    """Choose λ, train the task's networks with it, and one alone for the time of a step."""
    splits = {
        seed: hold_out(load_split(task.data_set, seed, task.folder), seed)
        for seed in {run.seed for run in task.runs}
    }
    data = splits[task.runs[0].seed].data
    shape = Shape(task.depth, task.width, data.features, data.classes)

    def build(run: Run, other: bool) -> nn.Module:
        return make_network(shape, replace(run, seed=run.seed + OTHER_SEED * other))

    def train(members: Sequence[Member]) -> list[Record]:
        return train_members(members, splits, task.schedule)

    alone = [Member(task.runs[0], build(task.runs[0], False))]
    schedule = replace(task.schedule, steps=min(TIMED, task.schedule.steps))
    seconds = train_members(alone, splits, schedule)[0]["step_seconds"]
    lam, records = choose_lam(task.runs, build, train)
    chosen = [run for run in task.runs if run.lam == lam]
    records += compare(chosen, build, train, task.arms, task.sparsities)
    place = {"data_set": task.data_set, "depth": task.depth, "width": task.width}
    return [place | record | {"step_seconds": seconds} for record in records]


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper.tickets", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--data", type=Path, metavar="PATH", help="UCI's folder; resnet20: CIFAR-10 as JPEG files in an .npz"
    )
    parser.add_argument("--network", choices=("plain", "resnet20"), default="plain", help="default: plain")
    parser.add_argument("--only", action="append", metavar="NAME", help="a data set; may be repeated")
    parser.add_argument("--arm", action="append", choices=list(ARMS), help="may be repeated")
    parser.add_argument(
        "--sparsity", type=float, action="append", choices=SPARSITIES, help="may be repeated; default: all"
    )
    parser.add_argument("--lam", type=float, action="append", metavar="λ", help=f"default: {LAMS}")
    shapes = ", ".join(f"{depth}x{width}" for depth, width in SHAPES)
    parser.add_argument("--shape", type=shape, action="append", metavar="DxW", help=f"default: {shapes}")
    parser.add_argument("--seeds", type=positive, default=SEEDS, metavar="N", help="default: %(default)s")
    parser.add_argument("--steps", type=positive, default=STEPS, metavar="N", help="default: %(default)s")
    parser.add_argument("--jobs", type=positive, default=1, metavar="N", help="processes; default: 1")
    tickets_images.add_arguments(parser)
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json", help="file of the results")
    return parser.parse_args(words)


def shape(text: str) -> tuple[int, int]:
    """Depth and width such as 6x128, for argparse."""
    depth, _, width = text.partition("x")
    return positive(depth), positive(width)


def main(words: Sequence[str] | None = None) -> int:
    return run_command("tickets", words, parse_arguments, run)


def run(arguments: argparse.Namespace, command: list[str]) -> Record:
    lams = tuple(arguments.lam or LAMS)
    for lam in lams:
        if not lam >= 0:
            raise CommandError(f"--lam must be 0 or more, got {lam:g}")
    # In the order of the module, whatever that of the words.
    arms = tuple(arm for arm in ARMS if arm in (arguments.arm or ARMS))
    sparsities = tuple(value for value in SPARSITIES if value in (arguments.sparsity or SPARSITIES))
    settings = {
        "network": arguments.network,
        "arms": arms,
        "sparsities": sparsities,
        "rounds": ROUNDS,
        "lams": lams,
        "seeds": arguments.seeds,
    }
    if arguments.network == "resnet20":
        return tickets_images.run(arguments, settings, command, find_device(arguments.device))
    chosen = choose_data_sets(arguments)
    summaries = {name: asdict(describe(name, arguments.data)) for name in chosen}
    shapes = sorted(arguments.shape or SHAPES)
    schedule = Schedule(sys.maxsize, arguments.steps, BATCH_SIZE)
    tasks = [
        Task(name, arguments.data, depth, width, runs, schedule, arms, sparsities)
        for technique, used in (("jumpstart", lams), ("plain", (0.0,)))  # the longest first
        for depth, width in reversed(shapes)
        for name in chosen
        for runs in [tuple(make_run(technique, seed, lam) for seed in range(arguments.seeds) for lam in used)]
    ]
    settings |= {
        "shapes": shapes,
        "recipe": RECIPE,
        "learning_rate": LEARNING_RATE,
        "steps": arguments.steps,
        "batch_size": BATCH_SIZE,
        "data_sets": summaries,
    }
    named = {task.name: task for task in tasks}
    return sweep(work, named, arguments.output, settings, arguments.jobs, command)


def choose_data_sets(arguments: argparse.Namespace) -> list[str]:
    """Raises CommandError if one does not exist."""
    available = SMALL if arguments.data is None else DATA_SETS
    for name in arguments.only or ():
        if name not in available:
            raise CommandError(f"--only {name}: must be one of {', '.join(available)}")
    return [name for name in available if name in (arguments.only or available)]


def make_run(technique: str, seed: int, lam: float) -> Run:
    return Run(technique, seed, LEARNING_RATE, lam, **RECIPE)


if __name__ == "__main__":
    sys.exit(main())
