"""A trainer that can be killed at any moment and resumes from its last checkpoint with the same result."""

import argparse
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jumpstart_kernels as jk
from benchmarks.imagenet import state
from benchmarks.imagenet.convolutions import check_convolutions
from benchmarks.imagenet.data import (
    Images,
    TrainingOrder,
    ValidationOrder,
    find_data,
    make_loader,
    normalize,
)
from benchmarks.imagenet.log import Log
from benchmarks.imagenet.means import Means
from benchmarks.imagenet.options import MODELS
from benchmarks.imagenet.parallel import autocast, parallelize, settle, synchronizing
from benchmarks.imagenet.processes import Processes, Termination, on_first
from benchmarks.imagenet.validation import validate
from benchmarks.models import build_resnet50
from jumpstart_kernels.cli.errors import CommandError
from jumpstart_kernels.schedules import ConstantPenalty, CosinePenalty, PenaltySchedule
from jumpstart_kernels.usage.report import UsageReport


def train(trainer: "Trainer", termination: Termination, quiet: bool = False) -> bool:
    """Train to the end and log it. False if SIGTERM ended it early, with a checkpoint stored."""
    options, steps = trainer.options, trainer.order.steps
    log = Log(options.output, trainer.processes.first, options.tensorboard, quiet)
    log.say(
        f"{options.model}: {trainer.images} images of {trainer.classes} classes, {steps} steps per epoch; "
        f"{trainer.processes.count} processes, {options.parallel}, {options.precision}"
    )
    if trainer.steps_done:
        log.say(f"{options.output} has a checkpoint: {trainer.place} is done")
    if not trainer.run(termination, log):
        log.say(f"ended by SIGTERM: {trainer.place} is stored")
        return False
    if trainer.usage is not None:
        log.say(f"unit usage on the validation set\n{trainer.usage}")
    return True


class Trainer:
    """Network, data, optimizer and schedules, restored from the checkpoint if it exists.

    Args:
        options: from :func:`benchmarks.imagenet.options.parse_arguments`.
        processes: the processes that train together; all make the same calls.

    Raises:
        CommandError: options, data, processes and checkpoint are incompatible.
    """

    def __init__(self, options: argparse.Namespace, processes: Processes) -> None:
        self.options = options
        self.processes = processes
        self._load_data()
        state.set_seed(options.seed)
        self.network = self._build()
        self.model = parallelize(
            self.network,
            options.parallel,
            processes,
            options.precision,
            options.checkpointing,
            options.compile,
        )
        steps, total = self.order.steps, self.order.steps * options.epochs
        self.optimizer = torch.optim.SGD(
            self.network.parameters(),
            lr=options.learning_rate,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
        )
        for parameter in self.network.parameters():  # a checkpoint before the first step needs it
            self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
        self.learning_rate = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, warmup_cosine(round(options.warmup_epochs * steps), total)
        )
        self.penalty_schedule = make_penalty_schedule(options, steps)
        self.scaler = torch.amp.GradScaler(processes.device.type, enabled=options.precision == "fp16")

        self.epoch = self.step = 0  # step within the epoch
        self.means = Means(processes.device)
        self.logged: dict[str, float] = {}  # the log entry of the last step, if it had one
        self.history: list[dict[str, Any]] = []  # a record for each epoch
        self.usage: UsageReport | None = None  # of the last epoch, if it ended in this process

        if options.parallel == "ddp":
            size = (self.micro_batch, options.image_size, options.image_size, 3)
            settle(self.model, self._to_images(torch.zeros(size, dtype=torch.uint8)), self._autocast())
            jk.clear_records(self.network)
        state.set_seed(options.seed + 1 + processes.rank)
        state.restore(self)

    def _load_data(self) -> None:
        options, processes = self.options, self.processes
        parts = options.accumulate * processes.count
        if options.batch_size % parts:
            raise CommandError(
                f"--batch-size must be a multiple of {parts}, --accumulate × {processes.count} processes, "
                f"got {options.batch_size}"
            )
        train, val = on_first(processes, lambda: find_data(options.data))
        if len(train) < options.batch_size:
            raise CommandError(
                f"--batch-size must be at most {len(train)}, the number of training images, "
                f"got {options.batch_size}"
            )
        if len(val) < processes.count:
            raise CommandError(f"--data: val must have an image for each of {processes.count} processes")
        self.classes, self.images, self.checksum = len(train.classes), len(train), train.checksum()
        self.micro_batch = options.batch_size // parts  # images of one forward in this process
        rank, count, seed = processes.rank, processes.count, options.seed
        self.order = TrainingOrder(len(train), options.batch_size, options.accumulate, rank, count, seed)
        val_order = ValidationOrder(len(val), self.micro_batch, rank, count, seed)
        wanted = len(val) if options.usage_images is None else options.usage_images
        self.watched = math.ceil(wanted * len(val_order) / len(val))  # validation batches for unit usage

        workers, pin = options.workers, processes.device.type == "cuda"
        images = Images(train, options.image_size, seed)
        self.loader = make_loader(images, self.order, workers, pin)
        images = Images(val, options.image_size)
        self.val_loader = make_loader(images, val_order, workers, pin)

    def _build(self) -> nn.Module:
        options = self.options
        blocks = MODELS[options.model]
        network: Any = build_resnet50(
            batch_norm=False, skips=False, classes=self.classes, width=options.width, blocks=blocks
        )
        check_convolutions(network, options.image_size, options.precision, self.processes.device)
        if options.penalty_weight:
            network = jk.replace_relu(network)
        network.to(self.processes.device)
        if options.memory_format == "channels_last" and options.parallel == "ddp":
            network.to(memory_format=torch.channels_last)  # FSDP shards only contiguous weights
        return network

    @property
    def steps_done(self) -> int:
        """Completed optimizer steps over all epochs."""
        return self.epoch * self.order.steps + self.step

    @property
    def place(self) -> str:
        return f"step {self.step} of {self.order.steps} in epoch {self.epoch + 1} of {self.options.epochs}"

    def run(self, termination: Termination, log: Log) -> bool:
        """Train and validate to the end. False if SIGTERM ended it early, with a checkpoint stored."""
        log.open(self.steps_done, self.logged, self.history if self.step == 0 else [])
        try:
            while self.epoch < self.options.epochs:
                if not (self._train(termination, log) and self._validate(termination, log)):
                    return False
            return True
        finally:
            log.close()

    def _train(self, termination: Termination, log: Log) -> bool:
        """Train for the rest of the epoch. False if it was ended."""
        if self.step == self.order.steps:  # only the validation is left
            return True
        options, steps = self.options, self.order.steps
        self.network.train()
        self.order.epoch, self.order.step = self.epoch, self.step
        batches = self._on_device(self.loader)
        log.begin(f"epoch {self.epoch + 1}", steps, options.batch_size)
        while self.step < steps:
            rates = self._rates()
            self.take_step(batches)
            self.step += 1
            self.logged = {}
            log.advance(self.step)
            if self.steps_done % options.log_every == 0:
                self.logged = {**self.means.since_logged(), **rates}
                log.step(self.steps_done, self.logged)
            ended = termination.agreed()
            due = options.checkpoint_every and self.steps_done % options.checkpoint_every == 0
            if ended or due or self.step == steps:
                self.means.of_epoch()  # raises if the loss is not finite
                log.flush()
                state.store(self)
            if ended:
                return False
        return True

    def take_step(self, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        """One optimizer step on the next batches."""
        options = self.options
        for part in range(options.accumulate):
            images, labels = next(batches)
            with synchronizing(self.model, part == options.accumulate - 1):
                with self._autocast():
                    logits = self.model(images)
                    loss = F.cross_entropy(logits, labels)
                penalty = self._penalty(loss)
                total = loss + self.penalty_schedule.weight * penalty
                self.scaler.scale(total / options.accumulate).backward()
            self.means.add(loss.detach(), penalty.detach(), logits.detach(), labels)
        if options.max_gradient_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.network.parameters(), options.max_gradient_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        self.learning_rate.step()
        self.penalty_schedule.step()

    def _penalty(self, loss: Tensor) -> Tensor:
        if not self.options.penalty_weight:
            return torch.zeros_like(loss)
        group = None if self.options.local_penalty else self.processes.mesh
        return jk.penalty(self.network, process_group=group)

    def _validate(self, termination: Termination, log: Log) -> bool:
        """Validate and finish the epoch. False if it was ended: a resumed training validates again."""
        log.begin("validation", len(self.val_loader))

        def ended(batches: int) -> bool:
            log.advance(batches)
            return termination.agreed()

        batches = self._on_device(self.val_loader)
        result = validate(self.network, batches, self.processes.device, self._autocast, self.watched, ended)
        if result is None:
            return False
        record: dict[str, Any] = {"epoch": self.epoch + 1, "step": self.steps_done}
        record |= {f"train_{name}": mean for name, mean in self.means.of_epoch().items()}
        record |= {"loss": result.loss, "top1": result.top1, "top5": result.top5}
        if result.usage is not None:
            record["usage"] = result.usage.ratios
            record["layers"] = {name: layer._asdict() for name, layer in result.usage.layers.items()}
        self.history.append(record)
        self.usage = result.usage
        self.epoch, self.step = self.epoch + 1, 0
        self.means.clear()
        state.store(self)
        log.epoch(self.history, result.usage)
        return True

    def _rates(self) -> dict[str, float]:
        """Of the next step."""
        return {
            "learning_rate": float(self.learning_rate.get_last_lr()[0]),
            "penalty_weight": self.penalty_schedule.weight,
        }

    def _autocast(self) -> AbstractContextManager:
        return autocast(self.options.parallel, self.processes.device, self.options.precision)

    def _on_device(self, loader: Iterable[Any]) -> Iterator[tuple[Tensor, Tensor]]:
        for pixels, labels in loader:
            yield self._to_images(pixels), labels.to(self.processes.device, non_blocking=True)

    def _to_images(self, pixels: Tensor) -> Tensor:
        images = normalize(pixels.to(self.processes.device, non_blocking=True))
        return images if self.options.memory_format == "channels_last" else images.contiguous()


def warmup_cosine(warmup: int, total: int) -> Callable[[int], float]:
    """The learning rate's factor by step: linear warm-up to 1, then half a cosine to 0 at ``total`` steps."""

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return (1 + math.cos(math.pi * min((step - warmup) / max(total - warmup, 1), 1.0))) / 2

    return factor


def make_penalty_schedule(options: argparse.Namespace, steps: int) -> PenaltySchedule:
    """The schedule of λ from the options, for ``steps`` steps per epoch."""
    warmup, total = round(options.penalty_warmup_epochs * steps), options.epochs * steps
    if options.penalty_schedule == "linear":
        return ConstantPenalty(options.penalty_weight, warmup_steps=warmup)
    if options.penalty_schedule == "cosine":
        warmup = min(warmup, total - 1)
        return CosinePenalty(options.penalty_weight, total_steps=total, warmup_steps=warmup)
    return ConstantPenalty(options.penalty_weight)
