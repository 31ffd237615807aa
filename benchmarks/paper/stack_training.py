"""Training of a stack of networks. A run is one network, with its own split, initialization, rate and λ."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.paper.networks import Rectangle, Shape
from benchmarks.paper.optimizer import StackedAdam
from benchmarks.paper.stack import Stack
from jumpstart_kernels.demo.data import Data
from jumpstart_kernels.schedules import (
    ConstantPenalty,
    CosinePenalty,
    LinearPenalty,
    PenaltySchedule,
    SequentialPenalty,
)

EVALUATIONS = 20  # of a run, by default
DIGITS = 10  # of a stored fraction, so that equal counts have equal means
CURVE_DIGITS = 4


LAM_SCHEDULES: dict[str, Callable[[float, int], PenaltySchedule]] = {
    "constant": lambda lam, steps: ConstantPenalty(lam),
    "warm-up": lambda lam, steps: ConstantPenalty(lam, warmup_steps=steps // 10),
    "linear": lambda lam, steps: LinearPenalty(lam, total_steps=steps),
    "cosine": lambda lam, steps: CosinePenalty(lam, total_steps=steps),
    "first half": lambda lam, steps: SequentialPenalty(
        [ConstantPenalty(lam), ConstantPenalty(0.0)], [steps // 2]
    ),
}
"""Makes the schedule of λ, given λ and the number of steps."""
RATE_SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda done: 1.0,
    "linear": lambda done: 1 - done,
    "cosine": lambda done: (1 + math.cos(math.pi * done)) / 2,
}
"""Factor of the learning rate, given the fraction of the steps that is done."""


@dataclass(frozen=True)
class Run:
    """A network and its hyperparameters. Runs of one seed share split, initial weights and batches."""

    technique: str
    seed: int
    learning_rate: float
    lam: float = 0.0
    """Weight of the penalty."""
    max_norm: float | None = None
    """To which the gradient is clipped; None: no clipping."""
    weight_decay: float = 0.0
    """Of PyTorch's Adam: the weights, times this, are added to their gradients."""
    initialization: str = "pytorch"
    """A name in :data:`benchmarks.paper.networks.INITIALIZATIONS`."""
    reduction: str = "balanced"
    """Of the penalty, see :func:`jumpstart_kernels.penalty`."""
    terms: str = "full"
    """Of the penalty."""
    rate_schedule: str = "constant"
    """A name in :data:`RATE_SCHEDULES`."""
    lam_schedule: str = "constant"
    """A name in :data:`LAM_SCHEDULES`."""


@dataclass(frozen=True)
class Schedule:
    """How long to train: for ``epochs`` or for ``steps``, whichever is shorter."""

    epochs: int = 4000
    steps: int = 4000
    batch_size: int = 256
    evaluations: int = EVALUATIONS


@dataclass(frozen=True)
class Outcome:
    """The result of a run."""

    accuracy: float
    """On the test split after the last step."""
    lowest_loss_accuracy: float
    """On the test split, at the evaluation with the lowest training loss (without the penalty)."""
    train_accuracy: float
    """On the training split after the last step."""
    dead: float
    """Fraction of units that are dead on the test split after the last step; NaN counts as dead."""
    linear: float
    """Fraction of units that are linear there."""
    train_dead: float
    train_linear: float
    diverged: float
    """1 if the loss after the last step is infinite or NaN, else 0. Infinite or NaN logits count as wrong."""
    curve: tuple[float, ...]
    """Test accuracy at each evaluation."""

    def record(self) -> dict[str, Any]:
        """Rounded, for JSON."""
        numbers = {field.name: round(getattr(self, field.name), DIGITS) for field in fields(self)[:-1]}
        return {**numbers, "curve": [round(value, CURVE_DIGITS) for value in self.curve]}


def train(
    runs: Sequence[Run],
    data: Sequence[Data],
    depth: int,
    width: int,
    schedule: Schedule,
    share_groups: bool = True,
) -> list[Outcome]:
    """Train networks of one technique as a stack.

    Args:
        runs: of one technique.
        data: for each run, with equal numbers of rows, features and classes. Inputs are ``[N, features]``,
            or images ``[N, channels, H, W]``, which are trained by 3×3 convolutions.
        depth: number of layers.
        width: units of each layer.
        schedule: how long to train.
        share_groups: see :class:`Stack`. If a network diverges, all are trained again without it, since the
            others in its groups may be corrupted.

    Raises:
        ValueError: runs or data that cannot be stacked.
    """
    if len({run.technique for run in runs}) != 1 or len(runs) != len(data):
        raise ValueError("runs must be of one technique, with data for each")
    if len({(part.x_train.shape, part.x_test.shape) for part in data}) != 1:
        raise ValueError("data must have the same numbers of rows and features for all runs")
    classes = max(part.classes for part in data)
    x, y, x_test, y_test = (torch.stack(parts) for parts in zip(*(part[1:] for part in data), strict=True))
    shape = Shape(depth, width, x.shape[2], classes, image=x.dim() == 5)
    networks = [make_network(shape, run) for run in runs]
    stack = Stack(networks, [(run.reduction, run.terms) for run in runs], share_groups)
    x_test = stack.arrange(x_test)
    x_train = stack.arrange(x)
    optimizer = StackedAdam(
        stack,
        [run.learning_rate for run in runs],
        [run.max_norm for run in runs],
        [run.weight_decay for run in runs],
    )
    batches = Batches([run.seed for run in runs], x.shape[1], schedule.batch_size)
    steps = min(schedule.steps, schedule.epochs * batches.count)
    lams = [LAM_SCHEDULES[run.lam_schedule](run.lam, steps) for run in runs]
    rate_schedules = [RATE_SCHEDULES[run.rate_schedule] for run in runs]
    falling = any(run.rate_schedule != "constant" for run in runs)
    due = {round(steps * i / schedule.evaluations) for i in range(1, schedule.evaluations + 1)}
    curve: list[Tensor] = []
    losses: list[Tensor] = []
    for step in range(1, steps + 1):
        x_batch, y_batch = batches.take(x, y)
        lam = torch.tensor([one.weight_at(step - 1) for one in lams])
        factors = torch.tensor([factor((step - 1) / steps) for factor in rate_schedules])
        take_step(stack, optimizer, stack.arrange(x_batch), y_batch, lam, factors if falling else None)
        if step in due:
            curve.append(accuracy(stack, x_test, y_test))
            losses.append(loss(stack, x_train, y))
            if shape.image and share_groups and not losses[-1].isfinite().all():
                return train(runs, data, depth, width, schedule, share_groups=False)
    by_evaluation = torch.stack(losses)  # [evaluations, K]
    diverged = ~by_evaluation[-1].isfinite()
    accuracies = torch.stack(curve)  # [evaluations, K]
    at_lowest_loss = accuracies.gather(0, by_evaluation.nan_to_num(nan=math.inf).argmin(0)[None])[0]
    shares, train_shares = unit_shares(stack, x_test), unit_shares(stack, x_train)
    columns = (
        accuracies[-1],
        at_lowest_loss,
        accuracy(stack, x_train, y),
        *shares,
        *train_shares,
        diverged.float(),
    )
    curves = map(tuple, accuracies.T.tolist())
    return [Outcome(*row) for row in zip(*(column.tolist() for column in columns), curves, strict=True)]


def make_network(shape: Shape, run: Run) -> Rectangle:
    """A network whose initial parameters depend only on the seed and the shape."""
    with torch.random.fork_rng():
        torch.manual_seed(run.seed)
        return Rectangle(shape, run.technique, run.initialization)


class Batches:
    """The rows of the training split in batches of nearly equal size, reshuffled in each epoch.

    Args:
        seeds: one for each network; networks of one seed see the same batches.
        rows: number of rows of the training split.
        size: maximum number of rows in a batch.
    """

    def __init__(self, seeds: Sequence[int], rows: int, size: int) -> None:
        self.count = -(-rows // size)
        self.rows = rows
        self.generators = {seed: torch.Generator().manual_seed(seed) for seed in seeds}
        self.seeds = seeds
        self.left: list[Tensor] = []  # [K, rows of a batch] each

    def take(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The next batch of ``x``, ``[K, N, ...]``, and of ``y``, ``[K, N]``."""
        if self.count == 1:
            return x, y
        if not self.left:
            orders = {seed: torch.randperm(self.rows, generator=g) for seed, g in self.generators.items()}
            order = torch.stack([orders[seed] for seed in self.seeds])
            self.left = list(order.tensor_split(self.count, dim=1))
        chosen = self.left.pop()
        networks = torch.arange(len(chosen))[:, None]
        return x[networks, chosen], y[networks, chosen]


def take_step(
    stack: Stack,
    optimizer: StackedAdam,
    x: Tensor,
    y: Tensor,
    lam: Tensor,
    factors: Tensor | None = None,
) -> None:
    """One step of every network on its own loss: the gradient of the sum keeps networks apart."""
    logits, penalty = stack(x)
    losses = F.cross_entropy(logits, y, reduction="none").mean(1)  # [K]
    if penalty is not None:
        losses = losses + lam * penalty
    losses.sum().backward()
    optimizer.step(factors)


@torch.no_grad()
def accuracy(stack: Stack, x: Tensor, y: Tensor) -> Tensor:
    """The accuracy of each network, ``[K]``."""
    stack.eval()
    logits, _ = stack(x)
    stack.train()
    right = (logits.argmax(1) == y) & logits.isfinite().all(1)
    return right.double().mean(1)


@torch.no_grad()
def loss(stack: Stack, x: Tensor, y: Tensor) -> Tensor:
    """The loss of each network without the penalty, ``[K]``."""
    stack.eval()
    logits, _ = stack(x)
    stack.train()
    return F.cross_entropy(logits, y, reduction="none").mean(1)


def unit_shares(stack: Stack, x: Tensor) -> tuple[Tensor, Tensor]:
    """The fractions of dead and of linear units of each network over the data, ``[K]`` each."""
    stack.eval()
    largest, smallest = stack.unit_extrema(x)
    stack.train()
    dead, linear = ~(largest > 0), smallest > 0  # NaN counts as dead
    return dead.double().mean((1, 2)), linear.double().mean((1, 2))
