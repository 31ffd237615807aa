"""The networks that are pruned, and their training: one network at a time, which is then kept."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jumpstart_kernels as jk
from benchmarks.paper.changes import RECIPES
from benchmarks.paper.networks import Rectangle, Shape
from benchmarks.paper.stack_training import RATE_SCHEDULES, Run, make_network
from jumpstart_kernels.demo.data import Data

LEARNING_RATE = 0.003
STABILIZED = RECIPES["stabilized"] | {"weight_decay": 0.0}
TRAININGS = {
    "plain": Run("plain", 0, LEARNING_RATE, **STABILIZED),
    "weight decay": Run("plain", 0, LEARNING_RATE, **STABILIZED | {"weight_decay": 0.001}),
    "Jumpstart": Run("jumpstart", 0, LEARNING_RATE, lam=0.1, **STABILIZED),
}
"""By name. All have He initialization, gradients clipped to a norm of 1, and a rate that decays to 0."""
SHAPES = {"shallow": (3, 64), "deep": (10, 32)}
"""Layers, and units of each."""


@dataclass(frozen=True)
class Schedule:
    """How long to train."""

    steps: int
    batch_size: int


def train_network(run: Run, data: Data, depth: int, width: int, schedule: Schedule) -> Rectangle:
    """A trained network, in ``eval()``, which the seed of the run determines."""
    model = make_network(Shape(depth, width, data.features, data.classes), run)
    optimizer = torch.optim.Adam(model.parameters(), weight_decay=run.weight_decay, fused=True)
    factor, generator = RATE_SCHEDULES[run.rate_schedule], torch.Generator().manual_seed(run.seed)
    batches: list[Tensor] = []
    for step in range(schedule.steps):
        batches = batches or list(
            torch.randperm(len(data.y_train), generator=generator).split(schedule.batch_size)
        )
        rows = batches.pop()
        loss = F.cross_entropy(model(data.x_train[rows]), data.y_train[rows])
        if run.technique == "jumpstart":
            loss = loss + run.lam * jk.penalty(model)
        optimizer.zero_grad()
        loss.backward()
        if run.max_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), run.max_norm)
        optimizer.param_groups[0]["lr"] = run.learning_rate * factor(step / schedule.steps)
        optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Of ``[N, features]`` and labels ``[N]``."""
    return float((model(x).argmax(1) == y).double().mean())
