"""The forward where extrema run down the columns of the matrix.

Columns are units where these are fastest in memory (2-D, channels_last, units last), and points where these
are the positions of planes.
"""

import triton
import triton.language as tl

from jumpstart_kernels.kernels.triton.keys import largest_key, order_keys, statistics_values
from jumpstart_kernels.kernels.triton.tiles import (
    program_index,
    row_start,
    share,
    slot_coordinates,
    store_relu,
    tile_offsets,
)


@triton.jit(do_not_specialize=["rows", "columns", "regions", "tiles", "steps", "row_partials", "partials"])
def jumpstart_relu_forward_rows_kernel(
    x_ptr,  # [segments, rows, columns]
    output_ptr,  # like x
    mask_ptr,  # [segments * rows, ceil(columns / 8)]
    workspace_ptr,  # a counter and [2, partials] keys: of columns [segments * regions, columns], then of rows
    rows,
    columns,
    regions,  # of a segment
    tiles,  # of the columns
    steps,  # of a region
    row_partials,  # where those of rows start, [segments * rows, tiles]
    partials,
    APPLY_RELU: tl.constexpr,
    ROW_EXTREMA: tl.constexpr,
    WHOLE_BYTES: tl.constexpr,  # columns are a multiple of 8
    offset_dtype: tl.constexpr,
    DEPTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    VECTOR: tl.constexpr,
):
    """A program takes a region, some rows of a segment, of as many columns as a warp loads at once."""
    program = program_index()
    keys_ptr = workspace_ptr + 1
    if program == 0:
        tl.store(workspace_ptr, 0)  # the counter of the kernel that follows
    tile, region = (program % tiles).to(tl.int32), program // tiles
    segment = region // regions
    first_row = region % regions * steps * (DEPTH * ROWS)
    slot_row, slot_byte, slot_in_byte = slot_coordinates(ROWS, COLUMNS, VECTOR)
    byte = tl.minimum(tile * (COLUMNS // 8) + slot_byte, (columns + 7) // 8 - 1)[None, :]
    row_in_step = tl.arange(0, DEPTH)[:, None] * ROWS + slot_row[None, :]  # [DEPTH, SLOTS]

    key_dtype: tl.constexpr = workspace_ptr.dtype.element_ty
    slots: tl.constexpr = ROWS * COLUMNS // VECTOR
    min_keys = tl.full([slots, VECTOR], 0, key_dtype) + largest_key(key_dtype)
    max_keys = -1 - min_keys
    steps_left = tl.cdiv(rows - first_row, DEPTH * ROWS)
    for step in range(tl.minimum(steps, steps_left).to(tl.int32)):
        start = first_row + step * (DEPTH * ROWS)
        row = tl.minimum(row_in_step, (tl.minimum(rows - start, DEPTH * ROWS) - 1).to(tl.int32))
        start += segment * rows
        base = row_start(start, columns, VECTOR)
        offset, byte_offset = tile_offsets(
            row, byte, slot_in_byte, columns, VECTOR, WHOLE_BYTES, offset_dtype
        )
        x = tl.load(x_ptr + base + offset)
        values = statistics_values(x)
        if APPLY_RELU:
            store_relu(
                output_ptr + base, mask_ptr + start * ((columns + 7) // 8), x, values, offset, byte_offset,
                byte, slot_in_byte, columns, VECTOR, WHOLE_BYTES,
            )  # fmt: skip
        keys = order_keys(values)
        max_keys = tl.maximum(max_keys, tl.max(keys, 0))
        min_keys = tl.minimum(min_keys, tl.min(keys, 0))
        if ROW_EXTREMA:
            partial = keys_ptr + row_partials + start * tiles + tile
            # Stored by the thread of a row's first slot. Were it not for addresses that grow along the slots,
            # extrema would change threads through shared memory, and all warps wait for each other.
            slot_in_row = (tl.arange(0, slots) % (COLUMNS // VECTOR))[None, :]
            partial += row.to(tl.int64) * tiles + slot_in_row
            first_slot = slot_in_row == 0
            tl.store(partial, share(tl.max(keys, 2), "max", COLUMNS // VECTOR), mask=first_slot)
            tl.store(partial + partials, share(tl.min(keys, 2), "min", COLUMNS // VECTOR), mask=first_slot)

    column = tile * COLUMNS + tl.arange(0, COLUMNS)
    partial = keys_ptr + region * columns + column
    max_keys = tl.max(tl.reshape(max_keys, [ROWS, COLUMNS]), 0)
    min_keys = tl.min(tl.reshape(min_keys, [ROWS, COLUMNS]), 0)
    tl.store(partial, max_keys, mask=column < columns)
    tl.store(partial + partials, min_keys, mask=column < columns)
