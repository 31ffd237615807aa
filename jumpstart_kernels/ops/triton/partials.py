"""Partial extrema, left by the first kernel of a forward for the second, and the parts of x they are of."""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from jumpstart_kernels.ops.triton.floats import add_bias, statistics_values
from jumpstart_kernels.ops.triton.keys import equal, merge_zeros

NOWHERE: tl.constexpr = tl.constexpr(0x7FFFFFFFFFFFFFFF)


class Partials(NamedTuple):
    """The partial extrema of units or of points, ``[groups, items, per_item]``."""

    keys: Any  # to the first of this axis, of [2, stride]: largest, then smallest
    stride: Any
    groups: Any
    items: Any
    per_item: Any


class Matrix(NamedTuple):
    """The activation ``[segments, rows, columns]``, and the parts of it that partials are of."""

    rows: Any
    columns: Any
    regions: Any  # of a segment, of which partials of columns are
    region_rows: Any
    tiles: Any  # of the columns, of which partials of rows are
    tile_columns: Any
    units: Any


@triton.jit
def partial_offset(partial, item, partials: Partials):
    """Where in ``[groups, items, per_item]`` a partial of an item lies, counted in ``[groups, per_item]``."""
    if partials.per_item == 1:
        offset = partial * partials.items + item
    elif partials.groups == 1:
        offset = item * partials.per_item + partial
    else:
        group = partial // partials.per_item
        offset = (group * partials.items + item) * partials.per_item + (partial - group * partials.per_item)
    return offset


@triton.jit
def load_keys(partials: Partials, offset, valid, largest):
    """Largest and smallest keys of partials; of those that are not valid, what changes none."""
    max_keys = merge_zeros(tl.load(partials.keys + offset, mask=valid, other=0))
    min_keys = merge_zeros(tl.load(partials.keys + partials.stride + offset, mask=valid, other=0))
    return tl.where(valid, max_keys, -1 - largest), tl.where(valid, min_keys, largest)


@triton.jit
def part_of_x(offset, matrix: Matrix, OF_COLUMNS: tl.constexpr, UNITS_FASTEST: tl.constexpr):
    """The elements that the partial at an offset is of.

    Where the first lies, how far the next, how many there are; and the unit of the first.
    """
    if OF_COLUMNS:  # [segments * regions, columns]
        region, column = offset // matrix.columns, offset % matrix.columns
        segment = region // matrix.regions
        first_row = (region - segment * matrix.regions) * matrix.region_rows
        begin, stride = (segment * matrix.rows + first_row) * matrix.columns + column, matrix.columns
        length = tl.minimum(matrix.rows - first_row, matrix.region_rows)
        unit = column if UNITS_FASTEST else first_row
    else:  # [segments * rows, tiles]
        row = offset // matrix.tiles
        column = (offset - row * matrix.tiles) * matrix.tile_columns
        begin, stride = row * matrix.columns + column, 1
        length = tl.minimum(matrix.columns - column, matrix.tile_columns)
        unit = column if UNITS_FASTEST else row % matrix.units
    return begin, stride, length, unit


@triton.jit
def search(
    x_ptr,
    bias_ptr,
    begin,
    stride,
    length,
    unit,
    extremum,
    nan,
    UNIT_STRIDE: tl.constexpr,  # units from an element to the next
    SEARCH: tl.constexpr,
):
    """Where in its part of x each extremum first stands, ``[ITEMS]``; parts of length 0 are not read."""
    first = tl.full(begin.shape, NOWHERE, tl.int64)
    start = 0
    while start < tl.max(tl.where(first == NOWHERE, length, 0), 0):
        at = start + tl.arange(0, SEARCH).to(tl.int64)[:, None]
        valid = at < tl.where(first == NOWHERE, length, 0)[None, :]
        x = tl.load(x_ptr + begin[None, :] + at * stride, mask=valid, other=0)
        if bias_ptr is not None:
            x = add_bias(x, tl.load(bias_ptr + unit[None, :] + at * UNIT_STRIDE, mask=valid, other=0))
        found = valid & equal(statistics_values(x), extremum[None, :], nan[None, :])
        first = tl.minimum(first, tl.min(tl.where(found, at, NOWHERE), 0))
        start += SEARCH
    return begin + first * stride


@triton.jit
def logical_index(offset, matrix: Matrix, CHANNELS_LAST: tl.constexpr):
    """From the place in memory to that in ``x.flatten()``."""
    index = offset
    if CHANNELS_LAST:
        row = offset // matrix.columns
        column = offset - row * matrix.columns
        segment = row // matrix.rows
        index = (segment * matrix.columns + column) * matrix.rows + (row - segment * matrix.rows)
    return index
