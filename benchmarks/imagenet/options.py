"""The command line of ``benchmarks/train_imagenet.py``."""

import argparse
import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jumpstart_kernels.cli.errors import CommandError
from jumpstart_kernels.cli.inputs import positive

NEEDED = {
    "numpy": "numpy",
    "PIL": "pillow",
    "rich": "rich",
    "torchmetrics": "torchmetrics",
}  # module to package
MODELS = {"resnet50-plain": (3, 4, 6, 3), "resnet14-plain": (1, 1, 1, 1)}  # blocks of each stage
PARALLEL = ("ddp", "fsdp")
PRECISIONS = ("fp32", "bf16", "fp16")
PENALTY_SCHEDULES = ("constant", "linear", "cosine")
LAYOUTS = ("channels_last", "contiguous")

# The options that a checkpoint and the training that resumes from it must share: all that its result depends
# on, except for rounding.
SETTINGS = (
    "model",
    "width",
    "epochs",
    "batch_size",
    "accumulate",
    "image_size",
    "learning_rate",
    "warmup_epochs",
    "momentum",
    "weight_decay",
    "max_gradient_norm",
    "penalty_weight",
    "penalty_schedule",
    "penalty_warmup_epochs",
    "local_penalty",
    "precision",
    "seed",
)


def check_installed() -> None:
    """Raise CommandError if packages are missing, with their names."""
    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if missing:
        raise CommandError(f"train_imagenet.py needs {', '.join(missing)}: pip install {' '.join(missing)}")


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    """The options. Invalid ones end the program with status 2, as argparse does.

    Raises:
        CommandError: options are incompatible.
    """
    options = make_parser().parse_args(words)
    if not options.smoke:  # the smoke test has defaults of its own
        _check(options)
    return options


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="torchrun [--nproc-per-node N] benchmarks/train_imagenet.py",
        description="Train a plain ResNet-50, without BatchNorm and skip connections, with Jumpstart.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        allow_abbrev=False,
    )

    def add(option: str, default: Any, text: str, kind: Callable[[str], Any] = str, **others: Any) -> None:
        parser.add_argument(option, default=default, help=text, type=kind, **others)

    def flag(option: str, text: str) -> None:
        parser.add_argument(option, action="store_true", help=text)

    add("--data", None, "folder with images in train/CLASS/ and val/CLASS/", Path, metavar="DIR")
    add(
        "--output",
        None,
        "folder for checkpoint and logs; resumes from a checkpoint there",
        Path,
        metavar="DIR",
    )
    flag("--smoke", "run the smoke test on generated images, in a minute or two")

    add("--model", "resnet50-plain", "the network", choices=tuple(MODELS))
    add("--width", 64, "channels of the first layer", positive)
    add("--image-size", 224, "height and width in pixels", positive)
    add("--epochs", 90, "number of epochs", positive)
    add("--batch-size", 256, "images per optimizer step, over all processes", positive)
    add("--accumulate", 1, "micro-batches per optimizer step", positive)
    add("--learning-rate", 0.05, "peak learning rate of SGD", _number(above=0))
    add("--warmup-epochs", 5.0, "linear warm-up of the learning rate, then a cosine to 0", _number(least=0))
    add("--momentum", 0.9, "of SGD", _number(above=0, below=1))
    add("--weight-decay", 5e-5, "of SGD", _number(least=0))
    add("--max-gradient-norm", 1.0, "gradients are clipped to this norm; 0: no clipping", _number(least=0))
    add("--penalty-weight", 0.1, "peak λ; 0: plain ReLU, no Jumpstart", _number(least=0))
    add("--penalty-schedule", "constant", "of λ", choices=PENALTY_SCHEDULES)
    add("--penalty-warmup-epochs", 5.0, "warm-up of λ, for linear and cosine", _number(least=0))
    flag("--local-penalty", "penalty of each process's own images, not of the whole batch")
    add("--seed", 0, "of the weights, the order of the images and their crops", _seed)

    add("--parallel", "ddp", "replicas of the network (DDP), or shards (FSDP2)", choices=PARALLEL)
    add("--precision", "bf16", "of convolutions and activations", choices=PRECISIONS)
    add("--memory-format", "channels_last", "of images and weights", choices=LAYOUTS)
    flag("--compile", "compile each block")
    flag("--checkpointing", "activation checkpointing: keep only each block's input for the backward")
    add("--device", None, "default: cuda if available", choices=("cpu", "cuda"))
    add("--workers", 8, "data loader workers per training process", _count)

    add("--checkpoint-every", 500, "steps, in addition to the end of each epoch; 0: only there", _count)
    add("--log-every", 50, "steps between log entries", positive)
    add("--usage-images", None, "validation images for unit usage; default: all; 0: none", _count)
    flag("--tensorboard", "write TensorBoard logs to OUTPUT/tensorboard")
    return parser


def _check(options: argparse.Namespace) -> None:
    if options.data is None or options.output is None:
        raise CommandError("--data and --output are required, or --smoke")
    if options.batch_size % options.accumulate:
        raise CommandError(
            f"--batch-size must be a multiple of --accumulate, {options.accumulate}, got {options.batch_size}"
        )
    for name in ("warmup_epochs", "penalty_warmup_epochs"):
        if getattr(options, name) >= options.epochs and name in _used_warmups(options):
            option = "--" + name.replace("_", "-")
            raise CommandError(
                f"{option} must be less than --epochs, {options.epochs}, got {getattr(options, name)}"
            )
    if options.tensorboard and find_spec("tensorboard") is None:
        raise CommandError("--tensorboard needs tensorboard: pip install tensorboard")


def _used_warmups(options: argparse.Namespace) -> tuple[str, ...]:
    constant = options.penalty_schedule == "constant"
    return ("warmup_epochs",) if constant else ("warmup_epochs", "penalty_warmup_epochs")


def _number(
    least: float = -math.inf, above: float = -math.inf, below: float = math.inf
) -> Callable[[str], float]:
    bounds = [f"at least {least}"] * (least > -math.inf) + [f"above {above}"] * (above > -math.inf)
    bounds += [f"below {below}"] * (below < math.inf)

    def parse(text: str) -> float:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not (math.isfinite(number) and least <= number and above < number < below):
            raise argparse.ArgumentTypeError(f"must be a number {' and '.join(bounds)}, got {text!r}")
        return number

    return parse


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be an integer of at least 0, got {text!r}")
    return int(text)


def _seed(text: str) -> int:
    seed = _count(text)
    if seed >= 2**32:
        raise argparse.ArgumentTypeError(f"must be below 2^32, got {text!r}")
    return seed
