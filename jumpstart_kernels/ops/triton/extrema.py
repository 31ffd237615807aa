"""The extrema of some units or points, and where a forward keeps them."""

from typing import Any, NamedTuple

import triton
import triton.language as tl

from jumpstart_kernels.ops.arguments import Gradients
from jumpstart_kernels.ops.triton.slack import SUMS, slack_gradients


class Extrema(NamedTuple):
    maxima: Any
    minima: Any
    max_index: Any  # in x.flatten(), or −1
    min_index: Any


class ExtremaPointers(NamedTuple):
    """To rows of extrema and of their indices, ``[2, count]``: maxima, then minima."""

    extrema: Any
    indices: Any
    count: Any


@triton.jit
def store_extrema(pointers: ExtremaPointers, position, extrema: Extrema, valid):
    """Store extrema at their positions in the rows."""
    tl.store(pointers.extrema + position, extrema.maxima, mask=valid)
    tl.store(pointers.extrema + pointers.count + position, extrema.minima, mask=valid)
    tl.store(pointers.indices + position, extrema.max_index, mask=valid)
    tl.store(pointers.indices + pointers.count + position, extrema.min_index, mask=valid)


@triton.jit
def extrema_gradients(
    position,  # of a unit or point, in a row of extrema and indices
    valid,
    gradients: Gradients,
    pointers: ExtremaPointers,
    margin_bits,
    dtype: tl.constexpr,
    AXIS: tl.constexpr,  # 0 of units, 1 of points
):
    """Gradients of the maxima and of the minima at their positions, those that no element holds included."""
    min_position = pointers.count + position
    max_grad = tl.full(position.shape, 0, dtype)
    min_grad = max_grad
    if gradients.extrema is not None:
        max_grad = tl.load(gradients.extrema + position, mask=valid, other=0.0)
        min_grad = tl.load(gradients.extrema + min_position, mask=valid, other=0.0)
    if gradients.slack_sums is not None:
        maxima = tl.load(pointers.extrema + position, mask=valid, other=0.0)
        minima = tl.load(pointers.extrema + min_position, mask=valid, other=0.0)
        of_axis = gradients.slack_sums + AXIS * SUMS
        max_slack_grad, min_slack_grad = slack_gradients(maxima, minima, of_axis, margin_bits)
        max_grad += max_slack_grad
        min_grad += min_slack_grad
    return max_grad, min_grad
