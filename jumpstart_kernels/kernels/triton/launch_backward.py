"""The backward: its launch. Needs Triton."""

import functools
import math

import torch
from torch import Tensor

from jumpstart_kernels.kernels import reference
from jumpstart_kernels.kernels.layout import channels_last_format, make_layout
from jumpstart_kernels.kernels.triton import plan
from jumpstart_kernels.kernels.triton.backward import jumpstart_relu_backward_kernel
from jumpstart_kernels.kernels.triton.launch import (
    Launch,
    device_of,
    is_aligned,
    margin_bits,
    registers,
    tile_constants,
)

BLOCK = 256  # rows or columns whose extrema a program of the backward looks at at once
CHUNK = 64  # and gives their gradients


def jumpstart_relu_backward(
    grad_output: Tensor | None,
    grad_slack_sums: Tensor | None,
    grad_extrema: Tensor | None,
    mask: Tensor,
    extrema: Tensor,
    indices: Tensor,
    size: list[int],
    channels_last: bool,
    dtype: torch.dtype,
    unit_dim: int,
    margin: float,
) -> Tensor:
    """As the reference's, for a ``grad_output`` that is dense like the result. One launch."""
    if math.prod(size) == 0:
        return reference.jumpstart_relu_backward(
            grad_output, grad_slack_sums, grad_extrema, mask, extrema, indices, size, channels_last, dtype,
            unit_dim, margin,
        )  # fmt: skip
    memory_format = channels_last_format(len(size)) if channels_last else torch.contiguous_format
    grad_x = torch.empty(size, dtype=dtype, device=extrema.device, memory_format=memory_format)
    launch = _backward(
        torch.Size(size), unit_dim, channels_last, extrema.shape[1], dtype,
        grad_output is None or is_aligned(grad_output), grad_output is not None, grad_slack_sums is not None,
        grad_extrema is not None,
    )  # fmt: skip
    with device_of(grad_x):
        launch(
            grad_x.get_device(),
            grad_x if grad_output is None else grad_output.to(dtype),
            mask,
            extrema if grad_slack_sums is None else grad_slack_sums.to(extrema.dtype).contiguous(),
            extrema if grad_extrema is None else grad_extrema.to(extrema.dtype).contiguous(),
            extrema,
            indices,
            grad_x,
            margin_bits(margin),
        )
    return grad_x


@functools.lru_cache(maxsize=1024)
def _backward(
    size: torch.Size,
    unit_dim: int,
    channels_last: bool,
    count: int,
    dtype: torch.dtype,
    aligned: bool,
    has_grad_output: bool,
    has_grad_slack_sums: bool,
    has_grad_extrema: bool,
) -> Launch:
    layout = make_layout(size, unit_dim, channels_last)
    points = count - layout.units
    position_points = points == math.prod(size) // layout.units
    grid = plan.make_grid(layout, position_points, dtype.itemsize, aligned)
    return Launch(
        jumpstart_relu_backward_kernel,
        grid.programs,
        (
            *(grid.rows, grid.columns, grid.regions, grid.tiles, grid.steps, layout.units, points),
            layout.rows if channels_last else layout.inner,
            1 if position_points else layout.rows * (1 if layout.inner == 1 else layout.units),
        ),
        {
            "HAS_GRAD_OUTPUT": has_grad_output,
            "HAS_GRAD_SLACK_SUMS": has_grad_slack_sums,
            "HAS_GRAD_EXTREMA": has_grad_extrema,
            "POSITION_POINTS": position_points,
            "CHANNELS_LAST": channels_last,
            "UNITS_FASTEST": layout.inner == 1,
            "BLOCK": BLOCK,
            "CHUNK": CHUNK,
            **tile_constants(grid.tile, grid.columns, grid.tile.depth * grid.tile.rows),
        },
        **registers(80),
    )
