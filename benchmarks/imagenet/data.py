"""Images in folders by class: which exist, their order in training and validation, and their crops.

What a training step sees is a function of seed, epoch and step: it does not depend on the workers, on the
number of processes that share the batch, or on interruptions.
"""

import math
import os
import signal
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from jumpstart_kernels.cli.errors import CommandError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels, per channel
AREAS, ASPECTS, TRIES = (0.08, 1.0), (3 / 4, 4 / 3), 10  # of a random crop
CENTER = 224 / 256  # of the shorter side

Place = tuple[int, int]  # epoch, index of the image
Box = tuple[float, float, float, float]  # left, upper, right, lower


@dataclass(frozen=True)
class ImageFolder:
    """The images in ``root/CLASS/``, in the order of ``torchvision.datasets.ImageFolder``."""

    root: Path
    classes: tuple[str, ...]
    paths: np.ndarray  # bytes: forked workers share an array's memory, but not that of a list of strings
    labels: np.ndarray  # int64

    def __len__(self) -> int:
        return len(self.paths)

    def checksum(self) -> int:
        """Of all paths."""
        return zlib.crc32(self.paths.tobytes())

    def path(self, index: int) -> Path:
        return self.root / os.fsdecode(self.paths[index])


def find_images(root: Path) -> ImageFolder:
    """Raises CommandError if the folder or its classes are missing, or a class has no images."""
    if not root.is_dir():
        raise CommandError(f"--data: there is no folder {root}")
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    if not classes:
        raise CommandError(f"--data: {root} must have a folder of images for each class, but has none")
    paths: list[bytes] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        for folder, _, files in sorted(os.walk(root / name, followlinks=True)):
            images = sorted(file for file in files if file.lower().endswith(EXTENSIONS))
            paths += [os.fsencode(os.path.relpath(os.path.join(folder, file), root)) for file in images]
            labels += [label] * len(images)
        if not labels or labels[-1] != label:
            raise CommandError(f"--data: {root / name} has no image ({', '.join(EXTENSIONS)})")
    return ImageFolder(root, tuple(classes), np.array(paths), np.array(labels))


def find_data(data: Path) -> tuple[ImageFolder, ImageFolder]:
    """The training and the validation images. Raises CommandError if their classes differ."""
    train, validation = find_images(data / "train"), find_images(data / "val")
    differing = sorted(set(train.classes) ^ set(validation.classes))
    if differing:
        raise CommandError(
            f"--data: train and val must have the same classes; only in one of them: {', '.join(differing)}"
        )
    return train, validation


class Images(Dataset[tuple[Tensor, int]]):
    """uint8 ``[size, size, 3]`` and label of the image at a :data:`Place`.

    Args:
        folder: the images.
        size: height and width in pixels.
        seed: for random crops and flips, which depend only on it and the place; None: center crops.
    """

    def __init__(self, folder: ImageFolder, size: int, seed: int | None = None) -> None:
        self.folder = folder
        self.size = size
        self.seed = seed

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, place: Place) -> tuple[Tensor, int]:
        epoch, index = place
        path = self.folder.path(index)
        try:
            with Image.open(path) as file:
                image = file.convert("RGB")
        except OSError as error:
            raise RuntimeError(f"cannot read the image {path}: {error}") from error
        box, flipped = center_crop(*image.size), False
        if self.seed is not None:
            random = Random(f"crop {self.seed} {epoch} {index}")
            box, flipped = random_crop(image.width, image.height, random), random.random() < 0.5
        image = image.resize((self.size, self.size), Image.Resampling.BILINEAR, box)
        pixels = torch.from_numpy(np.array(image))
        return (pixels.flip(1) if flipped else pixels), int(self.folder.labels[index])


def random_crop(width: int, height: int, random: Random) -> Box:
    """A crop of random area and aspect ratio, as in Szegedy et al., arXiv 1409.4842."""
    for _ in range(TRIES):
        area = width * height * random.uniform(*AREAS)
        aspect = math.exp(random.uniform(*map(math.log, ASPECTS)))
        across, down = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < across <= width and 0 < down <= height:
            left, upper = random.randint(0, width - across), random.randint(0, height - down)
            return left, upper, left + across, upper + down
    across = min(
        width, max(1, round(height * ASPECTS[1]))
    )  # narrow images: the largest crop of an allowed aspect
    down = min(height, max(1, round(width / ASPECTS[0])))
    return _center(width, height, across, down)


def center_crop(width: int, height: int) -> Box:
    """The central square, with 224 / 256 of the shorter side."""
    side = CENTER * min(width, height)
    return _center(width, height, side, side)


def _center(width: int, height: int, across: float, down: float) -> Box:
    left, upper = (width - across) / 2, (height - down) / 2
    return left, upper, left + across, upper + down


class TrainingOrder(Sampler[list[Place]]):
    """The places of each batch of this process in epoch ``epoch``, from optimizer step ``step``.

    A step takes ``accumulate`` batches, each split among the processes. An epoch has as many full steps as
    there are images for, and drops the remaining images.

    Args:
        images: number of images.
        batch_size: images per optimizer step, over all processes.
        accumulate: batches per optimizer step.
        rank, processes: this process, and the number of processes.
        seed: of the order.
    """

    def __init__(
        self, images: int, batch_size: int, accumulate: int, rank: int, processes: int, seed: int
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self.accumulate = accumulate
        self.rank = rank
        self.processes = processes
        self.seed = seed
        self.epoch = self.step = 0

    @property
    def steps(self) -> int:
        """Optimizer steps per epoch."""
        return self.images // self.batch_size

    def __iter__(self) -> Iterator[list[Place]]:
        epoch = self.epoch
        generator = torch.Generator().manual_seed(Random(f"order {self.seed} {epoch}").getrandbits(63))
        order = torch.randperm(self.images, generator=generator)[: self.steps * self.batch_size]
        order = order.view(self.steps, self.accumulate, self.processes, -1)
        for batches in order[self.step :, :, self.rank]:
            for batch in batches.tolist():
                yield [(epoch, index) for index in batch]


class ValidationOrder(Sampler[list[Place]]):
    """The places of each batch of this process: every image once, in a random order that all epochs share.

    All processes have equally many batches, since FSDP exchanges weights in every forward.
    """

    def __init__(self, images: int, batch_size: int, rank: int, processes: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(Random(f"validation {seed}").getrandbits(63))
        order = torch.randperm(images, generator=generator)
        # Batches of at most batch_size images, unless some process would then have an empty one.
        batches = min(math.ceil(images / (processes * batch_size)), images // processes)
        self.batches = [part.tolist() for part in order[rank::processes].tensor_split(batches)]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Place]]:
        for batch in self.batches:
            yield [(0, index) for index in batch]


def make_loader(images: Images, order: Sampler[list[Place]], workers: int, pin_memory: bool) -> DataLoader:
    """Yields uint8 ``[N, size, size, 3]`` and int64 ``[N]``."""
    # Forked workers share the memory of the paths, and exit if the training is killed.
    fork = workers > 0 and sys.platform == "linux"
    return DataLoader(
        images,
        batch_sampler=order,
        num_workers=workers,
        multiprocessing_context="fork" if fork else None,
        pin_memory=pin_memory,
        worker_init_fn=_survive_one_termination,
        generator=torch.Generator(),  # the loader must not draw from the random state of the training
    )


def _survive_one_termination(_: int) -> None:
    # Schedulers send SIGTERM to every process of a job, but the training needs workers to finish its step. A
    # second one comes from the loader, for a worker that it cannot end otherwise.
    signal.signal(signal.SIGTERM, lambda *_: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def normalize(pixels: Tensor) -> Tensor:
    """uint8 ``[N, H, W, 3]`` to float32 ``[N, 3, H, W]``, channels last in memory."""
    mean, std = _mean_and_std(pixels.device)
    return ((pixels - mean) / std).permute(0, 3, 1, 2)


@lru_cache
def _mean_and_std(device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.tensor(MEAN, device=device) * 255, torch.tensor(STD, device=device) * 255
