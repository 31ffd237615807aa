"""The gradients of extrema, added in a backward to those of the elements that hold them."""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from jumpstart_kernels.ops.arguments import Gradients
from jumpstart_kernels.ops.triton.activations import activation_gradient
from jumpstart_kernels.ops.triton.bias import add_to_sums
from jumpstart_kernels.ops.triton.extrema import ExtremaPointers, extrema_gradients
from jumpstart_kernels.ops.triton.floats import round_to
from jumpstart_kernels.ops.triton.linked_activations import is_linked
from jumpstart_kernels.ops.triton.linked_tiles import LinkedPointers, linked_element_gradients
from jumpstart_kernels.ops.triton.tiles import unpack_bits

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
    linked: LinkedPointers,  # None but for a linked activation
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
                if gradients.output is not None and is_linked(ACTIVATION):
                    grad_x = linked_element_gradients(
                        gradients.output,
                        mask_ptr,
                        linked,
                        offset,
                        row=row,
                        column=column,
                        unit=unit,
                        valid=found,
                        columns=columns,
                        units=units,
                        UNITS_FASTEST=UNITS_FASTEST,
                        ACTIVATION=ACTIVATION,
                    )
                elif gradients.output is not None:
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
