"""What runs the kernels: workspaces and launches. Needs Triton."""

import contextlib
import functools
import math
import struct
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from jumpstart_kernels.kernels import reference
from jumpstart_kernels.kernels.layout import (
    Layout,
    channels_last_format,
    is_channels_last,
    make_layout,
    mask_shape,
    point_count,
    statistics_dtype,
)
from jumpstart_kernels.kernels.triton import plan
from jumpstart_kernels.kernels.triton.backward import jumpstart_relu_backward_kernel
from jumpstart_kernels.kernels.triton.planes import jumpstart_relu_forward_planes_kernel
from jumpstart_kernels.kernels.triton.rows import jumpstart_relu_forward_rows_kernel
from jumpstart_kernels.kernels.triton.small import jumpstart_relu_forward_small_kernel
from jumpstart_kernels.kernels.triton.statistics import jumpstart_relu_statistics_forward_kernel

# Whether the kernels are functions of Triton's interpreter: settled when they were decorated.
INTERPRETED = not isinstance(jumpstart_relu_statistics_forward_kernel, triton.JITFunction)

BLOCK = 256  # rows or columns whose extrema a program of the backward looks at at once
CHUNK = 64  # and gives their gradients


class Launch:
    """A kernel with all that does not change from call to call: a launch then costs as little as can be.

    Triton works out anew in each call which compiled kernel the arguments ask for. Here that is settled but
    for the device: what else it depends on, dtypes and alignment, is in the keys of :func:`_forward` and
    :func:`_backward`.
    """

    def __init__(self, kernel: Any, programs: int, numbers: tuple, constants: dict, **options: Any) -> None:
        self.kernel, self.grid, self.numbers = kernel, (programs, 1, 1), numbers
        self.constants = tuple(constants[name] for name in kernel.arg_names if name in constants)
        # A fused multiply-add would round otherwise than the reference does.
        self.options = {"num_warps": plan.WARPS, "enable_fp_fusion": False, **options}
        self.compiled: dict[int, Any] = {}  # by device

    def __call__(self, device: int, *tensors_and_margin: Any) -> None:
        arguments = (*tensors_and_margin, *self.numbers, *self.constants)
        compiled = self.compiled.get(device)
        if compiled is None:
            # None from the interpreter, which has nothing to keep.
            self.compiled[device] = self.kernel[self.grid](*arguments, **self.options)
        else:
            compiled[self.grid](*arguments)


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
        x.shape, unit_dim, is_channels_last(x, unit_dim), position_points, x.dtype, _is_aligned(x),
        apply_relu, all_indices,
    )  # fmt: skip
    dtype = statistics_dtype(x.dtype)
    output = torch.empty_like(x) if apply_relu else x.new_empty(0)
    mask = x.new_empty(forward.mask_shape, dtype=torch.uint8)
    slack_sums = x.new_empty((2, 5), dtype=dtype)
    extrema = x.new_empty((2, forward.extrema), dtype=dtype)
    indices = x.new_empty((2, forward.extrema), dtype=torch.int64)
    statistics = (extrema, indices, slack_sums, _bits(margin))
    with _device_of(x):
        device = x.get_device()
        if forward.workspace == 0:
            forward.launches[0](device, x, output, mask, *statistics)
        else:
            workspace = x.new_empty(forward.workspace, dtype=_key_dtype(x.dtype))
            forward.launches[0](device, x, output, mask, workspace)
            forward.launches[1](device, x, workspace, *statistics)
    return output, mask, slack_sums, extrema, indices


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
        grad_output is None or _is_aligned(grad_output), grad_output is not None, grad_slack_sums is not None,
        grad_extrema is not None,
    )  # fmt: skip
    with _device_of(grad_x):
        launch(
            grad_x.get_device(),
            grad_x if grad_output is None else grad_output.to(dtype),
            mask,
            extrema if grad_slack_sums is None else grad_slack_sums.to(extrema.dtype).contiguous(),
            extrema if grad_extrema is None else grad_extrema.to(extrema.dtype).contiguous(),
            extrema,
            indices,
            grad_x,
            _bits(margin),
        )
    return grad_x


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
            constants | _tile_constants(planes.tile, planes.inner, planes.tile.rows),
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
            | _tile_constants(grid.tile, grid.columns, grid.tile.depth * grid.tile.rows),
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
            **_tile_constants(grid.tile, grid.columns, grid.tile.depth * grid.tile.rows),
        },
        **_registers(80),
    )


def _tile_constants(tile: plan.Tile, columns: int, rows: int) -> dict:
    """Of kernels whose tiles reach over some rows of a matrix of so many columns."""
    return {
        "WHOLE_BYTES": columns % 8 == 0,
        "offset_dtype": tl.int32 if plan.fits_int32(rows * columns) else tl.int64,
        "DEPTH": tile.depth,
        "ROWS": tile.rows,
        "COLUMNS": tile.columns,
        "VECTOR": tile.vector,
    }


def _registers(most: int) -> dict:
    """Left alone, ptxas takes so many registers that fewer programs fit, or so few that it spills."""
    return {} if torch.version.hip else {"maxnreg": most}


def _forward_registers(tile: plan.Tile, dtype: torch.dtype) -> dict:
    if tile.vector == 1:
        return _registers(128)
    return _registers(96 if dtype.itemsize == 2 else 64)


def _key_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.int64 if dtype == torch.float64 else torch.int32


def _is_aligned(x: Tensor) -> bool:
    return x.data_ptr() % 16 == 0


@functools.lru_cache(maxsize=1024)
def _bits(margin: float) -> int:
    """The margin as the kernels take it, see ``margin_from_bits``."""
    return struct.unpack("<q", struct.pack("<d", margin))[0]


def _device_of(x: Tensor) -> contextlib.AbstractContextManager:
    if not x.is_cuda or x.get_device() == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(x.device)
