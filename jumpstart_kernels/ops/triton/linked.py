"""Linked activations, ``cat(g(x), g(−x))``: the forward without statistics, and the backward."""

import triton
import triton.language as tl

from jumpstart_kernels.ops.arguments import Gradients
from jumpstart_kernels.ops.triton.extrema import ExtremaPointers
from jumpstart_kernels.ops.triton.floats import round_to, statistics_values
from jumpstart_kernels.ops.triton.linked_activations import (
    Halves,
    linked_gradient,
    linked_slope_gradients,
)
from jumpstart_kernels.ops.triton.linked_tiles import (
    LinkedPointers,
    linked_mask_bytes,
    linked_place,
    load_column_slopes,
    load_row_slopes,
    store_linked,
)
from jumpstart_kernels.ops.triton.rewrite import Part, Sizes, rewrite_elements
from jumpstart_kernels.ops.triton.tiles import program_index, row_start, share, slot_offsets, unpack_bits


@triton.jit(do_not_specialize=["rows", "columns", "regions", "tiles", "steps"])
def linked_activation_forward_kernel(
    x_ptr,  # [segments, rows, columns]
    weight_ptr,  # [2, units]; None without slopes
    output_ptr,  # [segments, rows, 2 * columns], or [segments, 2 * rows, columns] where rows are units
    mask_ptr,  # [segments * rows, 2 * ceil(columns / 8)]; None without masks
    rows,
    columns,
    regions,  # of a segment
    tiles,  # of the columns
    steps,  # of a region
    ACTIVATION: tl.constexpr,
    UNITS_FASTEST: tl.constexpr,  # columns are units
    WHOLE_BYTES: tl.constexpr,  # columns are a multiple of 8
    offset_dtype: tl.constexpr,
    TILE: tl.constexpr,
):
    """A program takes a region, some rows of a segment, of as many columns as a warp loads at once."""
    program = program_index()
    tile, region = (program % tiles).to(offset_dtype), program // tiles
    segment = region // regions
    first_row = region % regions * steps * (TILE.depth * TILE.rows)
    vectors = columns // TILE.vector  # of a row
    _, row_bytes = linked_mask_bytes(columns)
    slots_of_row: tl.constexpr = TILE.columns // TILE.vector
    slot = tl.arange(0, TILE.depth * TILE.rows * slots_of_row)
    vector_unlimited = tile * slots_of_row + slot % slots_of_row
    vector = tl.minimum(vector_unlimited, vectors - 1)
    slopes = None
    if weight_ptr is not None and UNITS_FASTEST:  # the same down the rows
        slopes = load_column_slopes(weight_ptr, tile, vectors, TILE)
    steps_left = tl.cdiv(rows - first_row, TILE.depth * TILE.rows)
    for step in range(tl.minimum(steps, steps_left).to(tl.int32)):
        start = first_row + step * (TILE.depth * TILE.rows)
        last = (tl.minimum(rows - start, TILE.depth * TILE.rows) - 1).to(tl.int32)
        row = tl.minimum(slot // slots_of_row, last).to(offset_dtype)
        matrix_row = start + segment * rows
        base = row_start(matrix_row, columns, TILE.vector)
        x = tl.load(x_ptr + base + slot_offsets(row, vector, vectors, TILE.vector))  # [SLOTS, VECTOR]
        of_tile = slopes
        if weight_ptr is not None and not UNITS_FASTEST:
            of_tile = load_row_slopes(weight_ptr, start + row, rows)
        store_linked(
            output_ptr,
            None if mask_ptr is None else mask_ptr + matrix_row * row_bytes,
            statistics_values(x),
            linked_place(start, segment, row, vector, rows, vectors, UNITS_FASTEST, TILE.vector),
            of_tile,
            row,
            vector_unlimited,
            columns,
            ACTIVATION=ACTIVATION,
            VECTOR=TILE.vector,
            WHOLE_BYTES=WHOLE_BYTES,
        )


@triton.jit(
    do_not_specialize=[
        "margin_bits", "rows", "columns", "regions", "tiles", "steps", "units", "points", "inner",
        "rows_of_point",
    ],
    do_not_specialize_on_alignment=[
        "mask_ptr", "grad_slack_sums_ptr", "grad_extrema_ptr", "extrema_ptr", "indices_ptr",
    ],
)  # fmt: skip
def linked_activation_backward_kernel(
    grad_output_ptr,  # [segments, rows, 2 * columns], or [segments, 2 * rows, columns] where rows are units
    grad_slack_sums_ptr,  # [2, 5]; None where it is not in the loss, as the next
    grad_extrema_ptr,  # [2, units + points]
    x_ptr,  # [segments, rows, columns]; None where the mask is enough
    weight_ptr,  # [2, units]; None without slopes
    mask_ptr,  # [segments * rows, 2 * ceil(columns / 8)]; None where x is needed
    extrema_ptr,  # [2, units + points]
    indices_ptr,  # [2, units + points]
    grad_x_ptr,  # [segments, rows, columns]
    sums_ptr,  # of the slopes' gradients: of columns [segments * regions, 2, columns], or else of rows
    # [segments, 2, rows, tiles]; or the gradients, where they are not shared; None if not wanted
    margin_bits: tl.int64,
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
    """A program takes a region, as in the forward, then rewrites those of its elements that hold extrema."""
    program = program_index()
    tile, region = (program % tiles).to(offset_dtype), program // tiles
    segment = region // regions
    first_row = region % regions * steps * (TILE.depth * TILE.rows)
    last_row = tl.minimum(first_row + steps * (TILE.depth * TILE.rows), rows)
    vectors = columns // TILE.vector  # of a row
    mask_bytes, row_bytes = linked_mask_bytes(columns)
    slots_of_row: tl.constexpr = TILE.columns // TILE.vector
    slots: tl.constexpr = TILE.rows * slots_of_row  # of each depth
    slots_of_byte: tl.constexpr = 8 // TILE.vector
    slot = tl.arange(0, TILE.depth * slots)
    vector_unlimited = tile * slots_of_row + slot % slots_of_row
    vector = tl.minimum(vector_unlimited, vectors - 1)
    bit = (vector % slots_of_byte)[:, None] * TILE.vector + tl.arange(0, TILE.vector)[None, :]
    grad_x_dtype: tl.constexpr = grad_x_ptr.dtype.element_ty
    slopes = None
    if weight_ptr is not None and UNITS_FASTEST:  # the same down the rows
        slopes = load_column_slopes(weight_ptr, tile, vectors, TILE)
    if sums_ptr is not None and UNITS_FASTEST:
        exact: tl.constexpr = tl.float64 if x_ptr.dtype.element_ty == tl.float64 else tl.float32
        first_sums = tl.full([slots, TILE.vector], 0, exact)
        second_sums = first_sums
    for step in range(tl.cdiv(last_row - first_row, TILE.depth * TILE.rows).to(tl.int32)):
        start = first_row + step * (TILE.depth * TILE.rows)
        last = (tl.minimum(last_row - start, TILE.depth * TILE.rows) - 1).to(tl.int32)
        row = tl.minimum(slot // slots_of_row, last).to(offset_dtype)
        matrix_row = start + segment * rows
        base = row_start(matrix_row, columns, TILE.vector)
        offset = slot_offsets(row, vector, vectors, TILE.vector)
        place = linked_place(start, segment, row, vector, rows, vectors, UNITS_FASTEST, TILE.vector)
        first = tl.load(grad_output_ptr + place.base + place.offset)  # [SLOTS, VECTOR]
        second = tl.load(grad_output_ptr + (place.base + place.half) + place.offset)
        gradients = Halves(first=statistics_values(first), second=statistics_values(second))
        x = None
        passes = None
        of_tile = slopes
        if x_ptr is not None:
            x = statistics_values(tl.load(x_ptr + base + offset))
        else:
            byte = matrix_row * row_bytes + (row * row_bytes + vector // slots_of_byte)
            first_mask = tl.load(mask_ptr + byte).to(tl.int32)[:, None]
            second_mask = tl.load(mask_ptr + mask_bytes + byte).to(tl.int32)[:, None]
            passes = Halves(first=unpack_bits(first_mask, bit), second=unpack_bits(second_mask, bit))
        if weight_ptr is not None and not UNITS_FASTEST:
            of_tile = load_row_slopes(weight_ptr, start + row, rows)
        grad_x = linked_gradient(gradients, x, passes, of_tile, ACTIVATION, grad_x_dtype)
        tl.store(grad_x_ptr + base + offset, round_to(grad_x, grad_x_dtype))
        if sums_ptr is not None:
            added = linked_slope_gradients(gradients, x)
            # What comes again is added once.
            counts = (slot // slots_of_row <= last) & (vector_unlimited < vectors)
            added_first = tl.where(counts[:, None], added.first, 0.0)
            added_second = tl.where(counts[:, None], added.second, 0.0)
            if UNITS_FASTEST:
                first_sums += tl.sum(tl.reshape(added_first, [TILE.depth, slots, TILE.vector]), 0)
                second_sums += tl.sum(tl.reshape(added_second, [TILE.depth, slots, TILE.vector]), 0)
            else:
                line = sums_ptr + ((segment * 2 * rows + start + row) * tiles + tile)
                once = counts & (slot % slots_of_row == 0)
                tl.store(line, share(tl.sum(added_first, 1), "sum", slots_of_row), mask=once)
                line += rows.to(tl.int64) * tiles
                tl.store(line, share(tl.sum(added_second, 1), "sum", slots_of_row), mask=once)
    if sums_ptr is not None and UNITS_FASTEST:
        column = tile * TILE.columns + tl.arange(0, TILE.columns)
        first_sums = tl.sum(tl.reshape(first_sums, [TILE.rows, TILE.columns]), 0)
        second_sums = tl.sum(tl.reshape(second_sums, [TILE.rows, TILE.columns]), 0)
        sums_ptr += region * 2 * columns
        dtype: tl.constexpr = sums_ptr.dtype.element_ty
        tl.store(sums_ptr + column, round_to(first_sums, dtype), mask=column < columns)
        tl.store(sums_ptr + columns + column, round_to(second_sums, dtype), mask=column < columns)

    if grad_slack_sums_ptr is not None or grad_extrema_ptr is not None:
        tl.debug_barrier()  # what other threads stored of this part lies in memory
        part = Part(
            first_row=first_row + segment * rows,
            last_row=last_row + segment * rows,
            first_column=tile * TILE.columns,
            sums_ptr=None,
            sums_stride=None,
        )
        gradients_of = Gradients(
            output=grad_output_ptr, slack_sums=grad_slack_sums_ptr, extrema=grad_extrema_ptr
        )
        count = units.to(tl.int64) + points
        for axis in tl.static_range(2):
            rewrite_elements(
                grad_x_ptr,
                gradients_of,
                mask_ptr,
                ExtremaPointers(extrema=extrema_ptr, indices=indices_ptr, count=count),
                Sizes(rows=rows, columns=columns, units=units, inner=inner, rows_of_point=rows_of_point),
                part,
                margin_bits=margin_bits,
                parameter_bits=None,
                linked=LinkedPointers(x=x_ptr, weight=weight_ptr),
                ACTIVATION=ACTIVATION,
                AXIS=axis,
                POSITION_POINTS=POSITION_POINTS,
                CHANNELS_LAST=CHANNELS_LAST,
                UNITS_FASTEST=UNITS_FASTEST,
                COLUMNS=TILE.columns,
            )
