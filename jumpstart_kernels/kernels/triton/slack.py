"""Slack and its sums: the mathematics of ``kernels/slack.py``."""

import triton
import triton.language as tl

SUMS: tl.constexpr = tl.constexpr(5)


@triton.jit
def margin_from_bits(margin_bits, dtype: tl.constexpr):
    """The margin, which travels as the bits of a float64: a float argument would be rounded to float32."""
    return margin_bits.to(tl.int64).to(tl.float64, bitcast=True).to(dtype)


@triton.jit
def slacks(maxima, minima, margin_bits):
    """s⁺ and s⁻, in which NaN stays."""
    margin = margin_from_bits(margin_bits, maxima.dtype)
    positive, negative = margin - maxima, margin + minima
    return tl.where(positive <= 0, 0.0, positive), tl.where(negative <= 0, 0.0, negative)


@triton.jit
def sum_slacks(positive, negative):
    """Σs⁺, Σs⁻, Σs⁺², Σs⁻², Σs⁺s⁻."""
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
def store_extrema(
    extrema_ptr,  # [2, count]
    indices_ptr,  # [2, count]
    position,
    count,
    maxima,
    minima,
    max_index,
    min_index,
    valid,
):
    tl.store(extrema_ptr + position, maxima, mask=valid)
    tl.store(extrema_ptr + count + position, minima, mask=valid)
    tl.store(indices_ptr + position, max_index, mask=valid)
    tl.store(indices_ptr + count + position, min_index, mask=valid)


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
    by_product = tl.load(grad_slack_sums_ptr + 4)
    by_positive = tl.load(grad_slack_sums_ptr)
    by_positive += 2 * gradient_times_slack(tl.load(grad_slack_sums_ptr + 2), positive)
    by_positive += gradient_times_slack(by_product, negative)
    by_negative = tl.load(grad_slack_sums_ptr + 1)
    by_negative += 2 * gradient_times_slack(tl.load(grad_slack_sums_ptr + 3), negative)
    by_negative += gradient_times_slack(by_product, positive)
    return tl.where(positive == 0, 0.0, -by_positive), tl.where(negative == 0, 0.0, by_negative)
