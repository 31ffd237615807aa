"""CIFAR-10 as JPEG files in one ``.npz``, decoded into memory."""

import io
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

PADDING = 4  # pixels, of which a random crop takes part


class Images(NamedTuple):
    """Images are uint8 ``[N, 3, 32, 32]``, labels int64 ``[N]``."""

    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor
    classes: int

    def to(self, device: torch.device) -> "Images":
        """The same on another device."""
        x_train, y_train, x_test, y_test = (part.to(device) for part in self[:4])
        return Images(x_train, y_train, x_test, y_test, self.classes)


def load_images(path: Path, train: int | None = None, test: int | None = None) -> Images:
    """Decode a file with the arrays ``{train,test}_{jpeg,offsets,labels}`` and ``classes``.

    Image i of a part is the bytes ``offsets[i]:offsets[i + 1]`` of its ``jpeg``.

    Args:
        path: the ``.npz``.
        train: how many of the training images, the first ones; all by default.
        test: likewise of the test images.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an array is missing, or there are fewer images than asked for.
    """
    import numpy

    with numpy.load(path) as arrays:
        wanted = [f"{part}_{kind}" for part in ("train", "test") for kind in ("jpeg", "offsets", "labels")]
        missing = [name for name in (*wanted, "classes") if name not in arrays]
        if missing:
            raise ValueError(f"{path} must have the array {missing[0]!r}; it has {', '.join(arrays.files)}")
        parts = [
            _decode(path, part, count, *(arrays[f"{part}_{kind}"] for kind in ("jpeg", "offsets", "labels")))
            for part, count in (("train", train), ("test", test))
        ]
        return Images(*parts[0], *parts[1], len(arrays["classes"]))


def _decode(path: Path, part: str, count: int | None, jpeg, offsets, labels) -> tuple[Tensor, Tensor]:
    import numpy
    from PIL import Image

    there = len(labels)
    if count is not None and count > there:
        raise ValueError(f"{path} has {there:,} {part} images, fewer than the {count:,} asked for")
    images = numpy.stack(
        [
            numpy.asarray(Image.open(io.BytesIO(jpeg[offsets[i] : offsets[i + 1]].tobytes())).convert("RGB"))
            for i in range(there if count is None else count)
        ]
    )
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels[:count]).long()


def standardize(images: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """uint8 ``[N, 3, H, W]`` to float32, by the mean and the standard deviation of each channel, ``[3]``."""
    return (images.float() - mean[:, None, None]) / deviation[:, None, None]


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Crops from images padded by ``PADDING``, half of them mirrored; ``[N, C, H, W]`` as before.

    Args:
        generator: on the CPU, so that all devices see the same.
    """
    count, _, height, width = images.shape
    padded = F.pad(images, [PADDING] * 4)
    top, left = torch.randint(2 * PADDING + 1, (2, count, 1), generator=generator).to(images.device)
    mirrored = torch.rand(count, 1, generator=generator).to(images.device) < 0.5
    rows = torch.arange(height, device=images.device) + top  # [N, H]
    columns = torch.arange(width, device=images.device)
    columns = torch.where(mirrored, width - 1 - columns, columns) + left  # [N, W]
    numbers = torch.arange(count, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[numbers, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)
