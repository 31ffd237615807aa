"""``exp(x)`` and ``exp(x) − 1``: Triton's own loses digits of a large x, and has none for a small one."""

import math

import triton
import triton.language as tl


@triton.constexpr_function
def inverse_factorial(k):
    return 1.0 / math.factorial(k)


@triton.jit
def constant(number: tl.constexpr, like):
    """A number with all its digits: as an argument of ``fma`` it would be a float32."""
    return tl.full(like.shape, number, like.dtype)


@triton.jit
def exponentials(x, dtype: tl.constexpr):
    """``exp(x)`` and ``exp(x) − 1`` of ``x <= 0``, for results that are rounded to dtype."""
    if dtype == tl.float16 or dtype == tl.bfloat16:  # a third of the instructions
        value = tl.exp(x)
        less_one = tl.where(x > -0.03125, x * (1 + x * (0.5 + x * 0.16666666666666666)), value - 1)
    else:
        value, less_one = accurate_exponentials(x)
    return value, less_one


@triton.jit
def accurate_exponentials(x):
    """The same of float32 or float64, within a unit in the last place.

    x is n log(2) + r with an n that is whole: ``exp(x)`` is 2ⁿ exp(r), and of ``exp(r) − 1`` the first terms
    of its series are enough. A NaN is in r, so that it stays one.
    """
    if x.dtype == tl.float64:
        integer: tl.constexpr = tl.int64
        lowest: tl.constexpr = -746.0  # whose exponential is 0
        round_whole: tl.constexpr = 6755399441055744.0  # 1.5 · 2⁵²: beside it a float has no fraction
        high: tl.constexpr = 6.93147180369123816490e-01  # of log(2), with zeros at its end: n · high is exact
        low: tl.constexpr = 1.90821492927058770002e-10
        mantissa: tl.constexpr = 52
        bias: tl.constexpr = 1023
        terms: tl.constexpr = 14
    else:
        integer: tl.constexpr = tl.int32
        lowest: tl.constexpr = -104.0
        round_whole: tl.constexpr = 12582912.0  # 1.5 · 2²³
        high: tl.constexpr = 0.693359375
        low: tl.constexpr = -2.12194440054690583e-4
        mantissa: tl.constexpr = 23
        bias: tl.constexpr = 127
        terms: tl.constexpr = 7
    x = tl.where(x < lowest, lowest, x)
    round_whole_like = constant(round_whole, x)
    shifted = tl.fma(x, constant(1.4426950408889634, x), round_whole_like)
    whole = shifted - round_whole
    r = tl.fma(whole, constant(-low, x), tl.fma(whole, constant(-high, x), x))
    series = constant(inverse_factorial(terms), x)
    for i in tl.static_range(terms - 2):
        series = tl.fma(series, r, constant(inverse_factorial(terms - 1 - i), x))
    of_r = tl.fma(r * r, series, r)  # exp(r) − 1
    n = shifted.to(integer, bitcast=True) - round_whole_like.to(integer, bitcast=True)
    # As a product: below the least exponent there are smaller numbers yet.
    half = n >> 1
    scale = ((half + bias) << mantissa).to(x.dtype, bitcast=True)
    scale *= ((n - half + bias) << mantissa).to(x.dtype, bitcast=True)
    return tl.fma(scale, of_r, scale), tl.fma(scale, of_r, scale - 1)
