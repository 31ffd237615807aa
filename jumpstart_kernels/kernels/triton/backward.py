"""The backward, for every layout: one kernel masks the gradient, one adds the gradients of the extrema."""

import triton
import triton.language as tl

from jumpstart_kernels.kernels.triton.keys import program_index
from jumpstart_kernels.kernels.triton.statistics import SUMS, hinge, margin_from_bits


@triton.jit(do_not_specialize=["rows", "columns", "tiles"])
def jumpstart_relu_backward_kernel(
    grad_output_ptr,  # [rows, columns]
    mask_ptr,  # [rows, ceil(columns / 8)]
    grad_x_ptr,  # [rows, columns]
    rows,
    columns,
    tiles,  # of the columns
    ALIGNMENT: tl.constexpr,  # a power of two that divides columns
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    program = program_index()
    columns = columns.to(tl.int64) // ALIGNMENT * ALIGNMENT  # tells the compiler how rows are aligned
    mask_bytes = (columns + 7) // 8
    row = (program // tiles * ROWS + tl.arange(0, ROWS))[:, None]
    column = (program % tiles * COLUMNS + tl.arange(0, COLUMNS))[None, :]
    byte = (program % tiles * (COLUMNS // 8) + tl.arange(0, COLUMNS // 8))[None, :]
    mask = tl.load(mask_ptr + row * mask_bytes + byte, mask=(row < rows) & (byte < mask_bytes), other=0)
    bits = (mask.to(tl.int32)[:, :, None] >> tl.arange(0, 8)[None, None, :]) & 1
    positive = tl.reshape(bits, [ROWS, COLUMNS]) != 0
    valid = (row < rows) & (column < columns)
    grad_output = tl.load(grad_output_ptr + row * columns + column, mask=valid, other=0)
    grad_x = tl.where(positive, grad_output, 0).to(grad_x_ptr.dtype.element_ty)
    tl.store(grad_x_ptr + row * columns + column, grad_x, mask=valid)


@triton.jit
def gradient_times_slack(grad, slack):
    """``grad * slack``, where a sum that is not in the loss stays out of it beside an infinite slack too."""
    grad = tl.broadcast_to(grad, slack.shape)
    return grad * tl.where((grad == 0) & (slack == float("inf")), 0.0, slack)


@triton.jit
def add_extrema(
    grad_x,
    index,  # in x.flatten()
    position,  # of a unit or point, in a row of extrema and indices
    valid,
    extrema_ptr,
    indices_ptr,
    grad_slack_sums_ptr,  # of the units, or of the points
    grad_extrema_ptr,
    count,
    margin_bits,
    HAS_GRAD_SLACK_SUMS: tl.constexpr,
    HAS_GRAD_EXTREMA: tl.constexpr,
):
    """Add the gradients of the maximum and the minimum at this position, if the element is theirs."""
    min_position = count + position
    max_grad = tl.zeros(position.shape, grad_x.dtype)
    min_grad = tl.zeros(position.shape, grad_x.dtype)
    if HAS_GRAD_EXTREMA:
        max_grad = tl.load(grad_extrema_ptr + position, mask=valid, other=0.0)
        min_grad = tl.load(grad_extrema_ptr + min_position, mask=valid, other=0.0)
    if HAS_GRAD_SLACK_SUMS:
        margin = margin_from_bits(margin_bits, grad_x.dtype)
        positive = hinge(margin - tl.load(extrema_ptr + position, mask=valid, other=0.0))
        negative = hinge(margin + tl.load(extrema_ptr + min_position, mask=valid, other=0.0))
        by_product = tl.load(grad_slack_sums_ptr + 4)
        by_positive = tl.load(grad_slack_sums_ptr)
        by_positive += 2 * gradient_times_slack(tl.load(grad_slack_sums_ptr + 2), positive)
        by_positive += gradient_times_slack(by_product, negative)
        by_negative = tl.load(grad_slack_sums_ptr + 1)
        by_negative += 2 * gradient_times_slack(tl.load(grad_slack_sums_ptr + 3), negative)
        by_negative += gradient_times_slack(by_product, positive)
        max_grad += tl.where(positive == 0, 0.0, -by_positive)
        min_grad += tl.where(negative == 0, 0.0, by_negative)
    max_index = tl.load(indices_ptr + position, mask=valid, other=-1)
    min_index = tl.load(indices_ptr + min_position, mask=valid, other=-1)
    grad_x += tl.where(max_index == index, max_grad, 0.0)
    return grad_x + tl.where(min_index == index, min_grad, 0.0)


@triton.jit(do_not_specialize=["units", "points", "inner", "point_size", "margin_bits"])
def jumpstart_relu_extrema_backward_kernel(
    grad_output_ptr,  # [rows, columns]
    mask_ptr,  # [rows, ceil(columns / 8)]
    grad_slack_sums_ptr,  # [2, 5]
    grad_extrema_ptr,  # [2, units + points]
    extrema_ptr,  # [2, units + points]
    indices_ptr,  # [2, units + points]
    grad_x_ptr,  # [rows, columns]
    units,
    points,
    inner,  # positions behind the unit dimension, in logical order
    point_size,
    margin_bits,
    HAS_GRAD_OUTPUT: tl.constexpr,
    HAS_GRAD_SLACK_SUMS: tl.constexpr,
    HAS_GRAD_EXTREMA: tl.constexpr,
    POSITION_POINTS: tl.constexpr,
    CHANNELS_LAST: tl.constexpr,
    UNITS_FASTEST: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Of each element that holds an extremum, the whole gradient anew: it may hold one of its unit and of its
    point at once. Programs that meet in an element then write the same bits, in whatever order they come.
    """
    units = units.to(tl.int64)
    count = units + points
    item = program_index() * BLOCK + tl.arange(0, BLOCK)
    index = tl.load(indices_ptr + item, mask=item < 2 * count, other=-1)
    valid = index >= 0
    index = tl.where(valid, index, 0)
    row, position = index // (units * inner), index % inner  # [before, units, inner]
    unit = index // inner % units
    if POSITION_POINTS:
        point = row * inner + position
    else:
        point = index // point_size
    offset = index
    if CHANNELS_LAST:
        offset = (row * inner + position) * units + unit
    columns = units if UNITS_FASTEST else inner.to(tl.int64)

    grad_x = tl.zeros([BLOCK], extrema_ptr.dtype.element_ty)
    if HAS_GRAD_OUTPUT:
        column = offset % columns
        mask_offset = offset // columns * ((columns + 7) // 8) + column // 8
        mask = tl.load(mask_ptr + mask_offset, mask=valid, other=0).to(tl.int64)
        grad_output = tl.load(grad_output_ptr + offset, mask=valid, other=0).to(grad_x.dtype)
        grad_x = tl.where(((mask >> (column % 8)) & 1) != 0, grad_output, 0.0)
    grad_x = add_extrema(
        grad_x, index, unit, valid, extrema_ptr, indices_ptr, grad_slack_sums_ptr, grad_extrema_ptr,
        count, margin_bits, HAS_GRAD_SLACK_SUMS, HAS_GRAD_EXTREMA,
    )  # fmt: skip
    grad_x = add_extrema(
        grad_x, index, units + point, valid, extrema_ptr, indices_ptr, grad_slack_sums_ptr + SUMS,
        grad_extrema_ptr, count, margin_bits, HAS_GRAD_SLACK_SUMS, HAS_GRAD_EXTREMA,
    )  # fmt: skip
    tl.store(grad_x_ptr + offset, grad_x.to(grad_x_ptr.dtype.element_ty), mask=valid)
