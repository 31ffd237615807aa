"""Integer keys that order like floats: what the extrema of a tile are found by.

A maximum and a minimum of keys are exact, and neither loses a NaN: its keys lie beyond those of the
infinities, above or below by its sign. So the largest and the smallest key of a set together tell whether it
holds one.
"""

import triton
import triton.language as tl


@triton.jit
def order_keys(values):
    """Keys of float32 or float64; that of −0.0 is one below that of 0.0."""
    if values.dtype == tl.float64:
        bits = values.to(tl.int64, bitcast=True)
        keys = bits ^ ((bits >> 63) & 0x7FFFFFFFFFFFFFFF)
    else:
        bits = values.to(tl.int32, bitcast=True)
        keys = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return keys


@triton.jit
def key_values(keys):
    """The inverse of :func:`order_keys`."""
    if keys.dtype == tl.int64:
        bits = keys ^ ((keys >> 63) & 0x7FFFFFFFFFFFFFFF)
        values = bits.to(tl.float64, bitcast=True)
    else:
        bits = keys ^ ((keys >> 31) & 0x7FFFFFFF)
        values = bits.to(tl.float32, bitcast=True)
    return values


@triton.jit
def largest_key(dtype: tl.constexpr):
    """An integer that no key lies above; its complement lies below all keys."""
    if dtype == tl.int64:
        key = tl.full([], 0x7FFFFFFFFFFFFFFF, tl.int64)
    else:
        key = tl.full([], 0x7FFFFFFF, tl.int32)
    return key


@triton.jit
def merge_zeros(keys):
    """Keys in which −0.0 equals 0.0."""
    return tl.where(keys == -1, 0, keys)


@triton.jit
def holds_nan(max_keys, min_keys):
    """Whether the set that has these as its largest and smallest key holds a NaN."""
    infinity: tl.constexpr = 0x7FF0000000000000 if max_keys.dtype == tl.int64 else 0x7F800000
    return (max_keys > infinity) | (min_keys < -infinity - 1)


@triton.jit
def equal(values, extremum, nan):
    """Where values equal an extremum, or are NaN as it is."""
    return (values == extremum) | ((values != values) & nan)
