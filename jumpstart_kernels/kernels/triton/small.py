"""The forward of a small matrix, whose rows are points, as one program: thin networks wait for launches."""

import triton
import triton.language as tl

from jumpstart_kernels.kernels.triton.keys import (
    equal,
    holds_nan,
    key_values,
    largest_key,
    merge_zeros,
    order_keys,
    statistics_values,
)
from jumpstart_kernels.kernels.triton.slack import SUMS, slacks, store_extrema, sum_slacks


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
    return tl.reshape(maxima, shape), tl.reshape(minima, shape), first_max, first_min


@triton.jit
def store_axis(
    extrema_ptr,
    indices_ptr,
    slack_sums_ptr,
    position,
    count,
    maxima,
    minima,
    max_index,
    min_index,
    valid,
    margin_bits,
    ALL_INDICES: tl.constexpr,
):
    """Store what a forward returns of the units, or of the points."""
    positive, negative = slacks(maxima, minima, margin_bits)
    if not ALL_INDICES:
        max_index = tl.where(positive == 0, -1, max_index)
        min_index = tl.where(negative == 0, -1, min_index)
    store_extrema(extrema_ptr, indices_ptr, position, count, maxima, minima, max_index, min_index, valid)
    sums = sum_slacks(tl.where(valid, positive, 0.0), tl.where(valid, negative, 0.0))
    for i in tl.static_range(SUMS):
        tl.store(slack_sums_ptr + i, sums[i])


@triton.jit(do_not_specialize=["rows", "columns", "row_stride", "column_stride", "margin_bits"])
def jumpstart_relu_forward_small_kernel(
    x_ptr,  # [rows, columns], points and units
    output_ptr,  # [rows, columns]
    mask_ptr,  # [rows, ceil(columns / 8)]
    extrema_ptr,  # [2, columns + rows]
    indices_ptr,  # [2, columns + rows]
    slack_sums_ptr,  # [2, 5]
    margin_bits: tl.int64,
    rows,
    columns,
    row_stride,  # of a row, and of a column, in logical order
    column_stride,
    APPLY_RELU: tl.constexpr,
    ALL_INDICES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.arange(0, ROWS)
    column = tl.arange(0, COLUMNS)
    valid = (row < rows)[:, None] & (column < columns)[None, :]
    offset = row[:, None] * columns + column[None, :]
    x = tl.load(x_ptr + offset, mask=valid, other=0)
    values = statistics_values(x)
    if APPLY_RELU:
        positive = ~(values <= 0)
        tl.store(output_ptr + offset, tl.where(positive, x, 0), mask=valid)
        bits = tl.reshape(positive.to(tl.int32), [ROWS, COLUMNS // 8, 8]) << tl.arange(0, 8)[None, None, :]
        mask_bytes = (columns + 7) // 8
        byte = tl.arange(0, COLUMNS // 8)
        valid_byte = (row < rows)[:, None] & (byte < mask_bytes)[None, :]
        byte_offset = row[:, None] * mask_bytes + byte[None, :]
        tl.store(mask_ptr + byte_offset, tl.sum(bits, 2).to(tl.uint8), mask=valid_byte)

    keys = merge_zeros(order_keys(values))
    index = row[:, None] * row_stride + column[None, :] * column_stride
    count = columns + rows
    maxima, minima, max_index, min_index = matrix_extrema(values, keys, valid, index, 0)
    store_axis(
        extrema_ptr, indices_ptr, slack_sums_ptr, column, count, maxima, minima, max_index, min_index,
        column < columns, margin_bits, ALL_INDICES,
    )  # fmt: skip
    maxima, minima, max_index, min_index = matrix_extrema(values, keys, valid, index, 1)
    store_axis(
        extrema_ptr, indices_ptr, slack_sums_ptr + SUMS, columns + row, count, maxima, minima, max_index,
        min_index, row < rows, margin_bits, ALL_INDICES,
    )  # fmt: skip
