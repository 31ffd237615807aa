"""The command line of ``benchmarks/train_imagenet.py``."""

import argparse
import math
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from jumpstart_kernels.cli_inputs import CommandError, positive

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

# What a checkpoint must agree on with the training that goes on from it: all that its result depends on, but
# for rounding.
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
    """Raises CommandError that names the packages which are missing."""
    missing = [package for module, package in NEEDED.items() if find_spec(module) is None]
    if missing:
        raise CommandError(f"train_imagenet.py needs {', '.join(missing)}: pip install {' '.join(missing)}")


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    """The options. Wrong ones end the program with status 2, as argparse does.

    Raises:
        CommandError: options that do not go together.
    """
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

    add("--data", None, "folder with train/CLASS/ and val/CLASS/ of images", Path, metavar="DIR")
    add("--output", None, "checkpoint and logs; goes on from a checkpoint there", Path, metavar="DIR")
    flag("--smoke", "try everything on generated images, in a minute or two")

    add("--model", "resnet50-plain", "the network", choices=tuple(MODELS))
    add("--width", 64, "channels of its first layer", positive)
    add("--image-size", 224, "pixels of a side", positive)
    add("--epochs", 90, "how often to go through the images", positive)
    add("--batch-size", 256, "images of an optimizer step, in all processes together", positive)
    add("--accumulate", 1, "parts of that batch, one after the other", positive)
    add("--learning-rate", 0.05, "its peak", _number(above=0))
    add("--warmup-epochs", 5.0, "of the learning rate, linear; a cosine to 0 follows", _number(least=0))
    add("--momentum", 0.9, "of SGD", _number(above=0, below=1))
    add("--weight-decay", 5e-5, "of SGD", _number(least=0))
    add("--max-gradient-norm", 1.0, "longer gradients are shortened to it; 0: never", _number(least=0))
    add("--penalty-weight", 0.1, "λ, its peak; 0: plain ReLU, no Jumpstart", _number(least=0))
    add("--penalty-schedule", "constant", "how λ goes", choices=PENALTY_SCHEDULES)
    add("--penalty-warmup-epochs", 5.0, "of λ, for linear and cosine", _number(least=0))
    flag("--local-penalty", "each process penalizes its own part of the batch, not all of it")
    add("--seed", 0, "of weights, order of the images and their crops", _seed)

    add("--parallel", "ddp", "copies of the network, or shards (FSDP2)", choices=PARALLEL)
    add("--precision", "bf16", "of convolutions and activations", choices=PRECISIONS)
    add("--memory-format", "channels_last", "of images and weights", choices=LAYOUTS)
    flag("--compile", "compile each block")
    flag("--checkpointing", "keep only each block's input for the backward: less memory, a second forward")
    add("--device", None, "default: a GPU where there is one", choices=("cpu", "cuda"))
    add("--workers", 8, "processes that decode images, for each process that trains", _count)

    add("--checkpoint-every", 500, "steps; besides the end of each epoch. 0: there alone", _count)
    add("--log-every", 50, "steps", positive)
    add("--usage-images", None, "of the validation set, for unit usage; default: all, 0: none", _count)
    flag("--tensorboard", "write OUTPUT/tensorboard, too")
    options = parser.parse_args(words)
    if not options.smoke:  # which has defaults of its own
        _check(options)
    return options


def _check(options: argparse.Namespace) -> None:
    if options.data is None or options.output is None:
        raise CommandError("--data and --output must be given, or --smoke")
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
