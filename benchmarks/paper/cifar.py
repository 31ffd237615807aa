"""ResNet-50 on CIFAR-10: with BatchNorm and skip connections, with neither, and with Jumpstart instead.

    python -m benchmarks.paper.cifar --data cifar10_jpeg.npz --output benchmarks/results/paper_cifar.json
    python -m benchmarks.paper.cifar --small --data ...    # for a CPU: as deep, with fewer channels

The network has the 3×3 stem for CIFAR. Variants already in the output are not trained again.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import jumpstart_kernels as jk
from benchmarks.models import BLOCKS, build_resnet50
from benchmarks.paper.cifar_images import Images, augment, load_images, standardize
from benchmarks.paper.sweep import SCHEMA, Record, continued, run_command, write
from jumpstart_kernels.bench.machine import describe
from jumpstart_kernels.cli.errors import CommandError
from jumpstart_kernels.cli.inputs import find_device, positive

EVALUATION_BATCH = 500
WARM_UP = 0.1  # of the steps, for the learning rate


@dataclass(frozen=True)
class Variant:
    """A network of the comparison. ``width`` multiplies the channels of all layers."""

    title: str
    batch_norm_skips: bool = False
    """Whether it has BatchNorm and skip connections."""
    penalized: bool = False
    width: float = 1.0


VARIANTS = {
    "batch_norm_skips": Variant("BatchNorm and skips", batch_norm_skips=True),
    "plain": Variant("plain"),
    "jumpstart": Variant("Jumpstart", penalized=True),
    "jumpstart_1.5": Variant("Jumpstart, width × 1.5", penalized=True, width=1.5),
    "jumpstart_2": Variant("Jumpstart, width × 2", penalized=True, width=2.0),
}


@dataclass(frozen=True)
class Settings:
    """What all variants share."""

    epochs: int
    batch_size: int
    learning_rate: float
    lam: float
    """Weight of the penalty."""
    weight_decay: float
    max_norm: float | None
    """Of the gradient, which is clipped to it; None to leave it unclipped."""
    channels: int
    """In the stem, at width 1."""
    blocks: tuple[int, ...]
    train: int
    test: int
    seed: int


class Trainer:
    """Trains one variant."""

    def __init__(self, variant: Variant, settings: Settings, images: Images, device: torch.device) -> None:
        torch.manual_seed(settings.seed)
        self.variant, self.settings, self.device = variant, settings, device
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.images = images.to(device)
        scale = images.x_train.float() / 255
        self.mean, self.deviation = (
            255 * value.to(device) for value in (scale.mean((0, 2, 3)), scale.std((0, 2, 3)))
        )
        model: Any = build_resnet50(
            batch_norm=variant.batch_norm_skips,
            skips=variant.batch_norm_skips,
            classes=images.classes,
            cifar_stem=True,
            width=round(settings.channels * variant.width),
            blocks=settings.blocks,
        )
        if variant.penalized:
            model = jk.replace_relu(model)
        self.layout = torch.channels_last if device.type == "cuda" else torch.contiguous_format
        self.model = model.to(device, memory_format=self.layout)
        self.steps = settings.epochs * (settings.train // settings.batch_size)
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self.rate_factor)

    def rate_factor(self, step: int) -> float:
        """Of the learning rate: linear warm-up, then half a cosine to 0."""
        warm_up = max(1, round(WARM_UP * self.steps))
        if step < warm_up:
            return (step + 1) / warm_up
        return (1 + math.cos(math.pi * (step - warm_up) / max(1, self.steps - warm_up))) / 2

    def train_epoch(self) -> dict[str, float | None]:
        """Mean loss without the penalty, and mean penalty; None for a mean that is not finite."""
        settings = self.settings
        self.model.train()
        losses, penalties = [], []
        order = torch.randperm(settings.train, generator=self.generator).to(self.device)
        for chosen in order.split(settings.batch_size)[: settings.train // settings.batch_size]:
            x = augment(self.images.x_train[chosen], self.generator)
            with self.autocast():
                loss = F.cross_entropy(self.model(self.prepare(x)), self.images.y_train[chosen])
            penalty = jk.penalty(self.model) if self.variant.penalized else loss.new_zeros(())
            self.optimizer.zero_grad()
            (loss + settings.lam * penalty).backward()
            if settings.max_norm is not None:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), settings.max_norm)
            self.optimizer.step()
            self.scheduler.step()
            losses.append(loss.detach())
            penalties.append(penalty.detach())
        means = {"loss": torch.stack(losses).mean().item(), "penalty": torch.stack(penalties).mean().item()}
        return {name: mean if math.isfinite(mean) else None for name, mean in means.items()}

    def accuracy(self) -> float:
        """On the test images."""
        self.model.eval()
        hits = 0
        with torch.no_grad(), self.autocast():
            labels = self.images.y_test.split(EVALUATION_BATCH)
            for x, y in zip(self.test_batches(), labels, strict=True):
                hits += int((self.model(x).argmax(1) == y).sum())
        return hits / self.settings.test

    def test_batches(self) -> Iterator[Tensor]:
        for x in self.images.x_test.split(EVALUATION_BATCH):
            yield self.prepare(x)

    def prepare(self, x: Tensor) -> Tensor:
        return standardize(x, self.mean, self.deviation).contiguous(memory_format=self.layout)

    def autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda")


def train_variant(
    variant: Variant,
    settings: Settings,
    images: Images,
    device: torch.device,
    report: Callable[[float], object] = lambda accuracy: None,
) -> Record:
    """Train one variant; ``report`` is called with the test accuracy after each epoch."""
    trainer = Trainer(variant, settings, images, device)
    epochs, seconds, accuracy = [], 0.0, 0.0
    for _ in range(settings.epochs):
        begin = time.perf_counter()
        epoch = trainer.train_epoch()  # synchronizes: it returns numbers
        seconds += time.perf_counter() - begin
        accuracy = trainer.accuracy()
        epochs.append({**epoch, "accuracy": accuracy})
        report(accuracy)
    usage = jk.unit_usage(trainer.model, trainer.test_batches())
    return {
        **asdict(variant),
        "parameters": sum(parameter.numel() for parameter in trainer.model.parameters()),
        "accuracy": accuracy,
        "train_seconds": round(seconds, 2),
        "epochs": epochs,
        "usage": {name: float(ratio) for name, ratio in usage.ratios.items()},
    }


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper.cifar", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FILE.npz", help="CIFAR-10 as JPEG files")
    parser.add_argument(
        "--only", action="append", choices=list(VARIANTS), help="a variant to train; may be repeated"
    )
    parser.add_argument("--small", action="store_true", help="use defaults for a CPU, with 8 channels")
    parser.add_argument("--device", metavar="NAME", help="default: cuda if available")
    parser.add_argument("--epochs", type=positive, metavar="N", help="default: 30; small: 12")
    parser.add_argument("--batch-size", type=positive, metavar="N", help="default: 256; small: 50")
    parser.add_argument("--learning-rate", type=float, metavar="R", help="default: 0.001; small: 0.003")
    parser.add_argument("--lam", type=float, default=0.1, metavar="λ", help="penalty weight; default: 0.1")
    parser.add_argument("--weight-decay", type=float, default=0.0, metavar="W", help="of Adam; default: 0")
    parser.add_argument(
        "--max-norm",
        type=float,
        default=1.0,
        metavar="G",
        help="clip gradients to this norm; inf: no clipping; default: 1",
    )
    parser.add_argument("--train", type=positive, metavar="N", help="default: 50000 images; small: 5000")
    parser.add_argument("--test", type=positive, metavar="N", help="default: 10000 images; small: 2000")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="default: 0")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json", help="file of the results")
    return parser.parse_args(words)


def make_settings(arguments: argparse.Namespace) -> Settings:
    """Raises CommandError for a number that is negative or NaN."""
    small = arguments.small
    for option in ("learning_rate", "lam", "weight_decay", "max_norm"):
        number = getattr(arguments, option)
        if number is not None and not number >= 0:
            raise CommandError(f"--{option.replace('_', '-')} must be 0 or more, got {number:g}")
    rate = arguments.learning_rate
    return Settings(
        epochs=arguments.epochs or (12 if small else 30),
        batch_size=arguments.batch_size or (50 if small else 256),
        learning_rate=(3e-3 if small else 1e-3) if rate is None else rate,
        lam=arguments.lam,
        weight_decay=arguments.weight_decay,
        max_norm=arguments.max_norm if math.isfinite(arguments.max_norm) else None,
        channels=8 if small else 64,
        blocks=BLOCKS,
        train=arguments.train or (5000 if small else 50_000),
        test=arguments.test or (2000 if small else 10_000),
        seed=arguments.seed,
    )


def main(words: Sequence[str] | None = None) -> int:
    return run_command("cifar", words, parse_arguments, run)


def run(arguments: argparse.Namespace, command: list[str]) -> Record:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    settings, device = make_settings(arguments), find_device(arguments.device)
    if settings.batch_size > settings.train:
        raise CommandError(
            f"--batch-size {settings.batch_size} is more than the {settings.train} training images"
        )
    empty = {
        "schema": SCHEMA,
        "machine": describe(device, command),
        "settings": {**asdict(settings), "device": str(device)},
        "variants": {},
    }
    record = continued(arguments.output, empty)
    images = load_images(arguments.data, settings.train, settings.test)
    columns = (TextColumn("{task.description:24}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        for name in arguments.only or VARIANTS:
            if name in record["variants"]:
                continue
            bar = progress.add_task(VARIANTS[name].title, total=settings.epochs)

            def show(accuracy: float, bar: Any = bar, title: str = VARIANTS[name].title) -> None:
                progress.update(bar, advance=1, description=f"{title} {accuracy:.3f}")

            record["variants"][name] = train_variant(VARIANTS[name], settings, images, device, show)
            write(arguments.output, record)
    return record


if __name__ == "__main__":
    sys.exit(main())
