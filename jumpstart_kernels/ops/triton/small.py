"""The forward of a small matrix, whose rows are points, as one program: thin networks wait for launches."""

import triton
import triton.language as tl

from jumpstart_kernels.ops.triton.activations import activation_value
from jumpstart_kernels.ops.triton.extrema import Extrema, ExtremaPointers, store_extrema
from jumpstart_kernels.ops.triton.floats import add_bias, round_to, statistics_values
from jumpstart_kernels.ops.triton.keys import (
    equal,
    holds_nan,
    key_values,
    largest_key,
    merge_zeros,
    order_keys,
)
from jumpstart_kernels.ops.triton.linked_activations import Halves, is_linked, linked_values
from jumpstart_kernels.ops.triton.linked_tiles import linked_mask_bytes, pack_masks
from jumpstart_kernels.ops.triton.slack import SUMS, limit, slacks, sum_slacks
from jumpstart_kernels.ops.triton.tiles import is_positive, pack_bits


@triton.jit
def matrix_extrema(values, keys, valid, place, AXIS: tl.constexpr):
    """Extrema along an axis, and the first place that each stands at."""
    largest = largest_key(keys.dtype)
    max_keys = tl.max(tl.where(valid, keys, -1 - largest), AXIS, keep_dims=True)
    min_keys = tl.min(tl.where(valid, keys, largest), AXIS, keep_dims=True)
    nan = holds_nan(max_keys, min_keys)
    maxima = tl.where(nan, float("nan"), key_values(max_keys))
    minima = tl.where(nan, float("nan"), key_values(min_keys))
    nowhere: tl.constexpr = 0x7FFFFFFF
    first_max = tl.min(tl.where(valid & equal(values, maxima, nan), place, nowhere), AXIS)
    first_min = tl.min(tl.where(valid & equal(values, minima, nan), place, nowhere), AXIS)
    shape: tl.constexpr = first_max.shape
    return Extrema(
        maxima=tl.reshape(maxima, shape),
        minima=tl.reshape(minima, shape),
        max_index=first_max,
        min_index=first_min,
    )


@triton.jit
def store_axis(
    pointers: ExtremaPointers,
    slack_sums_ptr,  # of this axis
    position,
    extrema: Extrema,
    valid,
    margin_bits,
    EXTREMA_KIND: tl.constexpr,
):
    """Store what a forward returns of the units, or of the points."""
    positive, negative = slacks(extrema.maxima, extrema.minima, margin_bits)
    if EXTREMA_KIND != "indexed":
        maxima, minima = extrema.maxima, extrema.minima
        if EXTREMA_KIND == "limited":
            maxima, minima = limit(maxima, minima, positive, negative, margin_bits)
        extrema = Extrema(
            maxima=maxima,
            minima=minima,
            max_index=tl.where(positive == 0, -1, extrema.max_index),
            min_index=tl.where(negative == 0, -1, extrema.min_index),
        )
    store_extrema(pointers, position, extrema, valid)
    sums = sum_slacks(tl.where(valid, positive, 0.0), tl.where(valid, negative, 0.0))
    for i in tl.static_range(SUMS):
        tl.store(slack_sums_ptr + i, sums[i])


@triton.jit
def store_linked_matrix(
    weight_ptr,
    output_ptr,  # [rows, 2 * columns]
    mask_ptr,  # [rows, 2 * ceil(columns / 8)], or None
    values,
    rows,
    columns,
    ACTIVATION: tl.constexpr,
):
    """Store both halves of a linked activation, and their masks."""
    height: tl.constexpr = values.shape[0]
    width: tl.constexpr = values.shape[1]
    row = tl.arange(0, height)
    column = tl.arange(0, width)
    valid_row, valid_column = row < rows, column < columns
    slopes = None
    if weight_ptr is not None:
        slopes = Halves(
            first=statistics_values(tl.load(weight_ptr + column, mask=valid_column, other=0))[None, :],
            second=statistics_values(tl.load(weight_ptr + columns + column, mask=valid_column, other=0))[
                None, :
            ],
        )
    dtype: tl.constexpr = output_ptr.dtype.element_ty
    halves = linked_values(values, slopes, ACTIVATION, dtype)
    output_ptr += row[:, None] * (2 * columns) + column[None, :]
    valid = valid_row[:, None] & valid_column[None, :]
    tl.store(output_ptr, round_to(halves.first, dtype), mask=valid)
    tl.store(output_ptr + columns, round_to(halves.second, dtype), mask=valid)
    if mask_ptr is not None:
        by_byte = tl.reshape(values, [height, width // 8, 8])
        bits = tl.sum(pack_masks(by_byte, tl.arange(0, 8)[None, None, :]), 2)
        mask_bytes, row_bytes = linked_mask_bytes(columns)
        byte = tl.arange(0, width // 8)
        valid_byte = valid_row[:, None] & (byte < mask_bytes)[None, :]
        mask_ptr += row[:, None] * row_bytes + byte[None, :]
        tl.store(mask_ptr, (bits & 0xFF).to(tl.uint8), mask=valid_byte)
        tl.store(mask_ptr + mask_bytes, (bits >> 8).to(tl.uint8), mask=valid_byte)


@triton.jit(
    do_not_specialize=["margin_bits", "parameter_bits", "rows", "columns", "row_stride", "column_stride"]
)
def jumpstart_activation_forward_small_kernel(
    x_ptr,  # [rows, columns], points and units
    bias_ptr,  # [columns], or None
    weight_ptr,  # the slopes of a linked activation, [2, columns], or None
    output_ptr,  # [rows, columns]; of a linked activation see store_linked_matrix, as of its mask
    mask_ptr,  # [rows, ceil(columns / 8)]
    extrema_ptr,  # [2, columns + rows]
    indices_ptr,  # [2, columns + rows]
    slack_sums_ptr,  # [2, 5]
    margin_bits: tl.int64,
    parameter_bits: tl.int64,
    rows,
    columns,
    row_stride,  # of a row, and of a column, in logical order
    column_stride,
    ACTIVATION: tl.constexpr,
    EXTREMA_KIND: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    valid = (row < rows)[:, None] & (column < columns)[None, :]
    offset = row[:, None] * columns + column[None, :]
    x = tl.load(x_ptr + offset, mask=valid, other=0)
    if bias_ptr is not None:
        x = add_bias(x, tl.load(bias_ptr + column, mask=column < columns, other=0)[None, :])
    values = statistics_values(x)
    if is_linked(ACTIVATION):
        store_linked_matrix(weight_ptr, output_ptr, mask_ptr, values, rows, columns, ACTIVATION)
    elif ACTIVATION != "none":
        positive = is_positive(values)
        value = activation_value(x, positive, parameter_bits, ACTIVATION)
        tl.store(output_ptr + offset, value, mask=valid)
        bits = pack_bits(tl.reshape(positive, [ROWS, COLUMNS // 8, 8]), tl.arange(0, 8)[None, None, :])
        mask_bytes = (columns + 7) // 8
        byte = tl.arange(0, COLUMNS // 8)
        valid_byte = (row < rows)[:, None] & (byte < mask_bytes)[None, :]
        byte_offset = row[:, None] * mask_bytes + byte[None, :]
        tl.store(mask_ptr + byte_offset, bits.to(tl.uint8), mask=valid_byte)

    keys = merge_zeros(order_keys(values))
    index = row[:, None] * row_stride + column[None, :] * column_stride
    pointers = ExtremaPointers(extrema=extrema_ptr, indices=indices_ptr, count=columns + rows)
    of_units = matrix_extrema(values, keys, valid, index, 0)
    store_axis(pointers, slack_sums_ptr, column, of_units, column < columns, margin_bits, EXTREMA_KIND)
    of_points = matrix_extrema(values, keys, valid, index, 1)
    store_axis(
        pointers, slack_sums_ptr + SUMS, columns + row, of_points, row < rows, margin_bits, EXTREMA_KIND
    )
