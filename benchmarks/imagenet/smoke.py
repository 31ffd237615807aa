"""The smoke test: a small training, uninterrupted and interrupted, in both parallel modes."""

import argparse
import importlib.util
import json
import math
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
import torch.distributed as dist
from PIL import Image, ImageDraw
from torch import Tensor

from benchmarks.imagenet.files import read_checkpoint
from benchmarks.imagenet.log import HISTORY, TENSORBOARD
from benchmarks.imagenet.options import PARALLEL, parse_arguments
from benchmarks.imagenet.processes import Processes, Termination, on_first
from benchmarks.imagenet.state import CHECKPOINT
from benchmarks.imagenet.trainer import Trainer, train

COLORS = {"blue": (40, 60, 200), "green": (40, 180, 60), "red": (200, 50, 40), "yellow": (210, 200, 50)}
STEPS = 8  # per epoch
IMAGES = 8  # per step and process
VALIDATION = 8  # images per class
WORDS = [
    "--model=resnet14-plain",
    "--width=8",
    "--image-size=32",
    "--epochs=5",
    "--accumulate=2",
    "--learning-rate=0.1",
    "--warmup-epochs=1",
    "--penalty-schedule=cosine",
    "--penalty-warmup-epochs=1",
    "--checkpointing",
    "--workers=1",
    "--checkpoint-every=2",
    "--log-every=2",
]
INTERRUPTED = 11  # optimizer step, within an epoch and between two checkpoints
LEARNED = 0.4  # top-1 of an epoch; chance is 0.25
GPU_TOLERANCE = 0.05  # relative: the order of sums in convolutions may vary between runs


class InterruptedTrainer(Trainer):
    """A trainer, one of whose processes receives SIGTERM in optimizer step ``last``."""

    def __init__(self, options: argparse.Namespace, processes: Processes, last: int) -> None:
        super().__init__(options, processes)
        self.last = last

    def take_step(self, batches: Iterator[tuple[Tensor, Tensor]]) -> None:
        super().take_step(batches)
        if self.steps_done + 1 == self.last and self.processes.rank == self.processes.count - 1:
            os.kill(os.getpid(), signal.SIGTERM)


def smoke(words: Sequence[str], processes: Processes) -> int:
    """Run the smoke test, with the options ``words`` over its own; returns 1 and prints why if it fails."""
    torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = False, True
    chosen = any(word.startswith("--parallel") for word in words)
    own = [f"--batch-size={IMAGES * processes.count}", "--data=generated", "--output=temporary"]
    options = parse_arguments([*WORDS, *own, *(word for word in words if word != "--smoke")])
    options.tensorboard = importlib.util.find_spec("tensorboard") is not None
    folder = Path(on_first(processes, lambda: tempfile.mkdtemp(prefix="train_imagenet_")))
    try:
        if processes.first:
            train_images = STEPS * IMAGES * processes.count // len(COLORS)
            make_image_folder(folder / "data", train_images, max(VALIDATION, processes.count))
        dist.barrier()
        failures = []
        for mode in (options.parallel,) if chosen else PARALLEL:
            of_mode = {**vars(options), "data": folder / "data", "parallel": mode}
            failures += [f"{mode}: {text}" for text in _try(of_mode, folder / mode, processes)]
    finally:
        if processes.first:
            shutil.rmtree(folder)
    if processes.first:
        print("\n".join(f"failed: {text}" for text in failures) or "smoke test passed")
    return 1 if failures else 0


def _try(options: dict[str, Any], folder: Path, processes: Processes) -> list[str]:
    """Train uninterrupted, then interrupted; returns the failures, the same in all processes."""
    whole, broken = (
        argparse.Namespace(**{**options, "output": folder / name}) for name in ("whole", "broken")
    )
    failures = []
    with Termination() as termination:
        if not train(Trainer(whole, processes), termination):
            failures.append("the uninterrupted training did not finish")
    with Termination() as termination:
        interrupted = InterruptedTrainer(broken, processes, INTERRUPTED)
        if train(interrupted, termination, quiet=True) or interrupted.steps_done != INTERRUPTED:
            failures.append(f"SIGTERM in step {INTERRUPTED} did not end it there")
    with Termination() as termination:
        resumed = Trainer(broken, processes)
        if resumed.steps_done != INTERRUPTED:
            failures.append(f"it resumed from step {resumed.steps_done}, not {INTERRUPTED}")
        if not train(resumed, termination, quiet=True):
            failures.append("the resumed training did not finish")
    exact = processes.device.type == "cpu"
    return failures + on_first(processes, lambda: _find_failures(whole, broken, exact))


def _find_failures(whole: argparse.Namespace, broken: argparse.Namespace, exact: bool) -> list[str]:
    """The failures in the files of an uninterrupted and an interrupted training."""
    first, second = (read_checkpoint(options.output / CHECKPOINT) for options in (whole, broken))
    differing = differences(first, second, 0.0 if exact else GPU_TOLERANCE)
    failures = [f"the interrupted training ends differently: {where}" for where in differing[:5]]
    history = first["history"]
    if len(history) != whole.epochs:
        failures.append(f"the history has {len(history)} epochs, not {whole.epochs}")
    top1 = [record["top1"] for record in history]
    if max(top1, default=0.0) < LEARNED:
        failures.append(f"it does not learn: top-1 by epoch {top1}")
    if any("usage" not in record for record in history):
        failures.append("unit usage is missing")
    for options in (whole, broken):
        if (
            not (options.output / HISTORY).is_file()
            or json.loads((options.output / HISTORY).read_text())
            != (first if options is whole else second)["history"]
        ):
            failures.append(f"{HISTORY} differs from the checkpoint")
        if options.tensorboard and not list((options.output / TENSORBOARD).glob("events.*")):
            failures.append("TensorBoard's files are missing")
    return failures


def differences(first: Any, second: Any, tolerance: float = 0.0, where: str = "") -> list[str]:
    """The places where two checkpoints differ, floating-point numbers by more than a relative tolerance."""
    if type(first) is not type(second):
        return [where]
    if isinstance(first, dict):
        if list(first) != list(second):
            return [where]
        pairs = [(f"{where}/{name}", first[name], second[name]) for name in first]
    elif isinstance(first, (list, tuple)):
        if len(first) != len(second):
            return [where]
        pairs = [(f"{where}/{i}", *pair) for i, pair in enumerate(zip(first, second, strict=True))]
    elif isinstance(first, Tensor):
        equal = torch.equal(first, second)
        if not equal and tolerance and first.is_floating_point() and first.shape == second.shape:
            equal = bool((first - second).norm() <= tolerance * first.norm())
        return [] if equal else [where]
    else:
        equal = first == second
        if not equal and isinstance(first, float):
            equal = math.isclose(first, second, rel_tol=tolerance, abs_tol=tolerance)
        return [] if equal else [where]
    return [place for name, *pair in pairs for place in differences(pair[0], pair[1], tolerance, name)]


def make_image_folder(root: Path, train: int, val: int, seed: int = 0) -> None:
    """Generate ``train`` and ``val`` images for each of four classes, distinguished by color."""
    random = Random(seed)
    for part, count in (("train", train), ("val", val)):
        for name, color in COLORS.items():
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                suffix = "png" if number % 4 == 0 else "jpg"
                make_image(color, random).save(folder / f"{number:03}.{suffix}")


def make_image(color: tuple[int, ...], random: Random) -> Image.Image:
    """About 48×48 pixels of nearly one color, with stripes."""
    size = random.randint(40, 56), random.randint(40, 56)
    image = Image.new("RGB", size, tuple(channel + random.randint(-30, 30) for channel in color))
    draw = ImageDraw.Draw(image)
    for _ in range(3):
        ends = [random.randint(0, 40) for _ in range(4)]
        draw.line(ends, fill=tuple(random.randint(0, 255) for _ in range(3)), width=2)
    return image
