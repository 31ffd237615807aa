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
    """The same of float32 or float64, within a unit in the last place."""
    if x.dtype == tl.float64:
        exponentials_of_x = exponentials_by_series(
            x,
            LOWEST=-746.0,
            SHIFT=6755399441055744.0,
            HIGH=6.93147180369123816490e-01,
            LOW=1.90821492927058770002e-10,
            TERMS=14,
            INTEGER=tl.int64,
            MANTISSA=52,
            BIAS=1023,
        )
    else:
        exponentials_of_x = exponentials_by_series(
            x,
            LOWEST=-104.0,
            SHIFT=12582912.0,
            HIGH=0.693359375,
            LOW=-2.12194440054690583e-4,
            TERMS=7,
            INTEGER=tl.int32,
            MANTISSA=23,
            BIAS=127,
        )
    return exponentials_of_x


@triton.jit
def exponentials_by_series(
    x,
    LOWEST: tl.constexpr,  # whose exponential is 0
    SHIFT: tl.constexpr,  # 1.5 · 2 to the bits of the mantissa: beside it a number has no fraction
    HIGH: tl.constexpr,  # and LOW make log(2); the last bits of HIGH are zeros, so that n · HIGH is exact
    LOW: tl.constexpr,
    TERMS: tl.constexpr,
    INTEGER: tl.constexpr,
    MANTISSA: tl.constexpr,
    BIAS: tl.constexpr,  # of the exponent
):
    """x is n log(2) + r with an n that is whole: ``exp(x)`` is 2ⁿ exp(r), and of ``exp(r) − 1`` the first
    terms of its series are enough. A NaN is in r, so that it stays one."""
    x = tl.where(x < LOWEST, LOWEST, x)
    shift = constant(SHIFT, x)
    shifted = tl.fma(x, constant(1.4426950408889634, x), shift)
    whole = shifted - shift
    r = tl.fma(whole, constant(-LOW, x), tl.fma(whole, constant(-HIGH, x), x))
    series = constant(inverse_factorial(TERMS), x)
    for i in tl.static_range(TERMS - 2):
        series = tl.fma(series, r, constant(inverse_factorial(TERMS - 1 - i), x))
    of_r = tl.fma(r * r, series, r)  # exp(r) − 1
    n = shifted.to(INTEGER, bitcast=True) - shift.to(INTEGER, bitcast=True)
    # As a product: below the least exponent there are smaller numbers yet.
    half = n >> 1
    scale = ((half + BIAS) << MANTISSA).to(x.dtype, bitcast=True)
    scale *= ((n - half + BIAS) << MANTISSA).to(x.dtype, bitcast=True)
    return tl.fma(scale, of_r, scale), tl.fma(scale, of_r, scale - 1)
