"""ResNet-20 on CIFAR-10 for the experiment with sparse networks, for a GPU."""

import argparse
import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jumpstart_kernels as jk
from benchmarks.paper.cifar_images import Images, augment, load_images, standardize
from benchmarks.paper.stack_training import DIGITS, RATE_SCHEDULES, Run
from benchmarks.paper.sweep import Record, sweep
from benchmarks.paper.tickets_arms import OTHER_SEED, Member, compare
from benchmarks.paper.tickets_networks import ResNet20
from jumpstart_kernels.cli.errors import CommandError
from jumpstart_kernels.cli.inputs import positive

EVALUATION_BATCH = 500
MOMENTUM = 0.9
VALIDATION_SHARE = 0.1  # of the training images, the last


@dataclass(frozen=True)
class Settings:
    """What all networks share."""

    epochs: int
    batch_size: int
    learning_rate: float
    """It falls by a cosine to 0."""
    weight_decay: float
    train: int | None
    """Images, from the first; None: all."""
    test: int | None


@dataclass(frozen=True)
class Task:
    """A dense network, and the sparse ones of every arm that begin with it."""

    run: Run
    settings: Settings
    path: Path
    device: str
    arms: tuple[str, ...]
    sparsities: tuple[float, ...]

    @property
    def name(self) -> str:
        return f"resnet20/{self.run.technique}/{self.run.lam:g}/{self.run.seed}"


class Trainer:
    """Trains networks on the same images."""

    def __init__(self, images: Images, settings: Settings, device: torch.device) -> None:
        self.settings, self.device = settings, device
        self.classes = images.classes
        held_out = max(1, round(VALIDATION_SHARE * len(images.y_train)))
        pixels = images.x_train[:-held_out].float()
        self.mean, self.deviation = (
            value.to(device) for value in (pixels.mean((0, 2, 3)), pixels.std((0, 2, 3)))
        )
        x, y, x_test, y_test = (part.to(device) for part in images[:4])
        self.x, self.y = x[:-held_out], y[:-held_out]
        self.validation, self.test = (x[-held_out:], y[-held_out:]), (x_test, y_test)
        self.layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format

    def build(self, run: Run, other: bool) -> nn.Module:
        """A network with the initial weights of the run's seed, or with others."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(run.seed + OTHER_SEED * other)
            model: Any = ResNet20(self.classes)
        if run.technique == "jumpstart":
            model = jk.replace_relu(model)
        return model.to(self.device, memory_format=self.layout)

    def train_members(self, members: Sequence[Member]) -> list[Record]:
        """One after the other; networks of a seed see the same batches."""
        return [self.train(member) for member in members]

    def train(self, member: Member) -> Record:
        """Train a network in place; returns what it has come to."""
        run, network, settings = member.run, member.network.train(), self.settings
        generator = torch.Generator().manual_seed(run.seed)
        optimizer = torch.optim.SGD(
            network.parameters(),
            settings.learning_rate,
            momentum=MOMENTUM,
            weight_decay=settings.weight_decay,
        )
        steps = settings.epochs * -(-len(self.y) // settings.batch_size)
        falling = RATE_SCHEDULES[run.rate_schedule]
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: falling(step / steps))
        begin, loss = time.perf_counter(), math.nan
        for _ in range(settings.epochs):
            losses = []
            order = torch.randperm(len(self.y), generator=generator).to(self.device)
            for chosen in order.split(settings.batch_size):
                x = self.prepare(augment(self.x[chosen], generator))
                with self.autocast():
                    losses.append(F.cross_entropy(network(x), self.y[chosen]))
                optimizer.zero_grad()
                penalty = run.lam * jk.penalty(network) if run.technique == "jumpstart" else 0.0
                (losses[-1] + penalty).backward()
                losses[-1] = losses[-1].detach()
                optimizer.step()
                scheduler.step()
            loss = torch.stack(losses).mean().item()  # waits for the device
        seconds = (time.perf_counter() - begin) / steps
        batches = (self.prepare(x) for x in self.test[0].split(EVALUATION_BATCH))
        usage = jk.unit_usage(network.eval(), batches).ratios
        return {
            "accuracy": self.accuracy(network, *self.test),
            "validation_accuracy": self.accuracy(network, *self.validation),
            "dead": round(float(usage["unit_dead_ratio"]), DIGITS),
            "linear": round(float(usage["unit_linear_ratio"]), DIGITS),
            "diverged": float(not math.isfinite(loss)),
            "steps": steps,
            "step_seconds": seconds,
        }

    @torch.no_grad()
    def accuracy(self, network: nn.Module, x: Tensor, y: Tensor) -> float:
        with self.autocast():
            parts = zip(x.split(EVALUATION_BATCH), y.split(EVALUATION_BATCH), strict=True)
            hits = [(network(self.prepare(part)).argmax(1) == labels).sum() for part, labels in parts]
        return round(int(torch.stack(hits).sum()) / len(y), DIGITS)

    def prepare(self, x: Tensor) -> Tensor:
        return standardize(x, self.mean, self.deviation).contiguous(memory_format=self.layout)

    def autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")


@lru_cache(maxsize=1)
def load(path: Path, train: int | None, test: int | None) -> Images:
    """Decoded once in each process."""
    return load_images(path, train, test)


def work(task: Task) -> list[Record]:
    """Train a task's networks."""
    images = load(task.path, task.settings.train, task.settings.test)
    trainer = Trainer(images, task.settings, torch.device(task.device))
    records = compare([task.run], trainer.build, trainer.train_members, task.arms, task.sparsities)
    return [{"data_set": "CIFAR-10", "depth": 20, "width": 16} | record for record in records]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", metavar="NAME", help="resnet20; default: cuda if available")
    parser.add_argument("--epochs", type=positive, default=40, metavar="N", help="resnet20; default: 40")
    parser.add_argument(
        "--batch-size", type=positive, default=128, metavar="N", help="resnet20; default: 128"
    )
    parser.add_argument("--train", type=positive, metavar="N", help="resnet20: images; default: all")
    parser.add_argument("--test", type=positive, metavar="N", help="resnet20: images; default: all")


def run(arguments: argparse.Namespace, settings: Record, command: list[str], device: torch.device) -> Record:
    """The experiment with ResNet-20. Arguments are those of :mod:`benchmarks.paper.tickets`."""
    if arguments.data is None:
        raise CommandError("--network resnet20 needs --data FILE.npz, CIFAR-10 as JPEG files")
    own = Settings(arguments.epochs, arguments.batch_size, 0.1, 5e-4, arguments.train, arguments.test)
    images = load(arguments.data, own.train, own.test)
    counts = {"train": len(images.y_train), "test": len(images.y_test)}
    load.cache_clear()  # the processes have their own
    runs = [
        Run(technique, seed, own.learning_rate, lam, weight_decay=own.weight_decay, rate_schedule="cosine")
        for seed in range(arguments.seeds)  # all of a seed before the next, should it be interrupted
        for technique, lams in (("jumpstart", settings["lams"]), ("plain", (0.0,)))
        for lam in lams
    ]
    tasks = [
        Task(one, own, arguments.data, str(device), settings["arms"], settings["sparsities"]) for one in runs
    ]
    settings = {**settings, **asdict(own), **counts, "device": str(device)}
    named = {task.name: task for task in tasks}
    return sweep(work, named, arguments.output, settings, arguments.jobs, command, device)
