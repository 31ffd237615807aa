"""Memory layout of the input and its bit mask, shared by all backends."""

from typing import NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """A dense input, viewed as ``[samples, rows, units, inner]`` in memory order.

    ``rows`` are the positions of a sample that precede its units in memory, ``inner`` those that follow.
    Contiguous ``[N, C, H, W]`` is ``(N, 1, C, H*W)``; the same in channels_last is
    ``(N, H*W, C, 1)``; ``[N, T, C]`` with its units last is ``(N, T, C, 1)``.
    """

    samples: int
    rows: int
    units: int
    inner: int
    channels_last: bool  # memory order differs from logical order: units come after the positions

    @property
    def matrix(self) -> tuple[int, int]:
        """Shape of the input as a matrix in memory; work and mask are divided into whole rows."""
        if self.inner == 1:
            return self.samples * self.rows, self.units
        return self.samples * self.rows * self.units, self.inner


def statistics_dtype(dtype: torch.dtype) -> torch.dtype:
    """Statistics are float32, or float64 for float64."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def is_channels_last(x: Tensor, unit_dim: int) -> bool:
    """Whether the units of a dense ``x`` are contiguous in memory without being its last dimension."""
    if unit_dim != 1 or x.dim() not in (4, 5) or x.is_contiguous():
        return False
    return x.is_contiguous(memory_format=channels_last_format(x.dim()))


def is_dense(x: Tensor, unit_dim: int) -> bool:
    """Whether the kernels can run ``x`` without a copy."""
    return x.is_contiguous() or is_channels_last(x, unit_dim)


def runs_channels_last(x: Tensor, unit_dim: int) -> bool:
    """Whether ``x`` runs in channels_last, after being made dense if necessary."""
    if is_dense(x, unit_dim):
        return is_channels_last(x, unit_dim)
    return is_channels_last(torch.empty_like(x, device="meta"), unit_dim)


def empty_output(x: Tensor) -> Tensor:
    """Memory for the output, with the strides of ``F.relu``, including those of size-1 dimensions."""
    if x.is_contiguous():
        return torch.empty_like(x, memory_format=torch.contiguous_format)
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return torch.empty_like(x, memory_format=torch.channels_last)
    return torch.empty_like(x)


def channels_last_format(dim: int) -> torch.memory_format:
    return torch.channels_last if dim == 4 else torch.channels_last_3d


def dense_format(dim: int, channels_last: bool) -> torch.memory_format:
    """The memory format of a dense tensor."""
    return channels_last_format(dim) if channels_last else torch.contiguous_format


def make_layout(size: torch.Size | list[int], unit_dim: int, channels_last: bool) -> Layout:
    """The layout of a dense tensor of this size."""
    size = list(size)
    samples = size[0] if unit_dim > 0 else 1
    before, after = _product(size[1:unit_dim]), _product(size[unit_dim + 1 :])
    if channels_last:
        return Layout(samples, after, size[1], 1, True)
    return Layout(samples, before, size[unit_dim], after, False)


def point_shape(size: torch.Size | list[int], unit_dim: int, position_points: bool) -> list[int]:
    """Shape of the point statistics: samples, or positions of samples."""
    size = list(size)
    return size[:unit_dim] + size[unit_dim + 1 :] if position_points else size[:1]


def point_count(size: torch.Size | list[int], unit_dim: int, position_points: bool) -> int:
    return _product(point_shape(size, unit_dim, position_points))


def unit_rows(x: Tensor, unit_dim: int) -> Tensor:
    """``[C, all else]``: each unit's elements in row-major order."""
    units = x.shape[unit_dim]
    return x.movedim(unit_dim, 0).reshape(units, _product([*x.shape[:unit_dim], *x.shape[unit_dim + 1 :]]))


def point_rows(x: Tensor, unit_dim: int, position_points: bool) -> Tensor:
    """``[P, all else]``: each point's elements in row-major order."""
    if position_points:
        return unit_rows(x, unit_dim).T
    return x.reshape(x.shape[0], _product(list(x.shape[1:])))


def along_units(values: Tensor, dim: int, unit_dim: int) -> Tensor:
    """``[C]`` in a shape that broadcasts with a tensor of ``dim`` dimensions."""
    return values.view([-1 if d == unit_dim else 1 for d in range(dim)])


def as_matrix(x: Tensor, layout: Layout) -> Tensor:
    """``x`` as the matrix of its layout, ``[matrix rows, matrix columns]``; a view if it is dense."""
    if layout.channels_last:
        x = x.movedim(1, -1)
    return x.reshape(layout.matrix)


def from_matrix(matrix: Tensor, size: torch.Size | list[int], layout: Layout) -> Tensor:
    """The inverse of :func:`as_matrix`."""
    if layout.channels_last:
        return matrix.view(size[0], *size[2:], size[1]).movedim(-1, 1)
    return matrix.view(size)


def mask_shape(layout: Layout) -> tuple[int, int]:
    """Shape of the bit mask: each matrix row is padded to whole bytes."""
    rows, columns = layout.matrix
    return rows, (columns + 7) // 8


def linked_size(size: torch.Size | list[int], unit_dim: int) -> list[int]:
    """Size of the output of a linked activation: twice the units."""
    return [2 * length if d == unit_dim else length for d, length in enumerate(size)]


def linked_mask_shape(layout: Layout) -> tuple[int, int]:
    """Shape of the masks of both halves of a linked activation, side by side for each matrix row."""
    rows, columns = mask_shape(layout)
    return rows, 2 * columns


def pack_mask(positive: Tensor) -> Tensor:
    """Bool ``[rows, columns]`` to uint8 ``[rows, ceil(columns / 8)]``, lowest bit first."""
    rows, columns = positive.shape
    padded = torch.nn.functional.pad(positive, (0, -columns % 8)).view(rows, (columns + 7) // 8, 8)
    bits = torch.arange(8, dtype=torch.uint8, device=positive.device)
    return (padded.to(torch.uint8) << bits).sum(-1, dtype=torch.uint8)


def unpack_mask(mask: Tensor, columns: int) -> Tensor:
    """The inverse of :func:`pack_mask`."""
    bits = torch.arange(8, dtype=torch.uint8, device=mask.device)
    unpacked = (mask[:, :, None] >> bits) & 1  # [rows, bytes, 8]
    return unpacked.flatten(1)[:, :columns].bool()


def _product(sizes: list[int]) -> int:
    total = 1
    for size in sizes:
        total = total * size
    return total
