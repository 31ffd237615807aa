"""The forward where units are fastest in memory: 2-D, channels_last, units last."""

import triton
import triton.language as tl

from jumpstart_kernels.kernels.triton.keys import (
    first_largest,
    is_positive,
    largest_key,
    merge_keys,
    open_keys,
    order_keys,
    pack_bits,
    program_index,
    reduce_keys,
)


@triton.jit(
    do_not_specialize=[
        "rows", "units", "row_stride", "unit_stride", "regions", "tiles", "steps", "unit_partials",
        "partials",
    ]
)  # fmt: skip
def jumpstart_relu_forward_rows_kernel(
    x_ptr,  # [segments, rows, units]
    output_ptr,  # like x
    mask_ptr,  # [segments * rows, ceil(units / 8)]
    keys_ptr,  # [2, partials]: of the units [segments * regions, units], behind them of the points
    places_ptr,  # [2, partials]
    counter_ptr,  # [1], set to zero for the kernel that follows
    rows,
    units,
    row_stride,  # of a row, and of a unit, in the logical order of a segment
    unit_stride,
    regions,  # of a segment
    tiles,  # of the units
    steps,  # of a region
    unit_partials,
    partials,
    APPLY_RELU: tl.constexpr,
    ROW_POINTS: tl.constexpr,  # points are rows, [tiles, segments * rows]; else [tiles, segments * regions]
    ALIGNMENT: tl.constexpr,  # a power of two that divides units
    EVEN: tl.constexpr,  # COLUMNS divides units
    DEPTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A program takes a region, some rows of a segment, of as many units as a warp loads at once.

    Tiles are ``[DEPTH, ROWS * COLUMNS]``: ROWS rows lie side by side in the block's threads, those of another
    depth lie in the same threads. A place in the region is ``(step * DEPTH + depth) * COLUMNS + column``.
    """
    dtype: tl.constexpr = x_ptr.dtype.element_ty
    program = program_index()
    if program == 0:
        tl.store(counter_ptr, 0)
    tile, region = program % tiles, program // tiles
    segment = region // regions
    first_row = region % regions * steps * (DEPTH * ROWS)
    units = units.to(tl.int64) // ALIGNMENT * ALIGNMENT  # tells the compiler how rows are aligned
    mask_bytes = (units + 7) // 8
    point_partials = unit_partials + (partials - unit_partials) // tiles * tile

    depth = tl.arange(0, DEPTH)[:, None]
    slot = tl.arange(0, ROWS * COLUMNS)
    column = (slot % COLUMNS)[None, :]
    inside = tile * COLUMNS + column < units
    row_in_step = depth * ROWS + (slot // COLUMNS)[None, :]  # [DEPTH, ROWS * COLUMNS]
    byte_slot = tl.arange(0, ROWS * COLUMNS // 8)
    byte = (tile * (COLUMNS // 8) + byte_slot % (COLUMNS // 8))[None, :]
    byte_row_in_step = depth * ROWS + (byte_slot // (COLUMNS // 8))[None, :]

    least = -largest_key(dtype)
    max_key = tl.zeros([ROWS * COLUMNS], least.dtype) + least
    min_key = max_key
    max_place = tl.zeros([ROWS * COLUMNS], tl.int32)
    min_place = max_place
    steps_left = tl.cdiv(rows - first_row, DEPTH * ROWS)
    for step in range(tl.minimum(steps, steps_left).to(tl.int32)):
        start = first_row + step * (DEPTH * ROWS)
        row = start + row_in_step
        # Beyond the end the last row comes again: it changes no extremum and no first place.
        offset = (segment * rows + tl.minimum(row, rows - 1)) * units + tile * COLUMNS + column
        x = tl.load(x_ptr + offset, mask=inside, other=0)
        place = (step * DEPTH + depth) * COLUMNS + column
        high, low = order_keys(x, place)
        if APPLY_RELU:
            positive = is_positive(high, dtype)
            tl.store(output_ptr + offset, tl.where(positive, x, 0), mask=inside & (row < rows))
            byte_row = start + byte_row_in_step
            mask_offset = (segment * rows + byte_row) * mask_bytes + byte
            valid_byte = (byte < mask_bytes) & (byte_row < rows)
            tl.store(mask_ptr + mask_offset, pack_bits(positive, DEPTH, ROWS * COLUMNS), mask=valid_byte)
        if not EVEN:
            high = tl.where(inside, high, least)
            low = tl.where(inside, low, least)

        key, at = reduce_keys(high, place, 0, dtype)  # [ROWS * COLUMNS]
        max_key, max_place = merge_keys(max_key, max_place, key, at, dtype)
        key, at = reduce_keys(low, place, 0, dtype)
        min_key, min_place = merge_keys(min_key, min_place, key, at, dtype)
        if ROW_POINTS:
            point = start + depth * ROWS + tl.arange(0, ROWS)[None, :]  # [DEPTH, ROWS]
            partial = point_partials + segment * rows + point
            high = tl.reshape(high, [DEPTH, ROWS, COLUMNS])
            low = tl.reshape(low, [DEPTH, ROWS, COLUMNS])
            place = tl.arange(0, COLUMNS)[None, None, :]
            key, at = reduce_keys(high, place, 2, dtype)
            key, at = open_keys(key, at, dtype)
            tl.store(keys_ptr + partial, key, mask=point < rows)
            tl.store(places_ptr + partial, tile * COLUMNS + at % COLUMNS, mask=point < rows)
            key, at = reduce_keys(low, place, 2, dtype)
            key, at = open_keys(key, at, dtype)
            tl.store(keys_ptr + partials + partial, key, mask=point < rows)
            tl.store(places_ptr + partials + partial, tile * COLUMNS + at % COLUMNS, mask=point < rows)

    max_key, max_place = open_keys(max_key, max_place, dtype)
    min_key, min_place = open_keys(min_key, min_place, dtype)
    max_row = max_place // COLUMNS * ROWS + slot // COLUMNS  # in the region
    min_row = min_place // COLUMNS * ROWS + slot // COLUMNS
    shape: tl.constexpr = [ROWS, COLUMNS]
    max_key, max_row = first_largest(tl.reshape(max_key, shape), tl.reshape(max_row, shape), 0)  # [COLUMNS]
    min_key, min_row = first_largest(tl.reshape(min_key, shape), tl.reshape(min_row, shape), 0)
    max_row = first_row + max_row
    min_row = first_row + min_row
    unit = tile * COLUMNS + tl.arange(0, COLUMNS)
    partial = region * units + unit
    tl.store(keys_ptr + partial, max_key, mask=unit < units)
    tl.store(places_ptr + partial, segment * rows + max_row, mask=unit < units)
    tl.store(keys_ptr + partials + partial, min_key, mask=unit < units)
    tl.store(places_ptr + partials + partial, segment * rows + min_row, mask=unit < units)
    if not ROW_POINTS:  # a point's extremum is that of its units, at the first place that one of them has
        partial = point_partials + region
        key, at = first_largest(max_key, max_row * row_stride + unit * unit_stride, 0)
        tl.store(keys_ptr + partial, key)
        tl.store(places_ptr + partial, at)
        key, at = first_largest(min_key, min_row * row_stride + unit * unit_stride, 0)
        tl.store(keys_ptr + partials + partial, key)
        tl.store(places_ptr + partials + partial, at)
