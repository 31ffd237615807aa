"""Trains K networks of one technique through all tasks of a problem, at one learning rate each."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.plasticity import measures
from benchmarks.plasticity.networks import Networks, Pass, Shape
from benchmarks.plasticity.optimizers import OPTIMIZERS
from benchmarks.plasticity.problems import Problem
from benchmarks.plasticity.techniques import Technique

DIGITS = 4  # of a stored number
MEASURES = ("dead", "linear", "dormant", "rank", "magnitude", "scale")


@dataclass(frozen=True)
class Run:
    """One network."""

    seed: int
    rate: float
    """The learning rate."""
    strength: float = 0.0
    """Of the technique."""
    lam: float = 0.0
    """Weight of the penalty."""


@dataclass(frozen=True)
class Schedule:
    """How many tasks, for networks of which size."""

    tasks: int
    depth: int
    width: int
    measured_every: int
    """Tasks from one look into the networks to the next; after the first and the last, too."""


def train(
    runs: Sequence[Run], problem: Problem, technique: Technique, optimizer: str, schedule: Schedule
) -> list[dict[str, Any]]:
    """Train a network for each run; returns their records.

    A record has ``scores``, one for each task: accuracy, or the squared error of a regression, None where it
    is not finite; and for each of :data:`MEASURES` a list with one number for each task in ``measured``.
    """
    shape = Shape(problem.inputs, problem.outputs, schedule.depth, schedule.width)
    networks = Networks(shape, [run.seed for run in runs], technique.linked, technique.normalized)
    rates = [run.rate for run in runs]
    update = OPTIMIZERS[optimizer](networks, rates, forgets=technique.upkeep.replaces)
    upkeep = technique.upkeep(networks, [run.strength for run in runs], update)
    lam = torch.tensor([run.lam for run in runs])
    seeds = sorted({run.seed for run in runs})
    stream, owner = problem.stream(seeds), torch.tensor([seeds.index(run.seed) for run in runs])
    scores, found, measured = [], [], []
    for task in range(schedule.tasks):
        stream.next_task()
        total = torch.zeros(len(runs), dtype=torch.float64)
        for _ in range(problem.steps):
            x, y = (part[owner] for part in stream.batch())
            done = networks.run(x, technique.penalized)
            if not problem.at_the_end:
                total += scores_of(done.output.detach(), y, problem.regression)
            losses = losses_of(done.output, y, problem.regression)
            if done.penalty is not None:
                losses = losses + lam * done.penalty
            gradient = networks.gradient(losses)
            with torch.no_grad():
                upkeep.adjust(gradient)
                update.step(gradient)
                upkeep.maintain(done, lambda: stream.probe()[owner])
        scores.append(total / problem.steps)
        with torch.no_grad():
            if problem.at_the_end:
                x, y = stream.x[owner], stream.y[owner]  # type: ignore[attr-defined]
                scores[-1] = scores_of(networks.run(x).output, y, problem.regression)
            if (task + 1) % schedule.measured_every == 0 or task in (0, schedule.tasks - 1):
                measured.append(task)
                found.append(measure(networks, networks.run(stream.probe()[owner])))
    by_run, looks = torch.stack(scores, 1), torch.stack(found, 2)  # [K, tasks], [K, measures, looks]
    return [
        {**vars(run), "scores": rounded(by_run[k]), "measured": measured}
        | {name: rounded(looks[k, place]) for place, name in enumerate(MEASURES)}
        for k, run in enumerate(runs)
    ]


def losses_of(output: Tensor, y: Tensor, regression: bool) -> Tensor:
    """The loss of each network, ``[K]``: cross-entropy, or the mean squared error.

    Args:
        output: ``[K, outputs, N]``.
        y: ``[K, N]``.
        regression: which of the two.
    """
    if regression:
        return (output[:, 0] - y).square().mean(1)
    return F.cross_entropy(output, y, reduction="none").mean(1)


def scores_of(output: Tensor, y: Tensor, regression: bool) -> Tensor:
    """The accuracy, or the mean squared error, ``[K]``, float64. Outputs that are not finite are wrong."""
    if regression:
        return losses_of(output.double(), y.double(), regression)
    return ((output.argmax(1) == y) & output.isfinite().all(1)).double().mean(1)


def measure(networks: Networks, looked: Pass) -> Tensor:
    """``[K, measures]``, in the order of :data:`MEASURES`."""
    found = (
        measures.dead_units(looked.pre_activations, networks.linked),
        measures.linear_units(looked.pre_activations, networks.linked),
        measures.dormant_units(looked.features),
        measures.effective_rank(looked.features[-1]),
        measures.weight_magnitude(networks.weights),
        measures.pre_activation_scale(looked.pre_activations),
    )
    return torch.stack(found, 1)


def rounded(values: Tensor) -> list[float | None]:
    """For JSON; None for what is not finite."""
    return [round(value, DIGITS) if abs(value) < float("inf") else None for value in values.tolist()]
