"""The forward: its workspace and launches. Needs Triton."""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from jumpstart_kernels.ops import reference
from jumpstart_kernels.ops.activations import LINKED_ACTIVATIONS, NONE
from jumpstart_kernels.ops.arguments import ForwardResult, Options
from jumpstart_kernels.ops.layout import (
    Layout,
    empty_output,
    is_channels_last,
    linked_mask_shape,
    make_layout,
    mask_shape,
    point_count,
    statistics_dtype,
)
from jumpstart_kernels.ops.slack import SUMS_SHAPE, SlackSum
from jumpstart_kernels.ops.triton import plan
from jumpstart_kernels.ops.triton.launch import (
    Launch,
    alignment,
    device_of,
    float_bits,
    is_aligned,
    offset_dtype,
    registers,
)
from jumpstart_kernels.ops.triton.planes import jumpstart_activation_forward_planes_kernel
from jumpstart_kernels.ops.triton.rows import jumpstart_activation_forward_rows_kernel
from jumpstart_kernels.ops.triton.small import jumpstart_activation_forward_small_kernel
from jumpstart_kernels.ops.triton.statistics import jumpstart_activation_statistics_forward_kernel


class Forward(NamedTuple):
    """What a forward needs to know, see :func:`_forward`."""

    mask_shape: tuple[int, int]
    extrema: int  # of units and points together
    workspace: int  # integers; 0 where one kernel does it all
    launches: list[Launch]


def jumpstart_activation_forward(x: Tensor, bias: Tensor | None, options: Options) -> ForwardResult:
    """As the reference's, for a dense ``x``. Two launches, or one where a single program can take all."""
    if x.numel() == 0:
        return reference.jumpstart_activation_forward(x, bias, options)
    output = empty_output(x) if options.activation != NONE else x.new_empty(0)
    return forward_into(output, x, bias, None, options)


def forward_into(
    output: Tensor, x: Tensor, bias: Tensor | None, weight: Tensor | None, options: Options
) -> ForwardResult:
    """The forward of any activation, with its statistics; the weight is that of a linked one."""
    forward = _forward(
        x.shape, options.unit_dim, is_channels_last(x, options.unit_dim), options.position_points, x.dtype,
        is_aligned(x), options.activation, options.extrema_kind, alignment(bias), alignment(weight),
    )  # fmt: skip
    dtype = statistics_dtype(x.dtype)
    mask = x.new_empty(forward.mask_shape, dtype=torch.uint8)
    slack_sums = x.new_empty(SUMS_SHAPE, dtype=dtype)
    extrema = x.new_empty((2, forward.extrema), dtype=dtype)
    indices = x.new_empty((2, forward.extrema), dtype=torch.int64)
    statistics = (extrema, indices, slack_sums, float_bits(options.margin))
    parameter_bits = float_bits(options.parameter)
    mask_or_none = None if options.activation in LINKED_ACTIVATIONS and not mask.numel() else mask
    with device_of(x):
        device = x.get_device()
        if forward.workspace == 0:
            forward.launches[0](device, x, bias, weight, output, mask_or_none, *statistics, parameter_bits)
        else:
            workspace = x.new_empty(forward.workspace, dtype=_key_dtype(x.dtype))
            forward.launches[0](device, x, bias, weight, output, mask_or_none, workspace, parameter_bits)
            forward.launches[1](device, x, bias, workspace, *statistics)
    return ForwardResult(output, mask, slack_sums, extrema, indices)


@functools.lru_cache(maxsize=1024)
def _forward(
    size: torch.Size,
    unit_dim: int,
    channels_last: bool,
    position_points: bool,
    dtype: torch.dtype,
    aligned: bool,
    activation: str,
    extrema_kind: str,
    bias_aligned: bool | None,  # None without a bias; nothing here depends on it, but what Triton compiles
    weight_aligned: bool | None = None,  # likewise
) -> Forward:
    layout = make_layout(size, unit_dim, channels_last)
    units, points = layout.units, point_count(size, unit_dim, position_points)
    masked = _mask_shape(layout, activation)
    linked = activation in LINKED_ACTIVATIONS
    halved = activation in ("linked_selu", "linked_silu") and dtype.itemsize != 4  # as their values take most
    if plan.is_small(layout, position_points):
        return Forward(masked, units + points, 0, [_small(layout, activation, extrema_kind)])

    if layout.inner > 1 and not position_points:
        planes = plan.make_planes(layout, dtype.itemsize, aligned)
        if halved:
            planes = plan.halve_tiles(planes)
        unit_partials, point_partials, partials = plan.planes_partials(planes, layout)
        streaming = Launch(
            jumpstart_activation_forward_planes_kernel,
            planes.programs,
            {
                "planes": planes.planes,
                "inner": planes.inner,
                "chunks": planes.chunks,
                "steps": planes.steps,
                "partials": partials,
                "units": units,
                "ACTIVATION": activation,
                "WHOLE_BYTES": planes.inner % 8 == 0,
                "offset_dtype": offset_dtype(
                    planes.span if not linked else 2 * planes.span + units * planes.inner
                ),
                "TILE": planes.tile,
            },
            **_forward_registers(planes.tile, dtype, linked),
        )
        matrix = {
            "rows": planes.planes,
            "columns": planes.inner,
            "regions": 1,
            "region_rows": 1,
            "tiles": planes.chunks,
            "tile_columns": planes.chunk_columns,
        }
    else:
        grid = plan.make_forward_grid(layout, position_points, dtype.itemsize, aligned)
        if halved:
            grid = plan.halve_tiles(grid)
        unit_partials, point_partials, partials = plan.grid_partials(grid, layout, position_points)
        streaming = Launch(
            jumpstart_activation_forward_rows_kernel,
            grid.programs,
            {
                "rows": grid.rows,
                "columns": grid.columns,
                "regions": grid.regions,
                "tiles": grid.tiles,
                "steps": grid.steps,
                "row_partials": grid.segments * grid.regions * grid.columns,
                "partials": partials,
                "ACTIVATION": activation,
                "ROW_EXTREMA": not plan.column_order(layout, position_points),
                "UNITS_FASTEST": layout.inner == 1,
                "WHOLE_BYTES": grid.columns % 8 == 0,
                "offset_dtype": offset_dtype(grid.span if not linked else 2 * grid.span),
                "TILE": grid.tile,
            },
            **_forward_registers(grid.tile, dtype, linked),
        )
        matrix = {
            "rows": grid.rows,
            "columns": grid.columns,
            "regions": grid.regions,
            "region_rows": grid.region_rows,
            "tiles": grid.tiles,
            "tile_columns": grid.tile.columns,
        }
    programs = unit_partials.programs + point_partials.programs
    statistics = Launch(
        jumpstart_activation_statistics_forward_kernel,
        programs,
        {
            "partials": partials,
            "units": units,
            "unit_start": unit_partials.start,
            "unit_groups": unit_partials.groups,
            "unit_partials": unit_partials.per_item,
            "points": points,
            "point_start": point_partials.start,
            "point_groups": point_partials.groups,
            "point_partials": point_partials.per_item,
            "unit_programs": unit_partials.programs,
            **matrix,
            "UNITS_OF_COLUMNS": layout.inner == 1,
            "POINTS_OF_COLUMNS": plan.column_order(layout, position_points)
            or (layout.inner > 1 and position_points),
            "COLUMN_ORDER": plan.column_order(layout, position_points),
            "CHANNELS_LAST": channels_last,
            "EXTREMA_KIND": extrema_kind,
            "UNIT_BLOCK": unit_partials.block,
            "POINT_BLOCK": point_partials.block,
            "ELEMENTS": plan.STATISTICS_ELEMENTS,
        },
        num_warps=plan.STATISTICS_WARPS,
        **({} if bias_aligned is None else registers(128)),
    )
    workspace = 1 + 2 * partials + len(SlackSum) * programs
    return Forward(masked, units + points, workspace, [streaming, statistics])


def _small(layout: Layout, activation: str, extrema_kind: str) -> Launch:
    rows, columns = layout.matrix
    height, width = plan.power_of_two(rows), max(8, plan.power_of_two(columns))
    return Launch(
        jumpstart_activation_forward_small_kernel,
        1,
        {
            "rows": rows,
            "columns": columns,
            "row_stride": 1 if layout.channels_last else columns,
            "column_stride": layout.rows if layout.channels_last else 1,
            "ACTIVATION": activation,
            "EXTREMA_KIND": extrema_kind,
            "ROWS": height,
            "COLUMNS": width,
        },
        num_warps=min(max(height * width // plan.SMALL_WARP, 1), 16),
    )


def _mask_shape(layout: Layout, activation: str) -> tuple[int, int]:
    if activation in LINKED_ACTIVATIONS:
        return linked_mask_shape(layout) if LINKED_ACTIVATIONS[activation].from_sign else (0, 0)
    return mask_shape(layout) if activation != NONE else (0, 0)


def _forward_registers(tile: plan.Tile, dtype: torch.dtype, linked: bool) -> dict:
    if tile.vector == 1:
        return registers(128)
    if linked:
        return registers(96 if dtype.itemsize == 4 else 128)
    return registers(96 if dtype.itemsize == 2 else 64)


def _key_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.int64 if dtype == torch.float64 else torch.int32
