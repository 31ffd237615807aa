"""The penalty over all layers' slack sums, kernels and launches: the counterpart of ``ops/reference.py``."""

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from jumpstart_kernels.ops import slack
from jumpstart_kernels.ops.reference import check_penalty
from jumpstart_kernels.ops.triton import plan
from jumpstart_kernels.ops.triton.floats import float_from_bits
from jumpstart_kernels.ops.triton.launch import Launch, device_of, float_bits

LAYER_SUMS: tl.constexpr = tl.constexpr(slack.LAYER_SUMS)
LANES: tl.constexpr = tl.constexpr(plan.power_of_two(slack.LAYER_SUMS))
BLOCK = 64  # layers that are looked at at once, at most
WEIGHTS = [f"weight{i}" for i in range(slack.LAYER_SUMS)]


@triton.jit
def weight_vector(weights):
    """The weights ``[LANES]``, which travel as the bits of float64, and zeros behind them."""
    lane = tl.arange(0, LANES)
    bits = tl.zeros([LANES], tl.int64)
    for i in tl.static_range(LAYER_SUMS):
        bits = tl.where(lane == i, weights[i], bits)
    return float_from_bits(bits, tl.float64)


@triton.jit(do_not_specialize=["layers", *WEIGHTS])
def penalty_kernel(
    slack_sums_ptr,  # [layers, 2, 5]
    value_ptr,  # []
    layers,
    weight0: tl.int64,
    weight1: tl.int64,
    weight2: tl.int64,
    weight3: tl.int64,
    weight4: tl.int64,
    weight5: tl.int64,
    weight6: tl.int64,
    weight7: tl.int64,
    weight8: tl.int64,
    weight9: tl.int64,
    SQUARE_ROOT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program. Sums in float64, in an order that nothing but the number of layers decides."""
    weights = weight_vector(
        (weight0, weight1, weight2, weight3, weight4, weight5, weight6, weight7, weight8, weight9)
    )
    lane = tl.arange(0, LANES)
    # A sum without weight stays out, even if it is not finite.
    counted = (lane < LAYER_SUMS) & (weights != 0)
    total = tl.zeros([BLOCK, LANES], tl.float64)
    for first in range(0, layers, BLOCK):
        layer = first + tl.arange(0, BLOCK)
        valid = (layer < layers)[:, None] & counted[None, :]
        offset = layer[:, None] * LAYER_SUMS + lane[None, :]
        total += tl.load(slack_sums_ptr + offset, mask=valid, other=0).to(tl.float64)
    value = tl.sum(tl.sum(total, 0) * weights, 0)
    if SQUARE_ROOT:
        value = tl.sqrt(value)
    tl.store(value_ptr, value.to(value_ptr.dtype.element_ty))


@triton.jit(do_not_specialize=WEIGHTS, do_not_specialize_on_alignment=["grad_ptr", "value_ptr", "by_sum_ptr"])
def penalty_backward_kernel(
    grad_ptr,  # []
    value_ptr,  # [], the penalty if it is a square root
    by_sum_ptr,  # [2, 5]
    weight0: tl.int64,
    weight1: tl.int64,
    weight2: tl.int64,
    weight3: tl.int64,
    weight4: tl.int64,
    weight5: tl.int64,
    weight6: tl.int64,
    weight7: tl.int64,
    weight8: tl.int64,
    weight9: tl.int64,
    SQUARE_ROOT: tl.constexpr,
):
    weights = weight_vector(
        (weight0, weight1, weight2, weight3, weight4, weight5, weight6, weight7, weight8, weight9)
    )
    factor = tl.load(grad_ptr).to(tl.float64)
    if SQUARE_ROOT:
        value = tl.load(value_ptr).to(tl.float64)
        factor = tl.where(value == 0, 0.0, factor / (2 * tl.where(value == 0, 1.0, value)))  # gradient 0 at 0
    lane = tl.arange(0, LANES)
    by_sum = (factor * weights).to(by_sum_ptr.dtype.element_ty)
    tl.store(by_sum_ptr + lane, by_sum, mask=lane < LAYER_SUMS)


def penalty(slack_sums: list[Tensor], weights: list[float], square_root: bool) -> Tensor:
    """As the reference's: one copy of all slack sums, one launch."""
    check_penalty(slack_sums, weights)
    stacked = torch.stack(slack_sums)
    value = stacked.new_empty(())
    launch = _penalty(len(slack_sums), stacked.dtype, tuple(weights), square_root)
    with device_of(value):
        launch(value.get_device(), stacked, value)
    return value


def penalty_backward(grad: Tensor, value: Tensor | None, weights: list[float]) -> Tensor:
    """As the reference's, in one launch."""
    by_sum = grad.new_empty(slack.SUMS_SHAPE)
    launch = _penalty_backward(grad.dtype, tuple(weights), value is not None)
    with device_of(by_sum):
        launch(by_sum.get_device(), grad, grad if value is None else value, by_sum)
    return by_sum


@functools.lru_cache(maxsize=1024)
def _penalty(layers: int, dtype: torch.dtype, weights: tuple[float, ...], square_root: bool) -> Launch:
    constants = {"SQUARE_ROOT": square_root, "BLOCK": min(BLOCK, plan.power_of_two(layers))}
    return Launch(penalty_kernel, 1, {"layers": layers, **_by_name(weights), **constants})


@functools.lru_cache(maxsize=1024)
def _penalty_backward(dtype: torch.dtype, weights: tuple[float, ...], square_root: bool) -> Launch:
    return Launch(penalty_backward_kernel, 1, {**_by_name(weights), "SQUARE_ROOT": square_root})


def _by_name(weights: tuple[float, ...]) -> dict[str, int]:
    """As the kernels take them."""
    return dict(zip(WEIGHTS, map(float_bits, weights), strict=True))
