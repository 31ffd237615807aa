"""Training of one network of the linked-neuron experiments, by Adam as published."""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import jumpstart_kernels as jk
from benchmarks.paper.cifar_images import augment
from benchmarks.paper.linked_networks import Images, Variant, activation_names, build
from benchmarks.paper.stack_training import CURVE_DIGITS, DIGITS
from benchmarks.paper.sweep import Record
from jumpstart_kernels.demo.data import Data

EVALUATION_BATCH = 500
GREATEST = 255  # of a pixel


@dataclass(frozen=True)
class Settings:
    """What all variants of a network share."""

    network: str
    """A key of :data:`benchmarks.paper.linked_networks.VARIANTS`."""
    depth: int
    """3×3 convolutions of the depth network."""
    width: int
    """Units of its layers, before √2."""
    epochs: int
    batch_size: int
    learning_rate: float
    decay: float
    """Of the learning rate, which is divided by 1 + ``decay`` · step."""
    augmented: bool
    """Whether images are shifted and flipped, and batches drawn anew in each epoch."""
    lam: float
    """Weight of the penalty."""


class Trainer:
    """Trains one variant. All variants of a seed see the same batches."""

    def __init__(
        self, variant: Variant, settings: Settings, data: Data, seed: int, device: torch.device
    ) -> None:
        torch.manual_seed(seed)
        self.variant, self.settings = variant, settings
        self.x, self.y, self.x_test, self.y_test = (part.to(device) for part in data[1:])
        images = Images(self.x.shape[1], self.x.shape[2], data.classes)
        self.model: nn.Module = build(settings.network, variant, images, settings.depth, settings.width).to(
            device
        )
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=settings.learning_rate, fused=True)
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(
            self.optimizer, lambda step: 1 / (1 + settings.decay * step)
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.order = torch.randperm(len(self.y), generator=self.generator)
        self.steps = 0

    def train_epoch(self) -> float:
        """Mean loss of the batches, without the penalty."""
        self.model.train()
        if self.settings.augmented:
            self.order = torch.randperm(len(self.y), generator=self.generator)
        losses = []
        for chosen in self.order.to(self.x.device).split(self.settings.batch_size):
            x = self.x[chosen]
            if self.settings.augmented:
                x = augment(x, self.generator)
            losses.append(self.step(prepare(x), self.y[chosen]))
        return torch.stack(losses).mean().item()

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """Train on a batch; returns the loss without the penalty."""
        loss = F.cross_entropy(self.model(x), y)
        self.optimizer.zero_grad()
        if self.variant.penalized:
            (loss + self.settings.lam * jk.penalty(self.model)).backward()
        else:
            loss.backward()
        self.optimizer.step()
        self.scheduler.step()
        self.steps += 1
        return loss.detach()

    @torch.no_grad()
    def accuracy(self) -> float:
        """On the test images."""
        self.model.eval()
        labels = self.y_test.split(EVALUATION_BATCH)
        hits = [
            (self.model(x).argmax(1) == y).sum() for x, y in zip(self.test_batches(), labels, strict=True)
        ]
        return int(torch.stack(hits).sum()) / len(self.y_test)

    def test_batches(self) -> Iterator[Tensor]:
        for x in self.x_test.split(EVALUATION_BATCH):
            yield prepare(x)

    def one_sided_units(self) -> tuple[float, float]:
        """Shares of units whose pre-activation is never, and is always, positive on the test images."""
        names = activation_names(self.model)
        ratios = jk.unit_usage(self.model, self.test_batches(), layers=names, unit_dim=1).ratios
        return float(ratios["unit_dead_ratio"]), float(ratios["unit_linear_ratio"])


def prepare(x: Tensor) -> Tensor:
    """Pixels in ``[0, 1]``, as published: neither centered nor scaled to unit variance."""
    return x.float() / GREATEST if x.dtype == torch.uint8 else x


def train(variant: Variant, settings: Settings, data: Data, seed: int, device: torch.device) -> Record:
    """Train one network until the last epoch, or until its mean loss is not finite.

    Args:
        data: images ``[N, channels, H, W]``, uint8 or float32 in ``[0, 1]``.
    """
    trainer = Trainer(variant, settings, data, seed, device)
    losses: list[float] = []
    curve: list[float] = []
    seconds = 0.0
    while len(curve) < settings.epochs and all(map(math.isfinite, losses[-1:])):
        begin = time.perf_counter()
        losses.append(trainer.train_epoch())  # synchronizes: it returns a number
        seconds += time.perf_counter() - begin
        curve.append(trainer.accuracy())
    diverged = not math.isfinite(losses[-1])
    never, always = (None, None) if diverged else trainer.one_sided_units()
    return {
        "seed": seed,
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "accuracy": round(curve[-1], DIGITS),
        "best_accuracy": round(max(curve), DIGITS),
        "loss": None if diverged else losses[-1],
        "diverged": diverged,
        "steps": trainer.steps,
        "step_seconds": seconds / trainer.steps,
        "never_positive": never,
        "always_positive": always,
        "losses": [round(loss, CURVE_DIGITS) for loss in losses if math.isfinite(loss)],
        "curve": [round(accuracy, CURVE_DIGITS) for accuracy in curve],
    }
