"""The backward, for every layout: one kernel masks the gradient and adds the gradients of the extrema."""

import triton
import triton.language as tl

from jumpstart_kernels.kernels.triton.slack import SUMS, slack_gradients
from jumpstart_kernels.kernels.triton.tiles import program_index, row_start, slot_offsets


@triton.jit
def add_extrema(
    grad_x,
    index,  # in x.flatten()
    position,  # of a unit or point, in a row of extrema and indices
    valid,
    extrema_ptr,
    indices_ptr,
    grad_slack_sums_ptr,  # of the units, or of the points
    grad_extrema_ptr,
    count,
    margin_bits,
    HAS_GRAD_SLACK_SUMS: tl.constexpr,
    HAS_GRAD_EXTREMA: tl.constexpr,
):
    """Add the gradients of the maximum and the minimum at this position, if the element is theirs."""
    min_position = count + position
    max_grad = tl.full(position.shape, 0, grad_x.dtype)
    min_grad = max_grad
    if HAS_GRAD_EXTREMA:
        max_grad = tl.load(grad_extrema_ptr + position, mask=valid, other=0.0)
        min_grad = tl.load(grad_extrema_ptr + min_position, mask=valid, other=0.0)
    if HAS_GRAD_SLACK_SUMS:
        maxima = tl.load(extrema_ptr + position, mask=valid, other=0.0)
        minima = tl.load(extrema_ptr + min_position, mask=valid, other=0.0)
        max_slack_grad, min_slack_grad = slack_gradients(maxima, minima, grad_slack_sums_ptr, margin_bits)
        max_grad += max_slack_grad
        min_grad += min_slack_grad
    max_index = tl.load(indices_ptr + position, mask=valid, other=-1)
    min_index = tl.load(indices_ptr + min_position, mask=valid, other=-1)
    grad_x += tl.where(max_index == index, max_grad, 0.0)
    return grad_x + tl.where(min_index == index, min_grad, 0.0)


@triton.jit
def line_position(
    line, segment, units, columns, rows_of_point, OF_UNITS: tl.constexpr, OF_COLUMNS: tl.constexpr
):
    """Where in a row of extrema and indices the unit or point of a column or row of the matrix stands."""
    if OF_UNITS and OF_COLUMNS:
        position = line
    elif OF_UNITS:
        position = line % units
    elif OF_COLUMNS:
        position = units + segment * columns + line
    else:
        position = units + line // rows_of_point
    return position


@triton.jit
def rewrite_elements(
    grad_output_ptr,  # [segments, rows, columns]
    mask_ptr,
    grad_slack_sums_ptr,
    grad_extrema_ptr,
    extrema_ptr,
    indices_ptr,
    grad_x_ptr,
    margin_bits,
    first_line,  # rows or columns of the program's part of the matrix, whose units or points are looked at
    last_line,
    first_row,  # of the program's part
    last_row,
    first_column,
    rows,
    columns,
    units,
    points,
    inner,
    rows_of_point,
    OF_UNITS: tl.constexpr,
    OF_COLUMNS: tl.constexpr,
    HAS_GRAD_OUTPUT: tl.constexpr,
    HAS_GRAD_SLACK_SUMS: tl.constexpr,
    HAS_GRAD_EXTREMA: tl.constexpr,
    POSITION_POINTS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Of each element in the program's part that holds an extremum of these, the whole gradient anew.

    An element may hold extrema of its unit and of its point: threads that meet in it write the same bits.
    """
    count = units.to(tl.int64) + points
    segment = first_row // rows
    if CHANNELS_LAST:
        first_index = segment * rows * columns
        last_index = first_index + rows.to(tl.int64) * columns
    else:
        first_index = first_row * columns
        last_index = last_row * columns
    for start in range(first_line, last_line, BLOCK):
        line = start + tl.arange(0, BLOCK).to(tl.int64)
        position = line_position(line, segment, units, columns, rows_of_point, OF_UNITS, OF_COLUMNS)
        max_index = tl.load(indices_ptr + position, mask=line < last_line, other=-1)
        min_index = tl.load(indices_ptr + count + position, mask=line < last_line, other=-1)
        here = (max_index >= first_index) & (max_index < last_index)
        here = here | (min_index >= first_index) & (min_index < last_index)
        # As a rule there is none: most extrema have no slack, and those that have lie elsewhere.
        if tl.max(here.to(tl.int32), 0) > 0:
            for chunk in range(start, tl.minimum(start + BLOCK, last_line), CHUNK):
                part = chunk + tl.arange(0, 2 * CHUNK).to(tl.int64) % CHUNK  # maxima, then minima
                side = tl.arange(0, 2 * CHUNK) // CHUNK
                place = line_position(part, segment, units, columns, rows_of_point, OF_UNITS, OF_COLUMNS)
                index = tl.load(indices_ptr + side * count + place, mask=part < last_line, other=-1)
                found = (index >= first_index) & (index < last_index)
                index = tl.where(found, index, first_index)
                plane = index // inner  # [before, units, inner] in logical order
                before = plane // units
                unit = plane - before * units
                behind = index - plane * inner
                offset = index
                if CHANNELS_LAST:
                    offset = (before * inner + behind) * units + unit
                row = offset // columns
                column = offset - row * columns
                point = before * inner + behind if POSITION_POINTS else row // rows_of_point
                found = found & (row >= first_row) & (row < last_row)
                found = found & (column >= first_column) & (column < first_column + COLUMNS)

                grad_x = tl.full(index.shape, 0, extrema_ptr.dtype.element_ty)
                if HAS_GRAD_OUTPUT:
                    mask_offset = row * ((columns + 7) // 8) + column // 8
                    mask = tl.load(mask_ptr + mask_offset, mask=found, other=0).to(tl.int64)
                    grad_output = tl.load(grad_output_ptr + offset, mask=found, other=0).to(grad_x.dtype)
                    grad_x = tl.where(((mask >> (column % 8)) & 1) != 0, grad_output, 0.0)
                grad_x = add_extrema(
                    grad_x, index, unit, found, extrema_ptr, indices_ptr, grad_slack_sums_ptr,
                    grad_extrema_ptr, count, margin_bits, HAS_GRAD_SLACK_SUMS, HAS_GRAD_EXTREMA,
                )  # fmt: skip
                grad_x = add_extrema(
                    grad_x, index, units + point, found, extrema_ptr, indices_ptr, grad_slack_sums_ptr + SUMS,
                    grad_extrema_ptr, count, margin_bits, HAS_GRAD_SLACK_SUMS, HAS_GRAD_EXTREMA,
                )  # fmt: skip
                tl.store(grad_x_ptr + offset, grad_x.to(grad_x_ptr.dtype.element_ty), mask=found)


@triton.jit(
    do_not_specialize=[
        "rows", "columns", "regions", "tiles", "steps", "units", "points", "inner", "rows_of_point",
        "margin_bits",
    ],
    do_not_specialize_on_alignment=[
        "mask_ptr", "grad_slack_sums_ptr", "grad_extrema_ptr", "extrema_ptr", "indices_ptr",
    ],
)  # fmt: skip
def jumpstart_relu_backward_kernel(
    grad_output_ptr,  # [segments, rows, columns]
    mask_ptr,  # [segments * rows, ceil(columns / 8)]
    grad_slack_sums_ptr,  # [2, 5]
    grad_extrema_ptr,  # [2, units + points]
    extrema_ptr,  # [2, units + points]
    indices_ptr,  # [2, units + points]
    grad_x_ptr,  # [segments, rows, columns]
    margin_bits: tl.int64,
    rows,
    columns,
    regions,  # of a segment
    tiles,  # of the columns
    steps,  # of a region
    units,
    points,
    inner,  # positions behind the unit dimension, in logical order
    rows_of_point,
    HAS_GRAD_OUTPUT: tl.constexpr,
    HAS_GRAD_SLACK_SUMS: tl.constexpr,
    HAS_GRAD_EXTREMA: tl.constexpr,
    POSITION_POINTS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    UNITS_FASTEST: tl.constexpr,
    offset_dtype: tl.constexpr,
    DEPTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr,
    BLOCK: tl.constexpr,  # rows or columns that are looked at at once
    CHUNK: tl.constexpr,  # and rewritten
):
    """A program takes a region, some rows of a segment, of as many columns as a warp loads at once.

    Then it rewrites those of its elements that hold extrema.
    """
    program = program_index()
    tile, region = (program % tiles).to(offset_dtype), program // tiles
    segment = region // regions
    first_row = region % regions * steps * (DEPTH * ROWS)
    last_row = tl.minimum(first_row + steps * (DEPTH * ROWS), rows)
    vectors = columns // VECTOR  # of a row
    mask_bytes = (columns + 7) // 8
    slots_of_row: tl.constexpr = COLUMNS // VECTOR
    slots_of_byte: tl.constexpr = 8 // VECTOR
    slot = tl.arange(0, DEPTH * ROWS * slots_of_row)
    vector = tl.minimum(tile * slots_of_row + slot % slots_of_row, vectors - 1)
    bit = (vector % slots_of_byte)[:, None] * VECTOR + tl.arange(0, VECTOR)[None, :]
    for step in range(tl.cdiv(last_row - first_row, DEPTH * ROWS).to(tl.int32)):
        start = first_row + step * (DEPTH * ROWS)
        last = (tl.minimum(last_row - start, DEPTH * ROWS) - 1).to(tl.int32)
        start += segment * rows
        base = row_start(start, columns, VECTOR)
        row = tl.minimum(slot // slots_of_row, last).to(offset_dtype)
        offset = slot_offsets(row, vector, vectors, VECTOR)
        if HAS_GRAD_OUTPUT:
            grad_output = tl.load(grad_output_ptr + base + offset)  # [SLOTS, VECTOR]
            byte = start * mask_bytes + (row * mask_bytes + vector // slots_of_byte)
            mask = tl.load(mask_ptr + byte).to(tl.int32)[:, None]
            grad_x = tl.where(((mask >> bit) & 1) != 0, grad_output, 0)
        else:
            grad_x = tl.full(offset.shape, 0, grad_x_ptr.dtype.element_ty)
        tl.store(grad_x_ptr + base + offset, grad_x)

    if HAS_GRAD_SLACK_SUMS or HAS_GRAD_EXTREMA:
        tl.debug_barrier()  # what other threads stored of this part lies in memory
        first_row += segment * rows
        last_row += segment * rows
        first_column = tile * COLUMNS
        last_column = tl.minimum(first_column + COLUMNS, columns)
        first_line, last_line = first_row, last_row
        if UNITS_FASTEST:
            first_line, last_line = first_column.to(tl.int64), last_column.to(tl.int64)
        rewrite_elements(
            grad_output_ptr, mask_ptr, grad_slack_sums_ptr, grad_extrema_ptr, extrema_ptr, indices_ptr,
            grad_x_ptr, margin_bits, first_line, last_line, first_row, last_row, first_column, rows, columns,
            units, points, inner, rows_of_point, True, UNITS_FASTEST, HAS_GRAD_OUTPUT, HAS_GRAD_SLACK_SUMS,
            HAS_GRAD_EXTREMA, POSITION_POINTS, CHANNELS_LAST, COLUMNS, BLOCK, CHUNK,
        )  # fmt: skip
        first_line, last_line = first_row, last_row
        if POSITION_POINTS and not UNITS_FASTEST:
            first_line, last_line = first_column.to(tl.int64), last_column.to(tl.int64)
        elif UNITS_FASTEST and not POSITION_POINTS:  # all rows are of one point, the segment
            last_line = first_row + 1
        rewrite_elements(
            grad_output_ptr, mask_ptr, grad_slack_sums_ptr, grad_extrema_ptr, extrema_ptr, indices_ptr,
            grad_x_ptr, margin_bits, first_line, last_line, first_row, last_row, first_column, rows, columns,
            units, points, inner, rows_of_point, False, POSITION_POINTS and not UNITS_FASTEST,
            HAS_GRAD_OUTPUT, HAS_GRAD_SLACK_SUMS, HAS_GRAD_EXTREMA, POSITION_POINTS, CHANNELS_LAST, COLUMNS,
            BLOCK, CHUNK,
        )  # fmt: skip
