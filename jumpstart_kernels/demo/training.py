"""The same deep, thin network plain, with BatchNorm and with Jumpstart, trained in lockstep."""

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

import jumpstart_kernels as jk
from jumpstart_kernels.demo.data import Data, accuracy

PLAIN, BATCH_NORM, JUMPSTART = "plain", "BatchNorm", "Jumpstart"
DEPTH, WIDTH = 50, 4
LEARNING_RATE = 0.01
WEIGHT_DECAY = 1e-3  # without it the loss spikes, possibly in the last epoch
BATCH_SIZE = 512
CURVE_POINTS = 100

criterion = nn.CrossEntropyLoss()


@dataclass
class Trained:
    """What the figure shows of a network's training."""

    name: str
    lam: float = 0.0
    """Weight of the penalty; 0 trains without it."""
    curve: list[tuple[int, float]] = field(default_factory=list)
    """(epoch, test accuracy); epoch 0 is before the first step."""
    unit_status: Tensor = field(default_factory=lambda: torch.empty((0, 0), dtype=torch.int8))
    """int8 ``[layers, units]`` over the training data: −1 dead, 0 linear, 1 nonlinear."""

    @property
    def accuracy(self) -> float:
        """Test accuracy after the last epoch."""
        return self.curve[-1][1]

    def share(self, status: int) -> float:
        """Fraction of the units that are dead (−1), linear (0) or nonlinear (1)."""
        return (self.unit_status == status).float().mean().item()


@dataclass(kw_only=True)
class Run(Trained):
    """A network and the record of its training."""

    model: nn.Module
    step_seconds: list[float] = field(default_factory=list)
    """Per training step: forward, loss, backward and optimizer."""

    @property
    def median_step(self) -> float:
        """Median seconds per step."""
        return statistics.median(self.step_seconds)


def build_network(
    features: int, classes: int, *, depth: int = DEPTH, width: int = WIDTH, batch_norm: bool = False
) -> nn.Sequential:
    """``depth`` layers of ``width`` ReLU units and a linear classifier, with PyTorch's initialization."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers.append(nn.Linear(width if i else features, width))
        if batch_norm:
            layers.append(nn.BatchNorm1d(width))
        layers.append(nn.ReLU())
    return nn.Sequential(*layers, nn.Linear(width if depth else features, classes))


def build_runs(data: Data, seed: int, lam: float, *, depth: int = DEPTH, width: int = WIDTH) -> list[Run]:
    """The three networks, with the same initial weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        plain = build_network(data.features, data.classes, depth=depth, width=width)
        torch.manual_seed(seed)
        batch_norm = build_network(data.features, data.classes, depth=depth, width=width, batch_norm=True)
    jumpstart = jk.replace_relu(copy.deepcopy(plain))
    return [
        Run(PLAIN, model=plain),
        Run(BATCH_NORM, model=batch_norm),
        Run(JUMPSTART, lam, model=jumpstart),
    ]


def train(
    runs: list[Run],
    data: Data,
    epochs: int,
    seed: int,
    *,
    batch_size: int = BATCH_SIZE,
    on_epoch: Callable[[], None] = lambda: None,
) -> None:
    """Train networks in lockstep, batch by batch, so that load on the machine affects their times alike.

    Args:
        runs: networks; their curves, times and unit status are filled in.
        data: the data to train on; the test split is only evaluated.
        epochs: passes over the training split, the same for all.
        seed: for the order of the batches, the same for all.
        batch_size: samples per step; the last batch of an epoch holds the rest.
        on_epoch: called after each epoch.
    """
    # fused: the update of many small parameters would otherwise take as long as their gradients
    make_optimizer = partial(torch.optim.Adam, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY, fused=True)
    optimizers = [make_optimizer(run.model.parameters()) for run in runs]
    generator = torch.Generator().manual_seed(seed)
    measure(runs, data, epoch=0)
    for epoch in range(1, epochs + 1):
        for batch in torch.randperm(len(data.x_train), generator=generator).split(batch_size):
            x, y = data.x_train[batch], data.y_train[batch]
            for run, optimizer in zip(runs, optimizers, strict=True):
                start = time.perf_counter()
                train_step(run.model, optimizer, x, y, run.lam)
                run.step_seconds.append(time.perf_counter() - start)
        if epoch % max(1, epochs // CURVE_POINTS) == 0 or epoch == epochs:
            measure(runs, data, epoch)
        on_epoch()
    for run in runs:
        usage = jk.unit_usage(run.model, data.x_train.split(batch_size))
        run.unit_status = torch.stack(list(usage.unit_status.values()))  # [layers, units]


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor, lam: float) -> None:
    """One step on a batch. Jumpstart only adds the penalty."""
    if lam == 0:
        loss = criterion(model(x), y)
    else:
        loss = criterion(model(x), y) + lam * jk.penalty(model)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def measure(runs: list[Run], data: Data, epoch: int) -> None:
    """Add the test accuracy of each network to its curve."""
    for run in runs:
        run.model.eval()
        with torch.no_grad():
            run.curve.append((epoch, accuracy(run.model(data.x_test).argmax(1), data.y_test)))
        run.model.train()


@contextmanager
def one_thread() -> Iterator[None]:
    """Run on one thread: with a few units per layer a second one is idle but has to be waited for."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
