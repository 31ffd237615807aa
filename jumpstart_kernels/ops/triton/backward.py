"""The backward, for every layout: one kernel masks the gradient and adds the gradients of the extrema."""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from jumpstart_kernels.ops.arguments import Gradients
from jumpstart_kernels.ops.triton.activations import activation_gradient
from jumpstart_kernels.ops.triton.bias import add_to_sums, store_grad_bias
from jumpstart_kernels.ops.triton.extrema import ExtremaPointers, extrema_gradients
from jumpstart_kernels.ops.triton.floats import round_to, statistics_values
from jumpstart_kernels.ops.triton.tiles import program_index, row_start, share, slot_offsets, unpack_bits

BLOCK: tl.constexpr = tl.constexpr(256)  # rows or columns whose extrema a program looks at at once
CHUNK: tl.constexpr = tl.constexpr(64)  # and gives their gradients


class Sizes(NamedTuple):
    """Of the activation: as the matrix ``[segments, rows, columns]``, and in logical order."""

    rows: Any
    columns: Any
    units: Any
    inner: Any  # positions behind the unit dimension
    rows_of_point: Any


class Part(NamedTuple):
    """A program's part of the matrix: some rows, of all segments' rows, and COLUMNS columns."""

    first_row: Any
    last_row: Any
    first_column: Any
    sums_ptr: Any  # to the partial sum of line 0, which is the matrix's; None without them
    sums_stride: Any


@triton.jit
def add_extrema(
    grad_x,
    index,  # in x.flatten()
    position,  # of a unit or point, in a row of extrema and indices
    valid,
    gradients: Gradients,
    pointers: ExtremaPointers,
    margin_bits,
    AXIS: tl.constexpr,  # 0 of units, 1 of points
):
    """Add the gradients of the maximum and the minimum at this position, if the element is theirs."""
    max_grad, min_grad = extrema_gradients(
        position, valid, gradients, pointers, margin_bits, grad_x.dtype, AXIS
    )
    max_index = tl.load(pointers.indices + position, mask=valid, other=-1)
    min_index = tl.load(pointers.indices + (pointers.count + position), mask=valid, other=-1)
    grad_x += tl.where(max_index == index, max_grad, 0.0)
    return grad_x + tl.where(min_index == index, min_grad, 0.0)


@triton.jit
def line_position(line, segment, sizes: Sizes, AXIS: tl.constexpr, OF_COLUMNS: tl.constexpr):
    """Where in a row of extrema and indices the unit or point of a column or row of the matrix stands."""
    if AXIS == 0 and OF_COLUMNS:
        position = line
    elif AXIS == 0:
        position = line % sizes.units
    elif OF_COLUMNS:
        position = sizes.units + segment * sizes.columns + line
    else:
        position = sizes.units + line // sizes.rows_of_point
    return position


@triton.jit
def rewrite_elements(
    grad_x_ptr,  # [segments, rows, columns]
    gradients: Gradients,
    mask_ptr,
    pointers: ExtremaPointers,
    sizes: Sizes,
    part: Part,
    margin_bits,
    parameter_bits,
    ACTIVATION: tl.constexpr,
    AXIS: tl.constexpr,  # 0: extrema of units, 1: of points
    POSITION_POINTS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    UNITS_FASTEST: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Of each element in the program's part that holds one of these extrema, the whole gradient anew.

    An element may hold extrema of its unit and of its point: threads that meet in it write the same bits.
    """
    columns, units = sizes.columns, sizes.units
    segment = part.first_row // sizes.rows  # anew: kept, it would take a register of the loop over tiles
    OF_COLUMNS: tl.constexpr = UNITS_FASTEST if AXIS == 0 else POSITION_POINTS and not UNITS_FASTEST
    first_line, last_line = part.first_row, part.last_row  # those whose units or points are looked at
    if OF_COLUMNS:
        first_line = part.first_column.to(tl.int64)
        last_line = tl.minimum(part.first_column + COLUMNS, columns).to(tl.int64)
    elif UNITS_FASTEST and not POSITION_POINTS:  # all rows are of one point, the segment
        last_line = first_line + 1
    if CHANNELS_LAST:
        first_index = segment * sizes.rows * columns
        last_index = first_index + sizes.rows.to(tl.int64) * columns
    else:
        first_index = part.first_row * columns
        last_index = part.last_row * columns
    for start in range(first_line, last_line, BLOCK):
        line = start + tl.arange(0, BLOCK).to(tl.int64)
        position = line_position(line, segment, sizes, AXIS, OF_COLUMNS)
        max_index = tl.load(pointers.indices + position, mask=line < last_line, other=-1)
        min_index = tl.load(pointers.indices + pointers.count + position, mask=line < last_line, other=-1)
        here = (max_index >= first_index) & (max_index < last_index)
        here = here | (min_index >= first_index) & (min_index < last_index)
        # As a rule there is none: most extrema have no slack, and those that have lie elsewhere.
        if tl.max(here.to(tl.int32), 0) > 0:
            for chunk in range(start, tl.minimum(start + BLOCK, last_line), CHUNK):
                chunk_line = chunk + tl.arange(0, 2 * CHUNK).to(tl.int64) % CHUNK  # maxima, then minima
                side = tl.arange(0, 2 * CHUNK) // CHUNK
                place = line_position(chunk_line, segment, sizes, AXIS, OF_COLUMNS)
                index_ptr = pointers.indices + side * pointers.count + place
                index = tl.load(index_ptr, mask=chunk_line < last_line, other=-1)
                found = (index >= first_index) & (index < last_index)
                index = tl.where(found, index, first_index)
                plane = index // sizes.inner  # [before, units, inner] in logical order
                before = plane // units
                unit = plane - before * units
                behind = index - plane * sizes.inner
                offset = index
                if CHANNELS_LAST:
                    offset = (before * sizes.inner + behind) * units + unit
                row = offset // columns
                column = offset - row * columns
                point = before * sizes.inner + behind if POSITION_POINTS else row // sizes.rows_of_point
                found = found & (row >= part.first_row) & (row < part.last_row)
                found = found & (column >= part.first_column) & (column < part.first_column + COLUMNS)

                grad_x = tl.full(index.shape, 0, pointers.extrema.dtype.element_ty)
                if gradients.output is not None:
                    byte = row * ((columns + 7) // 8) + column // 8
                    mask = tl.load(mask_ptr + byte, mask=found, other=0).to(tl.int64)
                    grad_output = tl.load(gradients.output + offset, mask=found, other=0)
                    positive = unpack_bits(mask, column % 8)
                    gradient = activation_gradient(grad_output, positive, parameter_bits, ACTIVATION)
                    grad_x = gradient.to(grad_x.dtype)
                grad_x = add_extrema(grad_x, index, unit, found, gradients, pointers, margin_bits, AXIS=0)
                grad_x = add_extrema(
                    grad_x, index, units + point, found, gradients, pointers, margin_bits, AXIS=1
                )
                tl.store(grad_x_ptr + offset, round_to(grad_x, grad_x_ptr.dtype.element_ty), mask=found)
                if part.sums_ptr is not None and AXIS == 1:  # those of units are added to the unit's sum
                    max_grad, min_grad = extrema_gradients(
                        place, found, gradients, pointers, margin_bits, grad_x.dtype, AXIS
                    )
                    # Of the lines of a point, all of which have found its extrema, the first.
                    once = found & ((chunk_line == first_line) | (chunk_line % sizes.rows_of_point == 0))
                    gradient = tl.where(once, tl.where(side == 0, max_grad, min_grad), 0.0)
                    if UNITS_FASTEST:
                        last_column = tl.minimum(part.first_column + COLUMNS, columns)
                        add_to_sums(
                            part.sums_ptr, part.sums_stride, gradient, column, part.first_column, last_column
                        )
                    else:
                        add_to_sums(
                            part.sums_ptr, part.sums_stride, gradient, row, part.first_row, part.last_row
                        )


@triton.jit(
    do_not_specialize=[
        "margin_bits", "parameter_bits", "rows", "columns", "regions", "tiles", "steps", "units", "points",
        "inner", "rows_of_point",
    ],
    do_not_specialize_on_alignment=[
        "mask_ptr", "grad_slack_sums_ptr", "grad_extrema_ptr", "extrema_ptr", "indices_ptr",
    ],
)  # fmt: skip
def jumpstart_activation_backward_kernel(
    grad_output_ptr,  # [segments, rows, columns]; None where it is not in the loss, as the two that follow
    grad_slack_sums_ptr,  # [2, 5]
    grad_extrema_ptr,  # [2, units + points]
    mask_ptr,  # [segments * rows, ceil(columns / 8)]
    extrema_ptr,  # [2, units + points]
    indices_ptr,  # [2, units + points]
    grad_x_ptr,  # [segments, rows, columns]
    sums_ptr,  # partial sums of columns [segments * regions, columns], if these are units, or else of rows
    # [segments * rows, tiles]; None without a gradient of the bias
    grad_bias_ptr,  # [columns]; None where sums are not all of a unit
    margin_bits: tl.int64,
    parameter_bits: tl.int64,
    rows,
    columns,
    regions,  # of a segment
    tiles,  # of the columns
    steps,  # of a region
    units,
    points,
    inner,
    rows_of_point,
    ACTIVATION: tl.constexpr,
    POSITION_POINTS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    UNITS_FASTEST: tl.constexpr,
    offset_dtype: tl.constexpr,
    TILE: tl.constexpr,
):
    """A program takes a region, some rows of a segment, of as many columns as a warp loads at once.

    Then it rewrites those of its elements that hold extrema.
    """
    program = program_index()
    tile, region = (program % tiles).to(offset_dtype), program // tiles
    segment = region // regions
    first_row = region % regions * steps * (TILE.depth * TILE.rows)
    last_row = tl.minimum(first_row + steps * (TILE.depth * TILE.rows), rows)
    vectors = columns // TILE.vector  # of a row
    mask_bytes = (columns + 7) // 8
    slots_of_row: tl.constexpr = TILE.columns // TILE.vector
    slots_of_byte: tl.constexpr = 8 // TILE.vector
    slot = tl.arange(0, TILE.depth * TILE.rows * slots_of_row)
    vector = tl.minimum(tile * slots_of_row + slot % slots_of_row, vectors - 1)
    bit = (vector % slots_of_byte)[:, None] * TILE.vector + tl.arange(0, TILE.vector)[None, :]
    if sums_ptr is not None and UNITS_FASTEST:
        sums = tl.full([TILE.rows * slots_of_row, TILE.vector], 0, sums_ptr.dtype.element_ty)
    for step in range(tl.cdiv(last_row - first_row, TILE.depth * TILE.rows).to(tl.int32)):
        start = first_row + step * (TILE.depth * TILE.rows)
        last = (tl.minimum(last_row - start, TILE.depth * TILE.rows) - 1).to(tl.int32)
        if sums_ptr is not None:  # what comes again is added once
            counts = slot // slots_of_row <= last
            if not UNITS_FASTEST:
                counts = counts & (tile * slots_of_row + slot % slots_of_row < vectors)
        start += segment * rows
        base = row_start(start, columns, TILE.vector)
        row = tl.minimum(slot // slots_of_row, last).to(offset_dtype)
        offset = slot_offsets(row, vector, vectors, TILE.vector)
        if grad_output_ptr is not None:
            if sums_ptr is None:
                grad_output = tl.load(grad_output_ptr + base + offset)  # [SLOTS, VECTOR]
            else:
                grad_output = tl.load(grad_output_ptr + base + offset, mask=counts[:, None], other=0)
            byte = start * mask_bytes + (row * mask_bytes + vector // slots_of_byte)
            mask = tl.load(mask_ptr + byte).to(tl.int32)[:, None]
            positive = unpack_bits(mask, bit)
            grad_x = activation_gradient(grad_output, positive, parameter_bits, ACTIVATION)
        else:
            grad_x = tl.full(offset.shape, 0, grad_x_ptr.dtype.element_ty)
        if sums_ptr is None:
            tl.store(grad_x_ptr + base + offset, grad_x)
        else:
            tl.store(grad_x_ptr + base + offset, grad_x, mask=counts[:, None])
            values = statistics_values(grad_x)
            if UNITS_FASTEST:
                sums += tl.sum(tl.reshape(values, [TILE.depth, sums.shape[0], TILE.vector]), 0)
            else:
                place = start * tiles + tile + row.to(tl.int64) * tiles
                row_sums = share(tl.sum(values, 1), "sum", slots_of_row)
                tl.store(sums_ptr + place, row_sums, mask=counts & (slot % slots_of_row == 0))
    if sums_ptr is not None and UNITS_FASTEST:
        column = tile * TILE.columns + tl.arange(0, TILE.columns)
        column_sums = tl.sum(tl.reshape(sums, [TILE.rows, TILE.columns]), 0)
        tl.store(sums_ptr + region * columns + column, column_sums, mask=column < columns)

    if grad_slack_sums_ptr is not None or grad_extrema_ptr is not None or grad_bias_ptr is not None:
        tl.debug_barrier()  # what other threads stored of this part lies in memory
        part = Part(
            first_row=first_row + segment * rows,
            last_row=last_row + segment * rows,
            first_column=tile * TILE.columns,
            sums_ptr=None if sums_ptr is None else sums_ptr + (region * columns if UNITS_FASTEST else tile),
            sums_stride=1 if UNITS_FASTEST else tiles,
        )
        gradients = Gradients(
            output=grad_output_ptr, slack_sums=grad_slack_sums_ptr, extrema=grad_extrema_ptr
        )
        count = units.to(tl.int64) + points
        pointers = ExtremaPointers(extrema=extrema_ptr, indices=indices_ptr, count=count)
        sizes = Sizes(rows=rows, columns=columns, units=units, inner=inner, rows_of_point=rows_of_point)
        if grad_slack_sums_ptr is not None or grad_extrema_ptr is not None:
            for axis in tl.static_range(2):
                rewrite_elements(
                    grad_x_ptr,
                    gradients,
                    mask_ptr,
                    pointers,
                    sizes,
                    part,
                    margin_bits=margin_bits,
                    parameter_bits=parameter_bits,
                    ACTIVATION=ACTIVATION,
                    AXIS=axis,
                    POSITION_POINTS=POSITION_POINTS,
                    CHANNELS_LAST=CHANNELS_LAST,
                    UNITS_FASTEST=UNITS_FASTEST,
                    COLUMNS=TILE.columns,
                )
        if grad_bias_ptr is not None:
            tl.debug_barrier()  # likewise
            unit = tile * TILE.columns + tl.arange(0, TILE.columns)
            sums = tl.load(sums_ptr + unit, mask=unit < columns, other=0)
            store_grad_bias(grad_bias_ptr, sums, unit, unit < columns, gradients, pointers, margin_bits)
