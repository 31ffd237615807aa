"""The forward where extrema run down the columns of the matrix.

Columns are units where these are fastest in memory (2-D, channels_last, units last), and points where these
are the positions of planes.
"""

import triton
import triton.language as tl

from jumpstart_kernels.ops.triton.floats import add_bias, statistics_values
from jumpstart_kernels.ops.triton.keys import largest_key, order_keys
from jumpstart_kernels.ops.triton.linked_activations import is_linked
from jumpstart_kernels.ops.triton.linked_tiles import (
    linked_mask_bytes,
    linked_place,
    load_column_slopes,
    load_row_slopes,
    store_linked,
)
from jumpstart_kernels.ops.triton.tiles import (
    program_index,
    row_start,
    share,
    slot_offsets,
    store_activation,
)


@triton.jit(
    do_not_specialize=[
        "parameter_bits", "rows", "columns", "regions", "tiles", "steps", "row_partials", "partials",
    ]
)  # fmt: skip
def jumpstart_activation_forward_rows_kernel(
    x_ptr,  # [segments, rows, columns]
    bias_ptr,  # [columns], or [rows] where columns are points; or None
    weight_ptr,  # the slopes of a linked activation, [2, columns] or [2, rows] likewise; or None
    output_ptr,  # like x; of a linked activation see linked_tiles.py, as of its mask
    mask_ptr,  # [segments * rows, ceil(columns / 8)]
    workspace_ptr,  # a counter and [2, partials] keys: of columns [segments * regions, columns], then of rows
    parameter_bits: tl.int64,
    rows,
    columns,
    regions,  # of a segment
    tiles,  # of the columns
    steps,  # of a region
    row_partials,  # where those of rows start, [segments * rows, tiles]
    partials,
    ACTIVATION: tl.constexpr,
    ROW_EXTREMA: tl.constexpr,
    UNITS_FASTEST: tl.constexpr,  # columns are units
    WHOLE_BYTES: tl.constexpr,  # columns are a multiple of 8
    offset_dtype: tl.constexpr,
    TILE: tl.constexpr,
):
    """A program takes a region, some rows of a segment, of as many columns as a warp loads at once."""
    program = program_index()
    keys_ptr = workspace_ptr + 1
    if program == 0:
        tl.store(workspace_ptr, 0)  # the counter of the kernel that follows
    tile, region = (program % tiles).to(offset_dtype), program // tiles
    segment = region // regions
    first_row = region % regions * steps * (TILE.depth * TILE.rows)
    vectors = columns // TILE.vector  # of a row
    slots_of_row: tl.constexpr = TILE.columns // TILE.vector
    slots: tl.constexpr = TILE.rows * slots_of_row  # of each depth
    slot = tl.arange(0, TILE.depth * slots)
    slot_in_row = slot % slots_of_row
    vector_unlimited = tile * slots_of_row + slot_in_row
    vector = tl.minimum(vector_unlimited, vectors - 1)

    key_dtype: tl.constexpr = workspace_ptr.dtype.element_ty
    min_keys = tl.full([slots, TILE.vector], 0, key_dtype) + largest_key(key_dtype)
    max_keys = -1 - min_keys
    if bias_ptr is not None and UNITS_FASTEST:  # the same down the rows
        bias_vector = tl.minimum(tile * slots_of_row + tl.arange(0, slots) % slots_of_row, vectors - 1)
        bias = tl.load(bias_ptr + slot_offsets(0, bias_vector, vectors, TILE.vector))  # [slots, VECTOR]
    slopes = None
    if weight_ptr is not None and UNITS_FASTEST:
        slopes = load_column_slopes(weight_ptr, tile, vectors, TILE)
    steps_left = tl.cdiv(rows - first_row, TILE.depth * TILE.rows)
    for step in range(tl.minimum(steps, steps_left).to(tl.int32)):
        start = first_row + step * (TILE.depth * TILE.rows)
        last = (tl.minimum(rows - start, TILE.depth * TILE.rows) - 1).to(tl.int32)
        row = tl.minimum(slot // slots_of_row, last).to(offset_dtype)
        if bias_ptr is not None and not UNITS_FASTEST:
            row_bias = tl.load(bias_ptr + start + row)  # [SLOTS]
        if is_linked(ACTIVATION):
            place = linked_place(start, segment, row, vector, rows, vectors, UNITS_FASTEST, TILE.vector)
            of_tile = slopes  # another name: Triton does not let None become a tensor from step to step
            if weight_ptr is not None and not UNITS_FASTEST:
                of_tile = load_row_slopes(weight_ptr, start + row, rows)
        start += segment * rows
        base = row_start(start, columns, TILE.vector)
        offset = slot_offsets(row, vector, vectors, TILE.vector)
        x = tl.load(x_ptr + base + offset)  # [SLOTS, VECTOR]
        if bias_ptr is not None:
            if UNITS_FASTEST:
                by_depth = tl.reshape(x, [TILE.depth, slots, TILE.vector])
                x = tl.reshape(add_bias(by_depth, bias[None, :, :]), x.shape)
            else:
                x = add_bias(x, row_bias[:, None])
        values = statistics_values(x)
        if is_linked(ACTIVATION):
            _, row_bytes = linked_mask_bytes(columns)
            store_linked(
                output_ptr,
                None if mask_ptr is None else mask_ptr + start * row_bytes,
                values,
                place,
                of_tile,
                row=row,
                vector=vector_unlimited,
                columns=columns,
                ACTIVATION=ACTIVATION,
                VECTOR=TILE.vector,
                WHOLE_BYTES=WHOLE_BYTES,
            )
        elif ACTIVATION != "none":
            store_activation(
                output_ptr=output_ptr + base,
                mask_ptr=mask_ptr + start * ((columns + 7) // 8),
                x=x,
                values=values,
                offset=offset,
                row=row,
                vector=vector_unlimited,
                columns=columns,
                parameter_bits=parameter_bits,
                ACTIVATION=ACTIVATION,
                VECTOR=TILE.vector,
                WHOLE_BYTES=WHOLE_BYTES,
            )
        keys = order_keys(values)
        tile_keys = tl.reshape(keys, [TILE.depth, slots, TILE.vector])
        max_keys = tl.maximum(max_keys, tl.max(tile_keys, 0))
        min_keys = tl.minimum(min_keys, tl.min(tile_keys, 0))
        if ROW_EXTREMA:
            partial = keys_ptr + row_partials + start * tiles + tile + row.to(tl.int64) * tiles
            first_slot = slot_in_row == 0
            tl.store(partial, share(tl.max(keys, 1), "max", slots_of_row), mask=first_slot)
            tl.store(partial + partials, share(tl.min(keys, 1), "min", slots_of_row), mask=first_slot)

    column = tile * TILE.columns + tl.arange(0, TILE.columns)
    partial = keys_ptr + region * columns + column
    max_keys = tl.max(tl.reshape(max_keys, [TILE.rows, TILE.columns]), 0)
    min_keys = tl.min(tl.reshape(min_keys, [TILE.rows, TILE.columns]), 0)
    tl.store(partial, max_keys, mask=column < columns)
    tl.store(partial + partials, min_keys, mask=column < columns)
