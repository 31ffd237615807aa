"""Slack and its sums: the mathematics of ``ops/slack.py``."""

import triton
import triton.language as tl

from jumpstart_kernels.ops.slack import SlackSum
from jumpstart_kernels.ops.triton.floats import float_from_bits
from jumpstart_kernels.ops.triton.plan import power_of_two

SUMS: tl.constexpr = tl.constexpr(len(SlackSum))
SUM_ROWS: tl.constexpr = tl.constexpr(power_of_two(len(SlackSum)))  # a tile's sizes are powers of two
POSITIVE: tl.constexpr = tl.constexpr(int(SlackSum.POSITIVE))
NEGATIVE: tl.constexpr = tl.constexpr(int(SlackSum.NEGATIVE))
POSITIVE_SQUARED: tl.constexpr = tl.constexpr(int(SlackSum.POSITIVE_SQUARED))
NEGATIVE_SQUARED: tl.constexpr = tl.constexpr(int(SlackSum.NEGATIVE_SQUARED))
PRODUCT: tl.constexpr = tl.constexpr(int(SlackSum.PRODUCT))


@triton.jit
def slacks(maxima, minima, margin_bits):
    """s⁺ and s⁻, in which NaN stays."""
    margin = float_from_bits(margin_bits, maxima.dtype)
    positive, negative = margin - maxima, margin + minima
    return tl.where(positive <= 0, 0.0, positive), tl.where(negative <= 0, 0.0, negative)


@triton.jit
def limit(maxima, minima, positive, negative, margin_bits):
    """Extrema as far as their slack knows them; NaN stays."""
    margin = float_from_bits(margin_bits, maxima.dtype)
    return tl.where(positive == 0, margin, maxima), tl.where(negative == 0, -margin, minima)


@triton.jit
def sum_slacks(positive, negative):
    """Σs⁺, Σs⁻, Σs⁺², Σs⁻², Σs⁺s⁻: in the order of SlackSum."""
    # Where one slack is zero the product is zero, also beside an infinite one.
    product = tl.where((positive == 0) | (negative == 0), 0.0, positive * negative)
    return (
        tl.sum(positive, 0),
        tl.sum(negative, 0),
        tl.sum(positive * positive, 0),
        tl.sum(negative * negative, 0),
        tl.sum(product, 0),
    )


@triton.jit
def gradient_times_slack(grad, slack):
    """``grad * slack``, where a sum that is not in the loss stays out of it beside an infinite slack too."""
    grad = tl.broadcast_to(grad, slack.shape)
    return grad * tl.where((grad == 0) & (slack == float("inf")), 0.0, slack)


@triton.jit
def slack_gradients(
    maxima,
    minima,
    grad_slack_sums_ptr,  # of the units, or of the points
    margin_bits,
):
    """Gradients of maxima and minima from that of the sums of their slack; zero at a hinge's kink."""
    positive, negative = slacks(maxima, minima, margin_bits)
    by_product = tl.load(grad_slack_sums_ptr + PRODUCT)
    by_positive = tl.load(grad_slack_sums_ptr + POSITIVE)
    by_positive += 2 * gradient_times_slack(tl.load(grad_slack_sums_ptr + POSITIVE_SQUARED), positive)
    by_positive += gradient_times_slack(by_product, negative)
    by_negative = tl.load(grad_slack_sums_ptr + NEGATIVE)
    by_negative += 2 * gradient_times_slack(tl.load(grad_slack_sums_ptr + NEGATIVE_SQUARED), negative)
    by_negative += gradient_times_slack(by_product, positive)
    return tl.where(positive == 0, 0.0, -by_positive), tl.where(negative == 0, 0.0, by_negative)
