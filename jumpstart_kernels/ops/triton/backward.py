"""The backward, for every layout: one kernel masks the gradient and adds the gradients of the extrema."""

import triton
import triton.language as tl

from jumpstart_kernels.ops.arguments import Gradients
from jumpstart_kernels.ops.triton.activations import activation_gradient
from jumpstart_kernels.ops.triton.bias import store_grad_bias
from jumpstart_kernels.ops.triton.extrema import ExtremaPointers
from jumpstart_kernels.ops.triton.floats import statistics_values
from jumpstart_kernels.ops.triton.rewrite import Part, Sizes, rewrite_elements
from jumpstart_kernels.ops.triton.tiles import program_index, row_start, share, slot_offsets, unpack_bits


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
                    linked=None,
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
