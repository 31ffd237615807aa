"""Trains one network of the CIFAR-10 comparison."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jumpstart_kernels as jk
from benchmarks.models import BLOCKS
from benchmarks.paper.cifar_diagnosis import diagnose
from benchmarks.paper.cifar_images import Images, augment, standardize
from benchmarks.paper.cifar_networks import build_network
from benchmarks.paper.cifar_penalties import PenaltyOf
from benchmarks.paper.cifar_techniques import Technique
from benchmarks.paper.sweep import Record

EVALUATION_BATCH = 500
PROBES = 200  # images for the diagnosis, and for initializations that depend on data
REST_RATE = 1e-3  # of AdamW, for what Muon does not train


@dataclass(frozen=True)
class Schedule:
    """What all networks share."""

    steps: int
    batch_size: int
    evaluations: int
    """How often accuracy is measured, evenly spread over the steps; the last is after the last step."""
    width: int
    """Channels of the stem."""
    growth: float = 2.0
    """Of the channels from stage to stage."""
    stem_stride: int = 2
    blocks: tuple[int, ...] = BLOCKS
    warm_up: float = 0.1
    """In this share of the steps the learning rate rises linearly, before half a cosine to 0."""
    max_norm: float = 1.0
    """Of the gradient, which is clipped to it."""


class Training:
    """A network and all that trains it.

    Args:
        technique: how to train.
        learning_rate: the highest.
        lam: weight of the penalty.
        seed: of weights, order and augmentation.
        schedule: what all share.
        images: ``x_train`` and ``y_train`` to train on, the others to measure accuracy on.
        device: where.
    """

    def __init__(
        self,
        technique: Technique,
        learning_rate: float,
        lam: float,
        seed: int,
        schedule: Schedule,
        images: Images,
        device: torch.device,
    ) -> None:
        torch.manual_seed(seed)
        self.technique, self.learning_rate, self.lam, self.seed = technique, learning_rate, lam, seed
        self.schedule, self.device = schedule, device
        self.generator = torch.Generator().manual_seed(seed)
        self.images = images.to(device)
        pixels = images.x_train[:5000].float()
        self.mean, self.deviation = (
            value.to(device) for value in (pixels.mean((0, 2, 3)), pixels.std((0, 2, 3)))
        )
        probes = standardize(images.x_train[:PROBES], self.mean.cpu(), self.deviation.cpu())
        model: Any = build_network(
            technique,
            schedule.width,
            images.classes,
            probes,
            growth=schedule.growth,
            stem_stride=schedule.stem_stride,
            blocks=schedule.blocks,
        )
        self.model = model.to(device, memory_format=torch.channels_last)
        self.penalty = PenaltyOf(self.model, technique)
        self.optimizers = make_optimizers(technique.optimizer, self.model, learning_rate)
        self.rates = [[group["lr"] for group in each.param_groups] for each in self.optimizers]
        self.step = 0

    def run(
        self,
        *,
        unseen: tuple[Tensor, Tensor] | None = None,
        diagnosed: bool = False,
        report: Callable[[float], object] = lambda accuracy: None,
    ) -> Record:
        """Train in full.

        Args:
            unseen: further images and labels, for the accuracy at the end alone.
            diagnosed: whether to look inside, before the first step and at every evaluation.
            report: called with the accuracy at every evaluation.

        Returns:
            Accuracies after the last step, ``accuracy`` on the images to measure it on, ``train_accuracy``
            and ``unseen_accuracy``, and the course of training. A network whose loss is not finite stops
            there, ``diverged``.
        """
        course: list[Record] = []
        diagnoses = [self.diagnosis()] if diagnosed else []
        losses, penalties, seconds, begin = [], [], 0.0, time.perf_counter()
        every = max(1, self.schedule.steps // self.schedule.evaluations)
        batches = self.batches()
        while self.step < self.schedule.steps:
            loss, penalty = self.train(next(batches))
            losses.append(loss)
            penalties.append(penalty)
            if self.step % every and self.step < self.schedule.steps:
                continue
            means = [torch.stack(values).mean().item() for values in (losses, penalties)]
            seconds += time.perf_counter() - begin
            finite = all(map(math.isfinite, means))
            accuracy = self.accuracy(self.images.x_test, self.images.y_test)
            if finite:
                course.append(
                    {"step": self.step, "loss": means[0], "penalty": means[1], "accuracy": accuracy}
                )
            report(accuracy)
            if diagnosed and finite:
                diagnoses.append(self.diagnosis())
            losses, penalties, begin = [], [], time.perf_counter()
            if not finite:
                break
        return {
            "learning_rate": self.learning_rate,
            "lam": self.lam,
            "seed": self.seed,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "accuracy": accuracy,
            "train_accuracy": self.accuracy(self.images.x_train, self.images.y_train),
            "unseen_accuracy": None if unseen is None else self.accuracy(*unseen),
            "diverged": not finite,
            "train_seconds": round(seconds, 2),
            "course": course,
            "diagnoses": diagnoses,
            "units": self.unit_ratios(),
            "schedule": asdict(self.schedule),
        }

    def factor(self) -> float:
        """Of the learning rate, at the next step."""
        steps = self.schedule.steps
        rise = max(1, round(self.schedule.warm_up * steps))
        if self.step < rise:
            return (self.step + 1) / rise
        return (1 + math.cos(math.pi * (self.step - rise) / max(1, steps - rise))) / 2

    def weight(self) -> float:
        """Of the penalty, at the next step."""
        warm_up = 0.0 if self.technique.penalty is None else self.technique.penalty.warm_up
        return self.lam * min(1.0, (self.step + 1) / max(1.0, warm_up * self.schedule.steps))

    def batches(self) -> Iterator[Tensor]:
        """Indices of images, in a new order for every epoch, on and on."""
        size, count = self.schedule.batch_size, len(self.images.x_train)
        while True:
            order = torch.randperm(count, generator=self.generator).to(self.device)
            yield from order.split(size)[: max(1, count // size)]

    def train(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """One step; returns the loss without the penalty, and the penalty."""
        self.model.train()
        for optimizer, rates in zip(self.optimizers, self.rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * self.factor()
        x = augment(self.images.x_train[indices], self.generator)
        with self.autocast():
            loss = F.cross_entropy(self.model(self.prepare(x)), self.images.y_train[indices])
        penalty = self.penalty().to(self.device)
        self.model.zero_grad()
        (loss + self.weight() * penalty).backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), self.schedule.max_norm)
        for optimizer in self.optimizers:
            optimizer.step()
        self.step += 1
        return loss.detach(), penalty.detach()

    @torch.no_grad()
    def accuracy(self, x: Tensor, y: Tensor) -> float:
        """On images as they are, ``[N, 3, 32, 32]``."""
        self.model.eval()
        hits = torch.zeros((), dtype=torch.int64, device=self.device)
        with self.autocast():
            for images, labels in zip(x.split(EVALUATION_BATCH), y.split(EVALUATION_BATCH), strict=True):
                hits += (self.model(self.prepare(images)).argmax(1) == labels).sum()
        return int(hits) / len(y)

    def diagnosis(self) -> Record:
        """On the first training images."""
        return {"step": self.step} | diagnose(
            self.model, self.prepare(self.images.x_train[:PROBES]), self.images.y_train[:PROBES]
        )

    def unit_ratios(self) -> Record:
        """The shares of dead and linear units over the test images, of networks with ReLUs or leaky ones."""
        if self.technique.activation not in ("relu", "leaky_relu"):
            return {}
        batches = (self.prepare(x) for x in self.images.x_test.split(EVALUATION_BATCH))
        ratios = jk.unit_usage(self.model, batches).ratios
        return {name: float(ratios[name]) for name in ("unit_dead_ratio", "unit_linear_ratio")}

    def prepare(self, x: Tensor) -> Tensor:
        return standardize(x, self.mean, self.deviation).contiguous(memory_format=torch.channels_last)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")


def make_optimizers(name: str, model: nn.Module, learning_rate: float) -> list[Any]:
    """Without weight decay, which costs networks of this depth accuracy.

    Muon trains the weights of convolutions as matrices, and AdamW what else there is.
    """
    if name == "adamw":
        return [torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=0)]
    if name == "sgd":
        return [torch.optim.SGD(model.parameters(), learning_rate, momentum=0.9)]
    rest = [parameter for parameter in model.parameters() if parameter.dim() != 4]
    kernels = [parameter for parameter in model.parameters() if parameter.dim() == 4]
    return [
        KernelMuon(kernels, learning_rate),
        torch.optim.AdamW(rest, REST_RATE, weight_decay=0),
    ]


class KernelMuon:
    """``torch.optim.Muon``, which takes matrices, for kernels ``[outputs, inputs, height, width]``.

    Each kernel is a matrix of ``outputs`` rows. The order of its columns makes no difference to Muon, so that
    of memory is taken.

    Raises:
        ValueError: a kernel is not in channels_last format.
        RuntimeError: this torch has no Muon.
    """

    def __init__(self, kernels: list[nn.Parameter], learning_rate: float) -> None:
        if not hasattr(torch.optim, "Muon"):
            raise RuntimeError(f"torch {torch.__version__} has no Muon: 2.9 has")
        self.kernels = kernels
        self.matrices = [nn.Parameter(as_matrix(kernel.detach())) for kernel in kernels]
        if any(a.data_ptr() != b.data_ptr() for a, b in zip(self.matrices, kernels, strict=True)):
            raise ValueError("kernels must be in channels_last format, for matrices that share their memory")
        self.muon = torch.optim.Muon(self.matrices, learning_rate, weight_decay=0.0)
        self.param_groups = self.muon.param_groups

    def step(self) -> None:
        """With the gradients of the kernels."""
        for kernel, matrix in zip(self.kernels, self.matrices, strict=True):
            matrix.grad = None if kernel.grad is None else as_matrix(kernel.grad)
        self.muon.step()


def as_matrix(kernel: Tensor) -> Tensor:
    """``[outputs, inputs, height, width]`` as ``[outputs, height · width · inputs]``."""
    return kernel.permute(0, 2, 3, 1).flatten(1)
