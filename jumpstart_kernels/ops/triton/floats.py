"""Floating-point numbers: as the kernels take them, compute with them, and round them."""

import triton
import triton.language as tl
from triton import knobs

# Whether the kernels are functions of Triton's interpreter: settled when they are decorated.
INTERPRETED: tl.constexpr = tl.constexpr(knobs.runtime.interpret)


@triton.jit
def statistics_values(x):
    """x in the dtype of the statistics."""
    if x.dtype == tl.float64:
        values = x
    else:
        values = x.to(tl.float32)
    return values


@triton.jit
def add_bias(x, bias):
    """x + bias in the dtype of both, rounded as PyTorch rounds it."""
    return round_to(statistics_values(x) + statistics_values(bias), x.dtype)


@triton.jit
def float_from_bits(bits, dtype: tl.constexpr):
    """A number that travels as the bits of a float64: a float argument would be rounded to float32."""
    return bits.to(tl.int64).to(tl.float64, bitcast=True).to(dtype)


@triton.jit
def round_to(values, dtype: tl.constexpr):
    """Values in the dtype of x, rounded to nearest even."""
    if INTERPRETED and dtype == tl.bfloat16:  # which the interpreter truncates to
        bits = values.to(tl.int32, bitcast=True)
        is_nan = values != values
        bits = tl.where(is_nan, bits | 0x00400000, bits + 0x7FFF + ((bits >> 16) & 1))
        rounded = (bits >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)
    else:
        rounded = values.to(dtype)
    return rounded
