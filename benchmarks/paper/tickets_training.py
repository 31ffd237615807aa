"""Training of sparse networks as a stack: under the masks of their tickets, otherwise as the dense ones."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.paper.optimizer import StackedAdam
from benchmarks.paper.stack import Stack
from benchmarks.paper.stack_training import (
    DIGITS,
    LAM_SCHEDULES,
    RATE_SCHEDULES,
    Batches,
    Schedule,
    accuracy,
    loss,
    take_step,
    unit_shares,
)
from benchmarks.paper.sweep import Record
from benchmarks.paper.tickets_arms import Member
from jumpstart_kernels.demo.data import Data

STACKED = 24  # networks at once: more do not fit in a cache, fewer are bound by calls
VALIDATION_SHARE = 1 / 5  # of the training rows


@dataclass(frozen=True)
class Split:
    """Rows for training and the test, and others for choosing λ: inputs ``[N, features]``, labels ``[N]``."""

    data: Data
    validation: tuple[Tensor, Tensor]


def hold_out(data: Data, seed: int) -> Split:
    """Take rows out of the training rows, by class and shuffled, for validation."""
    from sklearn.model_selection import train_test_split

    x, x_validation, y, y_validation = train_test_split(
        data.x_train.numpy(),
        data.y_train.numpy(),
        test_size=VALIDATION_SHARE,
        stratify=data.y_train.numpy(),
        random_state=seed,
    )
    rest = data._replace(x_train=torch.from_numpy(x), y_train=torch.from_numpy(y))
    return Split(rest, (torch.from_numpy(x_validation), torch.from_numpy(y_validation)))


def train_members(members: Sequence[Member], splits: Mapping[int, Split], schedule: Schedule) -> list[Record]:
    """Train networks of one shape and technique, in place; returns what each has come to.

    Args:
        members: networks, with the masks of their tickets.
        splits: by seed, with equal numbers of rows.
        schedule: how long to train.

    Raises:
        ValueError: members that cannot be stacked.
    """
    records: list[Record] = []
    for first in range(0, len(members), STACKED):
        records += _train_stack(members[first : first + STACKED], splits, schedule)
    return records


def _train_stack(members: Sequence[Member], splits: Mapping[int, Split], schedule: Schedule) -> list[Record]:
    runs = [member.run for member in members]
    networks: list[Any] = [member.network for member in members]
    stack = Stack(networks, [(run.reduction, run.terms) for run in runs])
    optimizer = StackedAdam(
        stack,
        [run.learning_rate for run in runs],
        [run.max_norm for run in runs],
        [run.weight_decay for run in runs],
        masks_of(stack, members),
    )
    of_runs = [(*splits[run.seed].data[1:], *splits[run.seed].validation) for run in runs]
    x, y, x_test, y_test, *validation = (torch.stack(parts) for parts in zip(*of_runs, strict=True))
    batches = Batches([run.seed for run in runs], x.shape[1], schedule.batch_size)
    steps = min(schedule.steps, schedule.epochs * batches.count)
    lams = [LAM_SCHEDULES[run.lam_schedule](run.lam, steps) for run in runs]
    rates = [RATE_SCHEDULES[run.rate_schedule] for run in runs]
    begin = time.process_time()
    for step in range(steps):
        x_batch, y_batch = batches.take(x, y)
        lam = x.new_tensor([one.weight_at(step) for one in lams])
        factors = x.new_tensor([factor(step / steps) for factor in rates])
        take_step(stack, optimizer, stack.arrange(x_batch), y_batch, lam, factors)
    seconds = (time.process_time() - begin) / steps / len(members)
    write_back(stack, members)
    test, validation[0] = stack.arrange(x_test), stack.arrange(validation[0])
    dead, linear = unit_shares(stack, test)
    columns = {
        "accuracy": accuracy(stack, test, y_test),
        "validation_accuracy": accuracy(stack, *validation),
        "dead": dead,
        "linear": linear,
        "diverged": (~loss(stack, *validation).isfinite()).double(),
    }
    values = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [
        {name: round(value, DIGITS) for name, value in zip(columns, row, strict=True)}
        | {"steps": steps, "step_seconds": seconds}
        for row in values
    ]


def masks_of(stack: Stack, members: Sequence[Member]) -> dict[nn.Parameter, Tensor]:
    """The masks of all tickets, of the shapes of the stack's weights."""
    by_layer: dict[nn.Parameter, Tensor] = {}
    masks = [{} if member.ticket is None else member.ticket.masks for member in members]
    for name, parameter in weights_of(stack).items():
        whole = torch.ones_like(parameter[0], dtype=torch.bool)
        by_layer[parameter] = torch.stack([of_one.get(name, whole) for of_one in masks])
    return by_layer


def weights_of(stack: Stack) -> dict[str, nn.Parameter]:
    """The stack's weights, ``[K, outputs, inputs]``, by the names of the networks' layers."""
    layers = {f"layers.{depth}": weight for depth, weight in enumerate(stack.weights)}
    return {**layers, "classifier": stack.head_weight}


@torch.no_grad()
def write_back(stack: Stack, members: Sequence[Member]) -> None:
    """Give the networks the stack's parameters."""
    biases = {f"layers.{depth}": bias for depth, bias in enumerate(stack.biases)}
    parameters = {f"{name}.weight": weight for name, weight in weights_of(stack).items()}
    parameters |= {f"{name}.bias": bias for name, bias in biases.items()}
    parameters["classifier.bias"] = stack.head_bias
    for k, member in enumerate(members):
        weights = {name: parameter[k].clone() for name, parameter in parameters.items()}
        if member.ticket is None:
            member.network.load_state_dict(weights)
        else:
            member.ticket.rewind(weights)
