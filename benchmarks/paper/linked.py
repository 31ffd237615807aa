"""Linked neurons: 50 thin convolutions, or a thin ResNet-50, with each activation and with Jumpstart.

    python -m benchmarks.paper.linked --data cifar10_jpeg.npz --output benchmarks/results/paper_linked.json
    python -m benchmarks.paper.linked --small --data FOLDER --output ...    # for a CPU: digits, few epochs
    python -m benchmarks.paper.linked --network resnet50 --data cifar10_jpeg.npz --output ...

Data are CIFAR-10 of an ``.npz``, or else digits of 8×8 pixels: UCI's from a folder, or the third of them that
scikit-learn has. An interrupted experiment resumes.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import torch

from benchmarks.paper.cifar_images import load_images
from benchmarks.paper.grid import load_digits
from benchmarks.paper.linked_networks import DEPTH, VARIANTS, WIDTH
from benchmarks.paper.linked_training import Settings, train
from benchmarks.paper.sweep import Record, run_command, sweep
from jumpstart_kernels.cli.errors import CommandError
from jumpstart_kernels.cli.inputs import find_device, positive
from jumpstart_kernels.demo.data import Data


@dataclass(frozen=True)
class Defaults:
    """Of a network: as published, and for a CPU."""

    epochs: int
    small_epochs: int
    batch_size: int
    decay: float
    augmented: bool


DEFAULTS = {
    "depth": Defaults(epochs=200, small_epochs=20, batch_size=32, decay=0.0, augmented=False),
    "resnet50": Defaults(epochs=2000, small_epochs=5, batch_size=128, decay=1e-6, augmented=True),
}
SEEDS, SMALL_SEEDS = 5, 3


@dataclass(frozen=True)
class Source:
    """Where images are from, and how many are taken of CIFAR-10, from the first; None: all."""

    path: Path | None
    train: int | None
    test: int | None

    @property
    def is_cifar(self) -> bool:
        return self.path is not None and self.path.suffix == ".npz"


@dataclass(frozen=True)
class Task:
    """One network to train."""

    variant: str
    seed: int
    settings: Settings
    source: Source
    device: str

    @property
    def name(self) -> str:
        return f"{self.variant}/{self.seed}"


@lru_cache(maxsize=1)
def load(source: Source, seed: int) -> Data:
    """Images and labels; the seed draws the split of digits. CIFAR-10 has one, and stays uint8."""
    if source.is_cifar:
        assert source.path is not None
        images = load_images(source.path, source.train, source.test)
        return Data("CIFAR-10", *images[:4])
    digits = load_digits(seed, source.path)
    return digits._replace(x_train=(digits.x_train + 1) / 2, x_test=(digits.x_test + 1) / 2)


def work(task: Task) -> list[Record]:
    """Train a task's network."""
    variant = VARIANTS[task.settings.network][task.variant]
    data = load(task.source, 0 if task.source.is_cifar else task.seed)  # decoded once in each process
    outcome = train(variant, task.settings, data, task.seed, torch.device(task.device))
    return [{"variant": task.variant, **asdict(variant), **outcome}]


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper.linked", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="PATH",
        help="CIFAR-10 as JPEG files in an .npz, or UCI's folder; default: digits of scikit-learn",
    )
    parser.add_argument("--network", choices=list(VARIANTS), default="depth", help="default: depth")
    parser.add_argument(
        "--only",
        action="append",
        metavar="VARIANT",
        help="a variant to train, such as linked_relu; may be repeated",
    )
    parser.add_argument("--small", action="store_true", help="use defaults for a CPU")
    parser.add_argument("--device", metavar="NAME", help="default: cuda if available")
    parser.add_argument("--seeds", type=positive, metavar="N", help=f"default: {SEEDS}; small: {SMALL_SEEDS}")
    epochs = "; ".join(
        f"{name} {default.epochs}, small {default.small_epochs}" for name, default in DEFAULTS.items()
    )
    parser.add_argument("--epochs", type=positive, metavar="N", help=f"default: {epochs}")
    parser.add_argument("--batch-size", type=positive, metavar="N", help="default: 32; resnet50: 128")
    parser.add_argument("--depth", type=positive, default=DEPTH, metavar="N", help=f"default: {DEPTH}")
    parser.add_argument("--width", type=positive, default=WIDTH, metavar="N", help=f"default: {WIDTH}")
    parser.add_argument("--learning-rate", type=float, default=1e-3, metavar="R", help="default: 0.001")
    parser.add_argument("--lam", type=float, default=0.1, metavar="λ", help="penalty weight; default: 0.1")
    parser.add_argument("--train", type=positive, metavar="N", help="images of CIFAR-10; default: all")
    parser.add_argument("--test", type=positive, metavar="N", help="images of CIFAR-10; default: all")
    parser.add_argument("--jobs", type=positive, default=2, metavar="N", help="processes; default: 2")
    parser.add_argument("--output", type=Path, required=True, metavar="FILE.json", help="file of the results")
    return parser.parse_args(words)


def make_settings(arguments: argparse.Namespace) -> Settings:
    """Raises CommandError for a number that is negative or NaN."""
    for option in ("learning_rate", "lam"):
        number = getattr(arguments, option)
        if not number >= 0:
            raise CommandError(f"--{option.replace('_', '-')} must be 0 or more, got {number:g}")
    default = DEFAULTS[arguments.network]
    return Settings(
        network=arguments.network,
        depth=arguments.depth,
        width=arguments.width,
        epochs=arguments.epochs or (default.small_epochs if arguments.small else default.epochs),
        batch_size=arguments.batch_size or default.batch_size,
        learning_rate=arguments.learning_rate,
        decay=default.decay,
        augmented=default.augmented,
        lam=arguments.lam,
    )


def main(words: Sequence[str] | None = None) -> int:
    return run_command("linked", words, parse_arguments, run)


def run(arguments: argparse.Namespace, command: list[str]) -> Record:
    settings, device = make_settings(arguments), find_device(arguments.device)
    source = Source(arguments.data, arguments.train, arguments.test)
    if not source.is_cifar and (source.train or source.test):
        raise CommandError("--train and --test need CIFAR-10: --data FILE.npz")
    known = VARIANTS[settings.network]
    variants = list(dict.fromkeys(arguments.only or known))
    for name in variants:
        if name not in known:
            raise CommandError(f"--only {name}: must be one of {', '.join(known)}")
    seeds = arguments.seeds or (SMALL_SEEDS if arguments.small else SEEDS)
    data = load(source, 0)
    tasks = [
        Task(name, seed, settings, source, str(device))
        for seed in range(seeds)  # all variants of a seed before the next, should it be interrupted
        for name in variants
    ]
    stored = {
        **asdict(settings),
        "variants": variants,
        "seeds": seeds,
        "data": data.title,
        "train": len(data.y_train),
        "test": len(data.y_test),
        "device": str(device),
    }
    load.cache_clear()  # the processes have their own
    return sweep(
        work, {task.name: task for task in tasks}, arguments.output, stored, arguments.jobs, command, device
    )


if __name__ == "__main__":
    sys.exit(main())
