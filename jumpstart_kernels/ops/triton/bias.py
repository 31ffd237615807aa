"""The gradient of the bias: the sum of that of x over each unit, before rounding.

The backward leaves partial sums of its parts of x. Where a part is not all of a unit, the kernel here adds
them up. It is a launch of its own: for the last program to do it, a counter would have to be cleared, which
is a launch as well.
"""

import triton
import triton.language as tl

from jumpstart_kernels.ops.arguments import Gradients
from jumpstart_kernels.ops.triton.extrema import ExtremaPointers, extrema_gradients
from jumpstart_kernels.ops.triton.floats import round_to
from jumpstart_kernels.ops.triton.partials import Partials, partial_offset
from jumpstart_kernels.ops.triton.tiles import program_index

LINES: tl.constexpr = tl.constexpr(16)  # columns or rows whose partial sums a program adds to at once


@triton.jit
def add_to_sums(
    sums_ptr,  # to that of line 0
    stride,  # from line to line
    gradient,  # [ENTRIES], zero where there is none
    line,  # [ENTRIES], of the part
    first_line,
    last_line,
):
    """Add gradients to the partial sums of their lines, in an order that nothing but their places decides."""
    if tl.max((gradient != 0).to(tl.int32), 0) > 0:
        for start in range(first_line, last_line, LINES):
            of_sums = start + tl.arange(0, LINES).to(tl.int64)
            hit = line[:, None] == of_sums[None, :]  # [ENTRIES, LINES]
            added = tl.sum(tl.where(hit, gradient[:, None], 0.0), 0)
            pointers = sums_ptr + of_sums * stride
            valid = of_sums < last_line
            tl.store(pointers, tl.load(pointers, mask=valid, other=0) + added, mask=valid)
        tl.debug_barrier()


@triton.jit
def store_grad_bias(
    grad_bias_ptr,
    sums,  # of all but what their own extrema add
    unit,
    valid,
    gradients: Gradients,
    pointers: ExtremaPointers,
    margin_bits,
):
    """Store the gradients of some units' bias, rounded."""
    if gradients.slack_sums is not None or gradients.extrema is not None:
        max_grad, min_grad = extrema_gradients(
            unit, valid, gradients, pointers, margin_bits, sums.dtype, AXIS=0
        )
        max_index = tl.load(pointers.indices + unit, mask=valid, other=-1)
        min_index = tl.load(pointers.indices + (pointers.count + unit), mask=valid, other=-1)
        sums += tl.where(max_index >= 0, max_grad, 0.0)
        sums += tl.where(min_index >= 0, min_grad, 0.0)
    tl.store(grad_bias_ptr + unit, round_to(sums, grad_bias_ptr.dtype.element_ty), mask=valid)


@triton.jit(do_not_specialize=["margin_bits", "groups", "units", "per_unit", "points"])
def jumpstart_activation_backward_bias_kernel(
    grad_slack_sums_ptr,  # [2, 5]; None where it is not in the loss, as the next
    grad_extrema_ptr,  # [2, units + points]
    extrema_ptr,  # [2, units + points]
    indices_ptr,  # [2, units + points]
    sums_ptr,  # [groups, units, per_unit]
    grad_bias_ptr,  # [units]
    margin_bits: tl.int64,
    groups,
    units,
    per_unit,
    points,
    BLOCK: tl.constexpr,
):
    """Sums of partial sums, in an order that nothing but their number decides."""
    unit = program_index() * BLOCK.items + tl.arange(0, BLOCK.items)
    valid_unit = unit < units
    partials = Partials(keys=sums_ptr, stride=0, groups=groups, items=units, per_item=per_unit)
    total = groups.to(tl.int64) * per_unit
    sums = tl.full([BLOCK.partials, BLOCK.items], 0, sums_ptr.dtype.element_ty)
    for start in range(0, total, BLOCK.partials):
        partial = start + tl.arange(0, BLOCK.partials).to(tl.int64)[:, None]
        offset = partial_offset(partial, unit[None, :], partials)
        sums += tl.load(sums_ptr + offset, mask=(partial < total) & valid_unit[None, :], other=0)
    store_grad_bias(
        grad_bias_ptr,
        tl.sum(sums, 0),
        unit,
        valid_unit,
        Gradients(output=None, slack_sums=grad_slack_sums_ptr, extrema=grad_extrema_ptr),
        ExtremaPointers(extrema=extrema_ptr, indices=indices_ptr, count=units.to(tl.int64) + points),
        margin_bits,
    )
