"""The second kernel of the forward: extrema, indices and slack sums, from the partial extrema of the first.

The first kernel does not follow places. Those that are asked for, as a rule of the few extrema with slack,
are looked up here: by the keys of partials the part of x that holds an extremum, and in that part its place.
"""

import triton
import triton.language as tl

from jumpstart_kernels.ops.triton.extrema import Extrema, ExtremaPointers, store_extrema
from jumpstart_kernels.ops.triton.keys import holds_nan, key_values, largest_key
from jumpstart_kernels.ops.triton.partials import (
    NOWHERE,
    Matrix,
    Partials,
    load_keys,
    logical_index,
    part_of_x,
    partial_offset,
    search,
)
from jumpstart_kernels.ops.triton.slack import SUM_ROWS, SUMS, limit, slacks, sum_slacks
from jumpstart_kernels.ops.triton.tiles import program_index


@triton.jit
def axis_statistics(
    x_ptr,  # [segments, rows, columns]
    bias_ptr,  # [units], or None
    matrix: Matrix,
    partials: Partials,
    pointers: ExtremaPointers,  # to the first of this axis
    item,  # [ITEMS], units or points
    margin_bits,
    OF_COLUMNS: tl.constexpr,  # partials are those of columns, not of rows
    UNITS_FASTEST: tl.constexpr,  # columns are units
    COLUMN_ORDER: tl.constexpr,  # partials of an item are [regions, columns], in order by column first
    CHANNELS_LAST: tl.constexpr,
    EXTREMA_KIND: tl.constexpr,
    PARTIALS: tl.constexpr,
    SEARCH: tl.constexpr,
):
    """Store the extrema and indices of some units or points; return the sums of their slack."""
    item_count: tl.constexpr = item.shape[0]
    valid_item = item < partials.items
    total = partials.groups.to(tl.int64) * partials.per_item
    key_dtype: tl.constexpr = partials.keys.dtype.element_ty
    largest = largest_key(key_dtype)
    min_keys = tl.full([PARTIALS, item_count], 0, key_dtype) + largest
    max_keys = -1 - min_keys
    for start in range(0, total, PARTIALS):
        partial = start + tl.arange(0, PARTIALS).to(tl.int64)[:, None]
        offset = partial_offset(partial, item[None, :], partials)
        valid = (partial < total) & valid_item[None, :]
        max_key, min_key = load_keys(partials, offset, valid, largest)
        max_keys, min_keys = tl.maximum(max_keys, max_key), tl.minimum(min_keys, min_key)
    max_keys, min_keys = tl.max(max_keys, 0), tl.min(min_keys, 0)
    nan = holds_nan(max_keys, min_keys)
    maxima = tl.where(nan, float("nan"), key_values(max_keys))
    minima = tl.where(nan, float("nan"), key_values(min_keys))
    positive, negative = slacks(maxima, minima, margin_bits)
    positive, negative = tl.where(valid_item, positive, 0.0), tl.where(valid_item, negative, 0.0)

    find_max, find_min = positive != 0, negative != 0
    if EXTREMA_KIND == "indexed":
        find_max, find_min = valid_item, valid_item
    max_index = tl.full([item_count], -1, tl.int64)
    min_index = max_index
    if tl.max((find_max | find_min).to(tl.int32), 0) > 0:
        first_max = tl.full([PARTIALS, item_count], NOWHERE, tl.int64)
        first_min = first_max
        for start in range(0, total, PARTIALS):
            partial = start + tl.arange(0, PARTIALS).to(tl.int64)[:, None]
            offset = partial_offset(partial, item[None, :], partials)
            valid = (partial < total) & valid_item[None, :]
            max_key, min_key = load_keys(partials, offset, valid, largest)
            if COLUMN_ORDER:
                partial = partial % matrix.columns * matrix.regions + partial // matrix.columns
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
                first = first % matrix.regions * matrix.columns + first // matrix.regions
            offset = tl.where(find, partial_offset(first, item, partials), 0)
            begin, stride, length, unit = part_of_x(offset, matrix, OF_COLUMNS, UNITS_FASTEST)
            place = search(
                x_ptr,
                bias_ptr,
                begin,
                stride,
                length=tl.where(find, length, 0),
                unit=unit,
                extremum=extremum,
                nan=nan,
                UNIT_STRIDE=1 if OF_COLUMNS != UNITS_FASTEST else 0,
                SEARCH=SEARCH,
            )
            index = tl.where(find, logical_index(place, matrix, CHANNELS_LAST), -1)
            if i == 0:
                max_index = index
            else:
                min_index = index
    if EXTREMA_KIND == "limited":
        maxima, minima = limit(maxima, minima, positive, negative, margin_bits)
    extrema = Extrema(maxima=maxima, minima=minima, max_index=max_index, min_index=min_index)
    store_extrema(pointers, item, extrema, valid_item)
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
        "margin_bits", "partials", "units", "unit_start", "unit_groups", "unit_partials", "points",
        "point_start", "point_groups", "point_partials", "unit_programs", "rows", "columns", "regions",
        "region_rows", "tiles", "tile_columns",
    ]
)  # fmt: skip
def jumpstart_activation_statistics_forward_kernel(
    x_ptr,  # [segments, rows, columns]
    bias_ptr,  # [units], or None
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
    regions,
    region_rows,
    tiles,
    tile_columns,
    UNITS_OF_COLUMNS: tl.constexpr,
    POINTS_OF_COLUMNS: tl.constexpr,
    COLUMN_ORDER: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    EXTREMA_KIND: tl.constexpr,
    UNIT_BLOCK: tl.constexpr,
    POINT_BLOCK: tl.constexpr,
    ELEMENTS: tl.constexpr,  # of x, that a program looks through at once
):
    program = program_index()
    keys_ptr = workspace_ptr + 1
    sums_ptr = keys_ptr + 2 * partials.to(tl.int64)
    key_dtype: tl.constexpr = workspace_ptr.dtype.element_ty
    count = units.to(tl.int64) + points
    matrix = Matrix(
        rows=rows,
        columns=columns,
        regions=regions,
        region_rows=region_rows,
        tiles=tiles,
        tile_columns=tile_columns,
        units=units,
    )
    if program < unit_programs:
        sums = axis_statistics(
            x_ptr,
            bias_ptr,
            matrix,
            Partials(
                keys=keys_ptr + unit_start,
                stride=partials,
                groups=unit_groups,
                items=units,
                per_item=unit_partials,
            ),
            ExtremaPointers(extrema=extrema_ptr, indices=indices_ptr, count=count),
            item=program * UNIT_BLOCK.items + tl.arange(0, UNIT_BLOCK.items),
            margin_bits=margin_bits,
            OF_COLUMNS=UNITS_OF_COLUMNS,
            UNITS_FASTEST=UNITS_OF_COLUMNS,
            COLUMN_ORDER=False,
            CHANNELS_LAST=CHANNELS_LAST,
            EXTREMA_KIND=EXTREMA_KIND,
            PARTIALS=UNIT_BLOCK.partials,
            SEARCH=ELEMENTS // UNIT_BLOCK.items,
        )
    else:
        sums = axis_statistics(
            x_ptr,
            bias_ptr,
            matrix,
            Partials(
                keys=keys_ptr + point_start,
                stride=partials,
                groups=point_groups,
                items=points,
                per_item=point_partials,
            ),
            ExtremaPointers(extrema=extrema_ptr + units, indices=indices_ptr + units, count=count),
            item=(program - unit_programs) * POINT_BLOCK.items + tl.arange(0, POINT_BLOCK.items),
            margin_bits=margin_bits,
            OF_COLUMNS=POINTS_OF_COLUMNS,
            UNITS_FASTEST=UNITS_OF_COLUMNS,
            COLUMN_ORDER=COLUMN_ORDER,
            CHANNELS_LAST=CHANNELS_LAST,
            EXTREMA_KIND=EXTREMA_KIND,
            PARTIALS=POINT_BLOCK.partials,
            SEARCH=ELEMENTS // POINT_BLOCK.items,
        )
    programs = tl.num_programs(0)
    for i in tl.static_range(SUMS):
        tl.store(sums_ptr + i * programs.to(tl.int64) + program, sums[i].to(key_dtype, bitcast=True))

    # The program that comes last adds up: all others have stored their sums before they counted.
    tl.debug_barrier()
    if tl.atomic_add(workspace_ptr, 1, sem="acq_rel") == programs - 1:
        add_programs(sums_ptr, slack_sums_ptr, 0, unit_programs, programs, ELEMENTS // SUM_ROWS)
        add_programs(sums_ptr, slack_sums_ptr + SUMS, unit_programs, programs, programs, ELEMENTS // SUM_ROWS)
