"""CIFAR-10 from JPEG files in one ``.npz``, decoded into memory."""

import io
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

KINDS = ("jpeg", "offsets", "labels")
PADDING = 4  # pixels on each side, before a random crop


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

    Image i of a split is the bytes ``offsets[i]:offsets[i + 1]`` of its ``jpeg``.

    Args:
        path: the ``.npz``.
        train: how many training images, from the first; all by default.
        test: how many test images, likewise.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: an array is missing, or there are fewer images than requested.
    """
    import numpy

    with numpy.load(path) as arrays:
        wanted = [f"{split}_{kind}" for split in ("train", "test") for kind in KINDS]
        missing = [name for name in (*wanted, "classes") if name not in arrays]
        if missing:
            raise ValueError(f"{path} must have the array {missing[0]!r}; it has {', '.join(arrays.files)}")
        decoded = [
            _decode(path, split, count, *(arrays[f"{split}_{kind}"] for kind in KINDS))
            for split, count in (("train", train), ("test", test))
        ]
        return Images(*decoded[0], *decoded[1], len(arrays["classes"]))


def _decode(path: Path, split: str, count: int | None, jpeg, offsets, labels) -> tuple[Tensor, Tensor]:
    import numpy
    from PIL import Image

    available = len(labels)
    if count is not None and count > available:
        raise ValueError(f"{path} has {available:,} {split} images, fewer than the {count:,} requested")
    images = numpy.stack(
        [
            numpy.asarray(Image.open(io.BytesIO(jpeg[offsets[i] : offsets[i + 1]].tobytes())).convert("RGB"))
            for i in range(available if count is None else count)
        ]
    )
    return torch.from_numpy(images).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels[:count]).long()


def standardize(images: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
    """uint8 ``[N, 3, H, W]`` to float32, with the mean and standard deviation of each channel, ``[3]``."""
    return (images.float() - mean[:, None, None]) / deviation[:, None, None]


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Random crops of the padded images, half of them flipped horizontally: ``[N, C, H, W]``.

    Args:
        generator: on the CPU, so that every device sees the same crops.
    """
    count, _, height, width = images.shape
    padded = F.pad(images, [PADDING] * 4)
    top, left = torch.randint(2 * PADDING + 1, (2, count, 1), generator=generator).to(images.device)
    flipped = torch.rand(count, 1, generator=generator).to(images.device) < 0.5
    rows = torch.arange(height, device=images.device) + top  # [N, H]
    columns = torch.arange(width, device=images.device)
    columns = torch.where(flipped, width - 1 - columns, columns) + left  # [N, W]
    index = torch.arange(count, device=images.device)[:, None, None]
    return padded.permute(0, 2, 3, 1)[index, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)
