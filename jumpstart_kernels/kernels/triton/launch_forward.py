"""The forward: its workspace and launches. Needs Triton."""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from jumpstart_kernels.kernels import reference
from jumpstart_kernels.kernels.layout import (
    Layout,
    empty_output,
    is_channels_last,
    make_layout,
    mask_shape,
    point_count,
    statistics_dtype,
)
from jumpstart_kernels.kernels.triton import plan
from jumpstart_kernels.kernels.triton.launch import (
    Launch,
    device_of,
    is_aligned,
    margin_bits,
    registers,
    tile_constants,
)
from jumpstart_kernels.kernels.triton.planes import jumpstart_relu_forward_planes_kernel
from jumpstart_kernels.kernels.triton.rows import jumpstart_relu_forward_rows_kernel
from jumpstart_kernels.kernels.triton.small import jumpstart_relu_forward_small_kernel
from jumpstart_kernels.kernels.triton.statistics import jumpstart_relu_statistics_forward_kernel


class Forward(NamedTuple):
    """What a forward needs to know, see :func:`_forward`."""

    mask_shape: tuple[int, int]
    extrema: int  # of units and points together
    workspace: int  # integers; 0 where one kernel does it all
    launches: list[Launch]


def jumpstart_relu_forward(
    x: Tensor,
    unit_dim: int,
    position_points: bool,
    margin: float,
    apply_relu: bool,
    all_indices: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As the reference's, for a dense ``x``. Two launches, or one where a single program can take all."""
    if x.numel() == 0:
        return reference.jumpstart_relu_forward(x, unit_dim, position_points, margin, apply_relu, all_indices)
    forward = _forward(
        x.shape, unit_dim, is_channels_last(x, unit_dim), position_points, x.dtype, is_aligned(x),
        apply_relu, all_indices,
    )  # fmt: skip
    dtype = statistics_dtype(x.dtype)
    output = empty_output(x) if apply_relu else x.new_empty(0)
    mask = x.new_empty(forward.mask_shape, dtype=torch.uint8)
    slack_sums = x.new_empty((2, 5), dtype=dtype)
    extrema = x.new_empty((2, forward.extrema), dtype=dtype)
    indices = x.new_empty((2, forward.extrema), dtype=torch.int64)
    statistics = (extrema, indices, slack_sums, margin_bits(margin))
    with device_of(x):
        device = x.get_device()
        if forward.workspace == 0:
            forward.launches[0](device, x, output, mask, *statistics)
        else:
            workspace = x.new_empty(forward.workspace, dtype=_key_dtype(x.dtype))
            forward.launches[0](device, x, output, mask, workspace)
            forward.launches[1](device, x, workspace, *statistics)
    return output, mask, slack_sums, extrema, indices


@functools.lru_cache(maxsize=1024)
def _forward(
    size: torch.Size,
    unit_dim: int,
    channels_last: bool,
    position_points: bool,
    dtype: torch.dtype,
    aligned: bool,
    apply_relu: bool,
    all_indices: bool,
) -> Forward:
    layout = make_layout(size, unit_dim, channels_last)
    units, points = layout.units, point_count(size, unit_dim, position_points)
    masked = mask_shape(layout) if apply_relu else (0, 0)
    if plan.is_small(layout, position_points):
        return Forward(masked, units + points, 0, [_small(layout, apply_relu, all_indices)])

    constants = {"APPLY_RELU": apply_relu}
    if layout.inner > 1 and not position_points:
        planes = plan.make_planes(layout, dtype.itemsize, aligned)
        unit_partials, point_partials, partials = plan.planes_partials(planes, layout)
        streaming = Launch(
            jumpstart_relu_forward_planes_kernel,
            planes.programs,
            (planes.planes, planes.inner, planes.chunks, planes.steps, partials),
            constants | tile_constants(planes.tile, planes.inner, planes.tile.rows),
            **_forward_registers(planes.tile, dtype),
        )
        matrix = (planes.planes, planes.inner, 1, 1, planes.chunks, planes.chunk_columns)
    else:
        grid = plan.make_forward_grid(layout, position_points, dtype.itemsize, aligned)
        unit_partials, point_partials, partials = plan.grid_partials(grid, layout, position_points)
        streaming = Launch(
            jumpstart_relu_forward_rows_kernel,
            grid.programs,
            (
                grid.rows, grid.columns, grid.regions, grid.tiles, grid.steps,
                grid.segments * grid.regions * grid.columns, partials,
            ),
            constants
            | {"ROW_EXTREMA": not plan.column_order(layout, position_points)}
            | tile_constants(grid.tile, grid.columns, grid.tile.depth * grid.tile.rows),
            **_forward_registers(grid.tile, dtype),
        )  # fmt: skip
        matrix = (grid.rows, grid.columns, grid.regions, grid.region_rows, grid.tiles, grid.tile.columns)
    programs = unit_partials.programs + point_partials.programs
    statistics = Launch(
        jumpstart_relu_statistics_forward_kernel,
        programs,
        (
            partials,
            *(units, unit_partials.start, unit_partials.groups, unit_partials.per_item),
            *(points, point_partials.start, point_partials.groups, point_partials.per_item),
            unit_partials.programs,
            *matrix,
        ),
        {
            "UNITS_OF_COLUMNS": layout.inner == 1,
            "POINTS_OF_COLUMNS": plan.column_order(layout, position_points)
            or (layout.inner > 1 and position_points),
            "COLUMN_ORDER": plan.column_order(layout, position_points),
            "CHANNELS_LAST": channels_last,
            "ALL_INDICES": all_indices,
            "UNIT_PARTIALS": unit_partials.block[0],
            "UNIT_ITEMS": unit_partials.block[1],
            "POINT_PARTIALS": point_partials.block[0],
            "POINT_ITEMS": point_partials.block[1],
            "ELEMENTS": plan.STATISTICS_ELEMENTS,
        },
        num_warps=plan.STATISTICS_WARPS,
    )
    workspace = 1 + 2 * partials + 5 * programs
    return Forward(masked, units + points, workspace, [streaming, statistics])


def _small(layout: Layout, apply_relu: bool, all_indices: bool) -> Launch:
    rows, columns = layout.matrix
    height, width = plan.power_of_two(rows), max(8, plan.power_of_two(columns))
    return Launch(
        jumpstart_relu_forward_small_kernel,
        1,
        (rows, columns, *((1, layout.rows) if layout.channels_last else (columns, 1))),
        {"APPLY_RELU": apply_relu, "ALL_INDICES": all_indices, "ROWS": height, "COLUMNS": width},
        num_warps=min(max(height * width // plan.SMALL_WARP, 1), 16),
    )


def _forward_registers(tile: plan.Tile, dtype: torch.dtype) -> dict:
    if tile.vector == 1:
        return registers(128)
    return registers(96 if dtype.itemsize == 2 else 64)


def _key_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.int64 if dtype == torch.float64 else torch.int32
