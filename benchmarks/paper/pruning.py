"""Permutation pruning against the rankings of seven other methods, all with the same least-squares repair.

    python -m benchmarks.paper.pruning --data FOLDER --output benchmarks/results/paper_pruning.json
    python -m benchmarks.paper.pruning --small --output ...    # small networks, for tests

Each network is trained once on the training rows of UCI's letter, optdigits or pendigits, or, without
``--data``, of scikit-learn's breast cancer. Calibration rows are the first of the training rows, which the
split has shuffled; unseen rows are those of the test split. Every method removes as many units as it can
while no decision on the calibration rows changes. ``permutation_prune`` does so with each tolerance, a peer
(:mod:`~benchmarks.paper.pruning_peers`) in two ways (:mod:`~benchmarks.paper.pruning_search`).

All methods see the calibration rows in the same two batches, those of the closest decisions first: most
removals that do not hold fail there already, which saves time and changes no result but the last digit of
sums. An interrupted sweep resumes.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

import jumpstart_kernels as jk
from benchmarks.paper.datasets import load_split
from benchmarks.paper.networks import Rectangle
from benchmarks.paper.pruning_networks import SHAPES, TRAININGS, Schedule, accuracy, train_network
from benchmarks.paper.pruning_peers import OWN_ORDER, PEERS, RANKINGS
from benchmarks.paper.pruning_search import Labelled, by_one_ranking, by_same_search
from benchmarks.paper.sweep import Record, run_command, sweep
from jumpstart_kernels.cli.inputs import positive
from jumpstart_kernels.demo.data import Data
from jumpstart_kernels.pruning.certificate import Decisions
from jumpstart_kernels.pruning.reduction import Reduction
from jumpstart_kernels.pruning.rounds import SHARES

DATA_SETS = ("letter-recognition", "optdigits", "pendigits")
WITHOUT_FILES = ("breast_cancer",)
SMALL_SHAPES = {"shallow": (2, 8), "deep": (4, 6)}
SCHEDULE, SMALL_SCHEDULE = Schedule(steps=2000, batch_size=128), Schedule(steps=60, batch_size=128)
SEEDS, SMALL_SEEDS = 3, 2
CALIBRATION, SMALL_CALIBRATION = 4000, 200
CLOSEST = 128  # rows of the first batch
TOLERANCES = (0.0, 0.1, 2.0)
OURS = "permutation_prune"
PROTOCOLS = {"one ranking": by_one_ranking, "same search": by_same_search}


@dataclass(frozen=True)
class Task:
    """One network, and all methods on it."""

    data_set: str
    folder: Path | None
    shape: str
    depth: int
    width: int
    training: str
    seed: int
    schedule: Schedule
    calibration: int

    @property
    def name(self) -> str:
        return f"{self.data_set}/{self.shape}/{self.training}/{self.seed}"


def work(task: Task) -> list[Record]:
    """Train a network, and prune it by every method."""
    data = load_split(task.data_set, task.seed, task.folder)
    run = replace(TRAININGS[task.training], seed=task.seed)
    model = train_network(run, data, task.depth, task.width, task.schedule)
    trial = Trial(model, data, task)
    records = [trial.permutation_prune(tolerance) for tolerance in TOLERANCES]
    for name in RANKINGS:
        records += [trial.peer(name, protocol) for protocol in PROTOCOLS]
    return records


class Trial:
    """A trained network, the rows to prune it by and those to judge it by."""

    def __init__(self, model: Rectangle, data: Data, task: Task) -> None:
        self.model, self.data, self.seed = model, data, task.seed
        self.calibration = order_by_gap(model, data.x_train, data.y_train, task.calibration)
        with torch.no_grad():
            self.unseen = Decisions(model, [data.x_test], "unseen")
        self.common: Record = {
            "data_set": task.data_set,
            "shape": task.shape,
            "training": task.training,
            "seed": task.seed,
            "calibration": len(self.calibration.labels),
            "unseen": len(data.y_test),
            "removable": task.depth * task.width,
            "train_accuracy": accuracy(model, data.x_train, data.y_train),
            "accuracy_before": accuracy(model, data.x_test, data.y_test),
        }

    def permutation_prune(self, tolerance: float) -> Record:
        """The result of ``permutation_prune``, and by what its units went."""
        result = jk.pruning.permutation_prune(self.model, self.calibration.batches, tolerance=tolerance)
        layers = result.report.layers
        kinds = {
            "dead": sum(len(layer.dead) for layer in layers),
            "merged": sum(len(layer.merges) for layer in layers),
            "with_layers": sum(layer.passed_on for layer in layers),
            "layers_gone": sum(layer.kept == 0 for layer in layers),
        }
        return self._record(OURS, f"tolerance {tolerance:g}", result.report.removed, result.model) | kinds

    def peer(self, name: str, protocol: str) -> Record:
        """The result of a peer by one protocol."""
        reduction = Reduction(self.model, self.calibration.batches)
        removed = PROTOCOLS[protocol](reduction, RANKINGS[name], self.calibration, self.seed)
        return self._record(name, protocol, removed, reduction.network.model)

    @torch.no_grad()
    def _record(self, method: str, protocol: str, removed: int, smaller: torch.nn.Module) -> Record:
        calibration = Decisions(self.model, list(self.calibration.batches), "calibration").check(smaller)
        unseen = self.unseen.check(smaller)
        assert calibration is not None and unseen is not None
        return self.common | {
            "method": method,
            "protocol": protocol,
            "removed": removed,
            "flips": calibration.flips,
            "unseen_flips": unseen.flips,
            "accuracy": accuracy(smaller, self.data.x_test, self.data.y_test),
            "parameters": sum(parameter.numel() for parameter in smaller.parameters()),
        }


@torch.no_grad()
def order_by_gap(model: Rectangle, x: Tensor, y: Tensor, rows: int) -> Labelled:
    """The first ``rows`` of ``[N, features]``, the closest decisions in the first batch."""
    x, y = x[:rows], y[:rows]
    top = model(x).topk(2, 1).values
    order = (top[:, 0] - top[:, 1]).argsort(stable=True)
    x, y = x[order], y[order]
    return Labelled([part for part in (x[:CLOSEST], x[CLOSEST:]) if len(part)], y)


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper.pruning", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="folder of UCI's files")
    parser.add_argument("--small", action="store_true", help="small networks and few steps, for tests")
    parser.add_argument("--seeds", type=positive, metavar="N", help=f"default: {SEEDS}; small: {SMALL_SEEDS}")
    parser.add_argument(
        "--calibration",
        type=positive,
        metavar="N",
        help=f"rows at most; default: {CALIBRATION}; small: {SMALL_CALIBRATION}",
    )
    parser.add_argument("--jobs", type=positive, default=2, metavar="N", help="processes; default: 2")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json", help="file of the results")
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    return run_command("pruning", words, parse_arguments, run)


def run(arguments: argparse.Namespace, command: list[str]) -> Record:
    small = arguments.small
    data_sets = WITHOUT_FILES if arguments.data is None else DATA_SETS
    shapes, schedule = (SMALL_SHAPES, SMALL_SCHEDULE) if small else (SHAPES, SCHEDULE)
    seeds = arguments.seeds or (SMALL_SEEDS if small else SEEDS)
    calibration = arguments.calibration or (SMALL_CALIBRATION if small else CALIBRATION)
    tasks = [
        Task(data_set, arguments.data, shape, depth, width, training, seed, schedule, calibration)
        for seed in range(seeds)  # all of a seed before the next, should it be interrupted
        for shape, (depth, width) in reversed(shapes.items())  # the longest first
        for data_set in data_sets
        for training in TRAININGS
    ]
    titles = {name: load_split(name, 0, arguments.data).title for name in data_sets}
    settings = {
        "data_sets": titles,
        "shapes": shapes,
        "trainings": {name: asdict(base) for name, base in TRAININGS.items()},
        "schedule": asdict(schedule),
        "seeds": seeds,
        "calibration": calibration,
        "tolerances": TOLERANCES,
        "peers": {name: peer.title for name, peer in PEERS.items()},
        "own_order": {name: peer.title for name, peer in OWN_ORDER.items()},
        "protocols": list(PROTOCOLS),
        "shares": SHARES,
    }
    return sweep(
        work, {task.name: task for task in tasks}, arguments.output, settings, arguments.jobs, command
    )


if __name__ == "__main__":
    sys.exit(main())
