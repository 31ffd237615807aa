"""Atomic writes: a file is complete at any moment."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import torch

from jumpstart_kernels.cli.errors import CommandError

PARTIAL = ".partial"
FORMAT = 1  # of a checkpoint


def write_atomically(path: Path, write: Callable[[IO[bytes]], Any]) -> None:
    """Replace a file. Killed at any moment, it leaves either the old or the new content."""
    partial = path.with_name(path.name + PARTIAL)
    with partial.open("wb") as file:
        write(file)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # the rename, too
    finally:
        os.close(folder)


def write_checkpoint(path: Path, content: dict[str, Any]) -> None:
    """Write tensors, numbers, strings, and tuples, lists and dicts of them."""
    write_atomically(path, lambda file: torch.save({"format": FORMAT, **content}, file))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read what :func:`write_checkpoint` wrote, on the CPU. Raises CommandError for any other file."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # bytes of other files can lead to any
        raise CommandError(f"cannot read the checkpoint {path}: {error}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise CommandError(f"{path} is not a checkpoint of this version of train_imagenet.py")
    return content
