"""The second kernel of the forward: extrema, indices and slack sums, from the partial extrema of the first.

The first kernel does not follow places. Those that are asked for, as a rule of the few extrema with slack,
are looked up here: by the keys of partials the part of x that holds an extremum, and in that part its place.
"""

import triton
import triton.language as tl

from jumpstart_kernels.kernels.triton.keys import (
    equal,
    holds_nan,
    key_values,
    largest_key,
    merge_zeros,
    statistics_values,
)
from jumpstart_kernels.kernels.triton.slack import SUMS, slacks, store_extrema, sum_slacks
from jumpstart_kernels.kernels.triton.tiles import program_index

NOWHERE: tl.constexpr = tl.constexpr(0x7FFFFFFFFFFFFFFF)
SUM_ROWS: tl.constexpr = tl.constexpr(8)  # SUMS, rounded up to a power of two


@triton.jit
def partial_offset(partial, item, items, groups, per_item):
    """Where in ``[groups, items, per_item]`` a partial of an item lies, counted in ``[groups, per_item]``."""
    if per_item == 1:
        offset = partial * items + item
    elif groups == 1:
        offset = item * per_item + partial
    else:
        group = partial // per_item
        offset = (group * items + item) * per_item + (partial - group * per_item)
    return offset


@triton.jit
def load_keys(keys_ptr, offset, partials, valid, largest):
    """Largest and smallest keys of partials; of those that are not valid, what changes none."""
    max_keys = merge_zeros(tl.load(keys_ptr + offset, mask=valid, other=0))
    min_keys = merge_zeros(tl.load(keys_ptr + partials + offset, mask=valid, other=0))
    return tl.where(valid, max_keys, -1 - largest), tl.where(valid, min_keys, largest)


@triton.jit
def part_of_x(
    offset,  # of a partial
    rows,
    columns,
    regions,
    region_rows,
    tiles,
    tile_columns,
    OF_COLUMNS: tl.constexpr,
):
    """The elements that a partial is of: where in x the first lies, how far the next, and how many."""
    if OF_COLUMNS:  # [segments * regions, columns]
        region, column = offset // columns, offset % columns
        segment = region // regions
        first_row = (region - segment * regions) * region_rows
        begin, stride = (segment * rows + first_row) * columns + column, columns
        length = tl.minimum(rows - first_row, region_rows)
    else:  # [segments * rows, tiles]
        row = offset // tiles
        column = (offset - row * tiles) * tile_columns
        begin, stride, length = row * columns + column, 1, tl.minimum(columns - column, tile_columns)
    return begin, stride, length


@triton.jit
def search(x_ptr, begin, stride, length, extremum, nan, SEARCH: tl.constexpr):
    """Where in its part of x each extremum first stands, ``[ITEMS]``; parts of length 0 are not read."""
    first = tl.full(begin.shape, NOWHERE, tl.int64)
    start = 0
    while start < tl.max(tl.where(first == NOWHERE, length, 0), 0):
        at = start + tl.arange(0, SEARCH).to(tl.int64)[:, None]
        valid = at < tl.where(first == NOWHERE, length, 0)[None, :]
        x = tl.load(x_ptr + begin[None, :] + at * stride, mask=valid, other=0)
        found = valid & equal(statistics_values(x), extremum[None, :], nan[None, :])
        first = tl.minimum(first, tl.min(tl.where(found, at, NOWHERE), 0))
        start += SEARCH
    return begin + first * stride


@triton.jit
def logical_index(offset, rows, columns, CHANNELS_LAST: tl.constexpr):
    """From the place in memory to that in ``x.flatten()``."""
    index = offset
    if CHANNELS_LAST:
        row = offset // columns
        column = offset - row * columns
        segment = row // rows
        index = (segment * columns + column) * rows + (row - segment * rows)
    return index


@triton.jit
def axis_statistics(
    x_ptr,  # [segments, rows, columns]
    keys_ptr,  # [2, partials], from the first of this axis on
    partials,
    extrema_ptr,  # [2, count], from the first of this axis on
    indices_ptr,
    item,  # [ITEMS], units or points
    items,
    count,
    groups,  # partials are [groups, items, per_item]
    per_item,
    rows,
    columns,
    regions,
    region_rows,
    tiles,
    tile_columns,
    margin_bits,
    OF_COLUMNS: tl.constexpr,  # partials are those of columns, not of rows
    COLUMN_ORDER: tl.constexpr,  # partials of an item are [regions, columns], in order by column first
    CHANNELS_LAST: tl.constexpr,
    ALL_INDICES: tl.constexpr,
    PARTIALS: tl.constexpr,
    SEARCH: tl.constexpr,
):
    """Store the extrema and indices of some units or points; return the sums of their slack."""
    item_count: tl.constexpr = item.shape[0]
    valid_item = item < items
    total = groups.to(tl.int64) * per_item
    key_dtype: tl.constexpr = keys_ptr.dtype.element_ty
    largest = largest_key(key_dtype)
    min_keys = tl.full([PARTIALS, item_count], 0, key_dtype) + largest
    max_keys = -1 - min_keys
    for start in range(0, total, PARTIALS):
        partial = start + tl.arange(0, PARTIALS).to(tl.int64)[:, None]
        offset = partial_offset(partial, item[None, :], items, groups, per_item)
        valid = (partial < total) & valid_item[None, :]
        max_key, min_key = load_keys(keys_ptr, offset, partials, valid, largest)
        max_keys, min_keys = tl.maximum(max_keys, max_key), tl.minimum(min_keys, min_key)
    max_keys, min_keys = tl.max(max_keys, 0), tl.min(min_keys, 0)
    nan = holds_nan(max_keys, min_keys)
    maxima = tl.where(nan, float("nan"), key_values(max_keys))
    minima = tl.where(nan, float("nan"), key_values(min_keys))
    positive, negative = slacks(maxima, minima, margin_bits)
    positive, negative = tl.where(valid_item, positive, 0.0), tl.where(valid_item, negative, 0.0)

    find_max, find_min = positive != 0, negative != 0
    if ALL_INDICES:
        find_max, find_min = valid_item, valid_item
    max_index = tl.full([item_count], -1, tl.int64)
    min_index = max_index
    if tl.max((find_max | find_min).to(tl.int32), 0) > 0:
        first_max = tl.full([PARTIALS, item_count], NOWHERE, tl.int64)
        first_min = first_max
        for start in range(0, total, PARTIALS):
            partial = start + tl.arange(0, PARTIALS).to(tl.int64)[:, None]
            offset = partial_offset(partial, item[None, :], items, groups, per_item)
            valid = (partial < total) & valid_item[None, :]
            max_key, min_key = load_keys(keys_ptr, offset, partials, valid, largest)
            if COLUMN_ORDER:
                partial = partial % columns * regions + partial // columns
            of_nan = holds_nan(max_key, min_key) & nan[None, :]
            held = valid & ((max_key == max_keys[None, :]) & ~nan[None, :] | of_nan)
            first_max = tl.minimum(first_max, tl.where(held, partial, NOWHERE))
            held = valid & ((min_key == min_keys[None, :]) & ~nan[None, :] | of_nan)
            first_min = tl.minimum(first_min, tl.where(held, partial, NOWHERE))
        for i in tl.static_range(2):
            find, extremum, first = find_max, maxima, first_max
            if i == 1:
                find, extremum, first = find_min, minima, first_min
            first = tl.where(find, tl.min(first, 0), 0)
            if COLUMN_ORDER:
                first = first % regions * columns + first // regions
            offset = tl.where(find, partial_offset(first, item, items, groups, per_item), 0)
            begin, stride, length = part_of_x(
                offset, rows, columns, regions, region_rows, tiles, tile_columns, OF_COLUMNS
            )
            length = tl.where(find, length, 0)
            place = search(x_ptr, begin, stride, length, extremum, nan, SEARCH)
            index = tl.where(find, logical_index(place, rows, columns, CHANNELS_LAST), -1)
            if i == 0:
                max_index = index
            else:
                min_index = index
    store_extrema(extrema_ptr, indices_ptr, item, count, maxima, minima, max_index, min_index, valid_item)
    return sum_slacks(positive, negative)


@triton.jit
def add_programs(sums_ptr, slack_sums_ptr, start, end, programs, BLOCK: tl.constexpr):
    """The slack sums of programs start to end, in an order that nothing but their number decides."""
    row = tl.arange(0, SUM_ROWS)
    total = tl.full([SUM_ROWS, BLOCK], 0, slack_sums_ptr.dtype.element_ty)
    for first in range(start, end, BLOCK):
        program = first + tl.arange(0, BLOCK)
        valid = (row < SUMS)[:, None] & (program < end)[None, :]
        offset = row[:, None].to(tl.int64) * programs + program[None, :]
        # Past the L1 cache, which does not see what other programs wrote.
        sums = tl.load(sums_ptr + offset, mask=valid, other=0, cache_modifier=".cg")
        total += sums.to(total.dtype, bitcast=True)
    tl.store(slack_sums_ptr + row, tl.sum(total, 1), mask=row < SUMS)


@triton.jit(
    do_not_specialize=[
        "partials", "units", "unit_start", "unit_groups", "unit_partials", "points", "point_start",
        "point_groups", "point_partials", "unit_programs", "rows", "columns", "regions", "region_rows",
        "tiles", "tile_columns", "margin_bits",
    ]
)  # fmt: skip
def jumpstart_relu_statistics_forward_kernel(
    x_ptr,  # [segments, rows, columns]
    workspace_ptr,  # a counter that is zero, keys [2, partials], sums [5, programs] as integers of their bits
    extrema_ptr,  # [2, units + points]
    indices_ptr,  # [2, units + points]
    slack_sums_ptr,  # [2, 5]
    margin_bits: tl.int64,
    partials,
    units,
    unit_start,  # partials of the units: [unit_groups, units, unit_partials], from here
    unit_groups,
    unit_partials,
    points,
    point_start,  # partials of the points: [point_groups, points, point_partials], from here
    point_groups,
    point_partials,
    unit_programs,  # the first programs do units, the others points
    rows,
    columns,
    regions,  # of a segment, of which partials of columns are
    region_rows,
    tiles,  # of the columns, of which partials of rows are
    tile_columns,
    UNITS_OF_COLUMNS: tl.constexpr,
    POINTS_OF_COLUMNS: tl.constexpr,
    COLUMN_ORDER: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    ALL_INDICES: tl.constexpr,
    UNIT_PARTIALS: tl.constexpr,
    UNIT_ITEMS: tl.constexpr,
    POINT_PARTIALS: tl.constexpr,
    POINT_ITEMS: tl.constexpr,
    ELEMENTS: tl.constexpr,  # of x, that a program looks through at once
):
    program = program_index()
    keys_ptr = workspace_ptr + 1
    sums_ptr = keys_ptr + 2 * partials.to(tl.int64)
    key_dtype: tl.constexpr = workspace_ptr.dtype.element_ty
    count = units.to(tl.int64) + points
    if program < unit_programs:
        unit = program * UNIT_ITEMS + tl.arange(0, UNIT_ITEMS)
        sums = axis_statistics(
            x_ptr, keys_ptr + unit_start, partials, extrema_ptr, indices_ptr, unit, units, count, unit_groups,
            unit_partials, rows, columns, regions, region_rows, tiles, tile_columns, margin_bits,
            UNITS_OF_COLUMNS, False, CHANNELS_LAST, ALL_INDICES, UNIT_PARTIALS, ELEMENTS // UNIT_ITEMS,
        )  # fmt: skip
    else:
        point = (program - unit_programs) * POINT_ITEMS + tl.arange(0, POINT_ITEMS)
        sums = axis_statistics(
            x_ptr, keys_ptr + point_start, partials, extrema_ptr + units, indices_ptr + units, point, points,
            count, point_groups, point_partials, rows, columns, regions, region_rows, tiles, tile_columns,
            margin_bits, POINTS_OF_COLUMNS, COLUMN_ORDER, CHANNELS_LAST, ALL_INDICES, POINT_PARTIALS,
            ELEMENTS // POINT_ITEMS,
        )  # fmt: skip
    programs = tl.num_programs(0)
    for i in tl.static_range(SUMS):
        tl.store(sums_ptr + i * programs.to(tl.int64) + program, sums[i].to(key_dtype, bitcast=True))

    # The program that comes last adds up: all others have stored their sums before they counted.
    tl.debug_barrier()
    if tl.atomic_add(workspace_ptr, 1, sem="acq_rel") == programs - 1:
        add_programs(sums_ptr, slack_sums_ptr, 0, unit_programs, programs, ELEMENTS // SUM_ROWS)
        add_programs(sums_ptr, slack_sums_ptr + SUMS, unit_programs, programs, programs, ELEMENTS // SUM_ROWS)
