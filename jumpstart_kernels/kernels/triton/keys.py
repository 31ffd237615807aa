"""What the kernels share: integer keys that order like floats, and extrema with their places.

An extremum travels as a key and a place. The key of a minimum is that of the negated value, so that both
extrema are the largest key, and the first of equal keys is the one of lowest place. 16-bit floats are packed:
the key is the high half of an int32 and the place, counted down from 65535, the low half. One maximum then
does it all.
"""

import triton
import triton.language as tl


@triton.jit
def program_index():
    """The index of the program, 64 bits wide so that what is multiplied with it cannot overflow."""
    return tl.program_id(0).to(tl.int64)


@triton.jit
def largest_key(dtype: tl.constexpr):
    """The key of NaN. The keys of all values lie above its negative."""
    if dtype == tl.float64:
        key = tl.full([], 0x7FFFFFFFFFFFFFFF, tl.int64)
    elif dtype == tl.float32:
        key = tl.full([], 0x7FFFFFFF, tl.int32)
    else:
        key = tl.full([], 0x7FFF0000, tl.int32)
    return key


@triton.jit
def order_keys(x, place):
    """Keys of x for maxima and for minima: −0.0 as 0.0, all NaN alike and above everything."""
    dtype: tl.constexpr = x.dtype
    if dtype == tl.float64:
        bits = x.to(tl.int64, bitcast=True)
        sign = bits >> 63
        infinity = 0x7FF0000000000000
    elif dtype == tl.float32:
        bits = x.to(tl.int32, bitcast=True)
        sign = bits >> 31
        infinity = 0x7F800000
    else:
        bits = x.to(tl.int16, bitcast=True).to(tl.int32) << 16
        sign = bits >> 31
        infinity = 0x7F800000 if dtype == tl.bfloat16 else 0x7C000000
    largest = largest_key(dtype)
    magnitude = bits & largest
    key = (magnitude ^ sign) - sign
    nan = magnitude > infinity
    high, low = tl.where(nan, largest, key), tl.where(nan, largest, -key)
    if dtype == tl.float16 or dtype == tl.bfloat16:
        high, low = high | (65535 - place), low | (65535 - place)
    return high, low


@triton.jit
def is_positive(key, dtype: tl.constexpr):
    """Unless x <= 0, from the key for maxima."""
    if dtype == tl.float16 or dtype == tl.bfloat16:
        positive = key > 65535  # the place aside
    else:
        positive = key > 0
    return positive


@triton.jit
def first_largest(key, place, axis: tl.constexpr):
    """Largest key along an axis, and the lowest place that has it; of keys that are not packed."""
    best = tl.max(key, axis, keep_dims=True)
    limit: tl.constexpr = 0x7FFFFFFF if place.dtype == tl.int32 else 0x7FFFFFFFFFFFFFFF
    first = tl.min(tl.where(key == best, place, limit), axis)
    return tl.reshape(best, first.shape), first


@triton.jit
def reduce_keys(key, place, axis: tl.constexpr, dtype: tl.constexpr):
    """:func:`first_largest`, of keys as :func:`order_keys` makes them."""
    if dtype == tl.float16 or dtype == tl.bfloat16:
        best = tl.max(key, axis)
        first = best  # which holds the place too
    else:
        best, first = first_largest(key, place, axis)
    return best, first


@triton.jit
def merge_keys(best, first, key, place, dtype: tl.constexpr):
    """The first largest of two, where a tie goes to the first pair: its places come before the others'."""
    if dtype == tl.float16 or dtype == tl.bfloat16:
        best = tl.maximum(best, key)
        first = best
    else:
        larger = key > best
        best, first = tl.where(larger, key, best), tl.where(larger, place, first)
    return best, first


@triton.jit
def open_keys(key, place, dtype: tl.constexpr):
    """Key and place of what :func:`reduce_keys` and :func:`merge_keys` return; the key as it is stored."""
    if dtype == tl.float16 or dtype == tl.bfloat16:
        place = 65535 - (key & 65535)
        key = key >> 16
    return key, place


@triton.jit
def key_values(key, dtype: tl.constexpr):
    """The values that the stored keys of maxima stand for, in the dtype of the statistics."""
    if dtype == tl.float64:
        bits = tl.where(key < 0, -key | (-0x7FFFFFFFFFFFFFFF - 1), key)
        value = bits.to(tl.float64, bitcast=True)
    elif dtype == tl.float32:
        bits = tl.where(key < 0, -key | (-0x7FFFFFFF - 1), key)
        value = bits.to(tl.float32, bitcast=True)
    else:
        bits = tl.where(key < 0, -key | 0x8000, key)
        value = bits.to(tl.int16).to(dtype, bitcast=True).to(tl.float32)
    return value


@triton.jit
def pack_bits(positive, A: tl.constexpr, B: tl.constexpr):
    """Bool ``[A, B]`` to uint8 ``[A, B / 8]``, as layout.py packs the mask."""
    bits = tl.reshape(positive.to(tl.int32), [A, B // 8, 8]) << tl.arange(0, 8)[None, None, :]
    return tl.sum(bits, 2).to(tl.uint8)
