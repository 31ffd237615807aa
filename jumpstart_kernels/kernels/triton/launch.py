"""What runs the kernels: workspaces and launches. Needs Triton."""

import contextlib
import math
import struct

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import cdiv

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
from jumpstart_kernels.kernels.triton.backward import (
    jumpstart_relu_backward_kernel,
    jumpstart_relu_extrema_backward_kernel,
)
from jumpstart_kernels.kernels.triton.plan import WARPS, alignment, backward_tile, make_plan
from jumpstart_kernels.kernels.triton.planes import jumpstart_relu_forward_planes_kernel
from jumpstart_kernels.kernels.triton.rows import jumpstart_relu_forward_rows_kernel
from jumpstart_kernels.kernels.triton.statistics import jumpstart_relu_statistics_forward_kernel

# Whether the kernels are functions of Triton's interpreter: settled when they were decorated.
INTERPRETED = not isinstance(jumpstart_relu_statistics_forward_kernel, triton.JITFunction)

# A fused multiply-add would round otherwise than the reference does.
OPTIONS = {"num_warps": WARPS, "enable_fp_fusion": False}

# Left alone, ptxas takes fewer registers for this kernel than it needs, and spills.
STATISTICS_OPTIONS = OPTIONS if torch.version.hip else {**OPTIONS, "maxnreg": 128}

BLOCK = 128

DTYPES = {
    torch.float16: tl.float16,
    torch.bfloat16: tl.bfloat16,
    torch.float32: tl.float32,
    torch.float64: tl.float64,
}
KEY_DTYPES = {
    torch.float16: torch.int16,
    torch.bfloat16: torch.int16,
    torch.float32: torch.int32,
    torch.float64: torch.int64,
}


def jumpstart_relu_forward(
    x: Tensor,
    unit_dim: int,
    position_points: bool,
    margin: float,
    apply_relu: bool,
    all_indices: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """As the reference's, for a dense ``x``. Two launches."""
    layout = make_layout(x.shape, unit_dim, is_channels_last(x, unit_dim))
    # Positions that lie behind their units: such a point runs across whole planes.
    if x.numel() == 0 or (position_points and layout.inner > 1):
        return reference.jumpstart_relu_forward(x, unit_dim, position_points, margin, apply_relu, all_indices)
    plan = make_plan(layout, position_points, x.element_size())
    units, points = layout.units, point_count(x.shape, unit_dim, position_points)
    dtype = statistics_dtype(x.dtype)
    output = torch.empty_like(x) if apply_relu else x.new_empty(0)
    mask = x.new_empty(mask_shape(layout) if apply_relu else (0, 0), dtype=torch.uint8)
    slack_sums = x.new_empty((2, 5), dtype=dtype)
    extrema = x.new_empty((2, units + points), dtype=dtype)
    indices = x.new_empty((2, units + points), dtype=torch.int64)

    statistics_programs = plan.unit_partials.programs + plan.point_partials.programs
    keys = x.new_empty((2, plan.partials), dtype=KEY_DTYPES[x.dtype])
    places = x.new_empty((2, plan.partials), dtype=torch.int32 if _fits_int32(x.numel()) else torch.int64)
    counter = x.new_empty(1, dtype=torch.int32)
    sums = x.new_empty((5, statistics_programs), dtype=dtype)

    buffers = (x, output, mask, keys, places, counter)
    constants = {
        "APPLY_RELU": apply_relu,
        "ALIGNMENT": plan.tile.alignment,
        "DEPTH": plan.tile.depth,
        "ROWS": plan.tile.rows,
        "COLUMNS": plan.tile.columns,
        **OPTIONS,
    }
    with _device_of(x):
        if layout.inner > 1:
            planes = layout.samples * layout.rows * units
            jumpstart_relu_forward_planes_kernel[(plan.programs,)](
                *buffers, planes, layout.inner, plan.column_tiles, plan.steps, **constants
            )
        else:
            jumpstart_relu_forward_rows_kernel[(plan.programs,)](
                *buffers,
                layout.samples * layout.rows // plan.segments,
                units,
                *((1, layout.rows) if layout.channels_last else (units, 1)),
                plan.regions,
                plan.column_tiles,
                plan.steps,
                plan.point_partials.start,
                plan.partials,
                ROW_POINTS=plan.row_points,
                EVEN=units % plan.tile.columns == 0,
                **constants,
            )
        unit_block, point_block = plan.unit_partials.block, plan.point_partials.block
        jumpstart_relu_statistics_forward_kernel[(statistics_programs,)](
            keys,
            places,
            counter,
            sums,
            extrema,
            indices,
            slack_sums,
            plan.partials,
            units,
            plan.unit_partials.groups,
            plan.unit_partials.per_item,
            points,
            plan.point_partials.start,
            plan.point_partials.groups,
            plan.point_partials.per_item,
            plan.column_tiles,
            layout.inner if layout.inner > 1 else 0,
            _inner(layout),
            x.numel() // points,
            plan.unit_partials.programs,
            _bits(margin),
            POSITION_POINTS=position_points,
            ALL_INDICES=all_indices,
            dtype=DTYPES[x.dtype],
            UNIT_PARTIALS=unit_block[0],
            UNIT_ITEMS=unit_block[1],
            POINT_PARTIALS=point_block[0],
            POINT_ITEMS=point_block[1],
            BLOCK=BLOCK,
            **STATISTICS_OPTIONS,
        )
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
    """As the reference's, for a ``grad_output`` that is dense like the result.

    One launch, and one more where extrema or slack sums have a gradient.
    """
    layout = make_layout(size, unit_dim, channels_last)
    elements = math.prod(size)
    if elements == 0:
        return reference.jumpstart_relu_backward(
            grad_output, grad_slack_sums, grad_extrema, mask, extrema, indices, size, channels_last, dtype,
            unit_dim, margin,
        )  # fmt: skip
    points = extrema.shape[1] - layout.units
    memory_format = channels_last_format(len(size)) if channels_last else torch.contiguous_format
    grad_x = torch.empty(size, dtype=dtype, device=extrema.device, memory_format=memory_format)
    with _device_of(grad_x):
        if grad_output is None:
            grad_x.zero_()
        else:
            height, width, rows, columns = backward_tile(*layout.matrix, dtype.itemsize)
            tiles = cdiv(columns, width)
            jumpstart_relu_backward_kernel[(cdiv(rows, height) * tiles,)](
                grad_output,
                mask,
                grad_x,
                rows,
                columns,
                tiles,
                ALIGNMENT=alignment(columns),
                ROWS=height,
                COLUMNS=width,
                **OPTIONS,
            )
        if grad_slack_sums is None and grad_extrema is None:
            return grad_x
        jumpstart_relu_extrema_backward_kernel[(cdiv(indices.numel(), BLOCK),)](
            grad_x if grad_output is None else grad_output,
            mask,
            extrema if grad_slack_sums is None else grad_slack_sums.contiguous(),
            extrema if grad_extrema is None else grad_extrema.contiguous(),
            extrema,
            indices,
            grad_x,
            layout.units,
            points,
            _inner(layout),
            elements // points,
            _bits(margin),
            HAS_GRAD_OUTPUT=grad_output is not None,
            HAS_GRAD_SLACK_SUMS=grad_slack_sums is not None,
            HAS_GRAD_EXTREMA=grad_extrema is not None,
            POSITION_POINTS=points == elements // layout.units,
            CHANNELS_LAST=channels_last,
            UNITS_FASTEST=layout.inner == 1,
            BLOCK=BLOCK,
            **OPTIONS,
        )
    return grad_x


def _inner(layout: Layout) -> int:
    """Positions behind the unit dimension, in logical order."""
    return layout.rows if layout.channels_last else layout.inner


def _fits_int32(elements: int) -> bool:
    return elements < 2**31


def _bits(margin: float) -> int:
    """The margin as the kernels take it, see ``margin_from_bits``."""
    return struct.unpack("<q", struct.pack("<d", margin))[0]


def _device_of(x: Tensor) -> contextlib.AbstractContextManager:
    return torch.cuda.device(x.device) if x.is_cuda else contextlib.nullcontext()
