"""The extrema of some units or points, and where a forward keeps them."""

from typing import Any, NamedTuple

import triton
import triton.language as tl


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
