"""Tensors larger than memory: zeros, which take no memory until written."""

import math
import mmap
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

# Pages that are not there count towards no limit of the system. The number is Linux's.
_FLAGS = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | (0x4000 if sys.platform == "linux" else 0)


def sparse_zeros(size: Sequence[int], dtype: torch.dtype, channels_last: bool = False) -> Tensor:
    """Contiguous, or with its second dimension fastest in memory."""
    count = math.prod(size)
    memory = mmap.mmap(-1, max(count * dtype.itemsize, 1), flags=_FLAGS)
    flat = torch.frombuffer(memory, dtype=dtype, count=count) if count else torch.empty(0, dtype=dtype)
    if not channels_last:
        return flat.view(size)
    return flat.view([size[0], *size[2:], size[1]]).movedim(-1, 1)
