"""The backward: its launch. Needs Triton."""

import functools
import math
from typing import NamedTuple

import torch

from jumpstart_kernels.ops import reference
from jumpstart_kernels.ops.arguments import Gradients, InputGradients, Options, Saved
from jumpstart_kernels.ops.layout import dense_format, make_layout
from jumpstart_kernels.ops.triton import plan
from jumpstart_kernels.ops.triton.backward import jumpstart_activation_backward_kernel
from jumpstart_kernels.ops.triton.bias import jumpstart_activation_backward_bias_kernel
from jumpstart_kernels.ops.triton.launch import (
    Launch,
    device_of,
    float_bits,
    is_aligned,
    offset_dtype,
    registers,
)


class Backward(NamedTuple):
    """What a backward needs to know, see :func:`_backward`."""

    sums: int  # partial sums over units; 0 without a gradient of the bias
    launches: list[Launch]


def jumpstart_activation_backward(gradients: Gradients, saved: Saved, options: Options) -> InputGradients:
    """As the reference's, for a gradient of the output that is dense like the result.

    One launch; with the gradient of a bias two, or one where no unit is shared among programs.
    """
    if math.prod(saved.size) == 0:
        return reference.jumpstart_activation_backward(gradients, saved, options)
    extrema, dtype = saved.extrema, saved.dtype
    memory_format = dense_format(len(saved.size), saved.channels_last)
    grad_x = torch.empty(saved.size, dtype=dtype, device=extrema.device, memory_format=memory_format)
    sums, launches = _backward(
        torch.Size(saved.size), options.unit_dim, saved.channels_last, extrema.shape[1], dtype,
        gradients.output is None or is_aligned(gradients.output), options.activation, saved.with_grad_bias,
        *(gradient is not None for gradient in gradients),
    )  # fmt: skip
    grad_output, grad_slack_sums, grad_extrema = gradients
    if grad_output is not None:
        grad_output = grad_output.to(dtype)
    of_statistics = (
        None if grad_slack_sums is None else grad_slack_sums.to(extrema.dtype).contiguous(),
        None if grad_extrema is None else grad_extrema.to(extrema.dtype).contiguous(),
    )
    places = (extrema, saved.indices)
    margin_bits, parameter_bits = float_bits(options.margin), float_bits(options.parameter)
    partial_sums = grad_bias = whole_bias = None
    if saved.with_grad_bias:
        partial_sums = extrema.new_empty(sums)
        grad_bias = extrema.new_empty(saved.size[options.unit_dim], dtype=dtype)
        whole_bias = grad_bias if len(launches) == 1 else None
    with device_of(grad_x):
        device = grad_x.get_device()
        launches[0](
            device, grad_output, *of_statistics, saved.mask, *places, grad_x, partial_sums, whole_bias,
            margin_bits, parameter_bits,
        )  # fmt: skip
        if len(launches) > 1:
            launches[1](device, *of_statistics, *places, partial_sums, grad_bias, margin_bits)
    return InputGradients(grad_x, grad_bias)


@functools.lru_cache(maxsize=1024)
def _backward(
    size: torch.Size,
    unit_dim: int,
    channels_last: bool,
    count: int,
    dtype: torch.dtype,
    aligned: bool,
    activation: str,
    with_grad_bias: bool,
    *gradients: bool,  # which of the three there are, and the kernel is compiled for
) -> Backward:
    layout = make_layout(size, unit_dim, channels_last)
    points = count - layout.units
    position_points = points == math.prod(size) // layout.units  # samples of one position included
    make_grid = plan.make_bias_grid if with_grad_bias else plan.make_grid
    grid = make_grid(layout, position_points, dtype.itemsize, aligned)
    streaming = Launch(
        jumpstart_activation_backward_kernel,
        grid.programs,
        {
            "rows": grid.rows,
            "columns": grid.columns,
            "regions": grid.regions,
            "tiles": grid.tiles,
            "steps": grid.steps,
            "units": layout.units,
            "points": points,
            "inner": layout.rows if channels_last else layout.inner,
            "rows_of_point": (
                1 if position_points else layout.rows * (1 if layout.inner == 1 else layout.units)
            ),
            "ACTIVATION": activation,
            "POSITION_POINTS": position_points,
            "CHANNELS_LAST": channels_last,
            "UNITS_FASTEST": layout.inner == 1,
            "offset_dtype": offset_dtype(grid.span),
            "TILE": grid.tile,
        },
        **registers(96 if with_grad_bias else 80),
    )
    if not with_grad_bias:
        return Backward(0, [streaming])
    partials = plan.bias_partials(grid, layout)
    sums = partials.groups * partials.items * partials.per_item
    if layout.inner == 1 and partials.groups == 1:
        return Backward(sums, [streaming])
    merge = Launch(
        jumpstart_activation_backward_bias_kernel,
        partials.programs,
        {
            "groups": partials.groups,
            "units": partials.items,
            "per_unit": partials.per_item,
            "points": points,
            "BLOCK": partials.block,
        },
        num_warps=plan.STATISTICS_WARPS,
    )
    return Backward(sums, [streaming, merge])
