"""The backward: its launch. Needs Triton."""

import functools
import math

import torch

from jumpstart_kernels.ops import reference
from jumpstart_kernels.ops.arguments import Gradients, InputGradients, Options, Saved
from jumpstart_kernels.ops.layout import dense_format, make_layout, unit_rows
from jumpstart_kernels.ops.triton import plan
from jumpstart_kernels.ops.triton.backward import jumpstart_activation_backward_kernel
from jumpstart_kernels.ops.triton.launch import (
    Launch,
    device_of,
    float_bits,
    is_aligned,
    offset_dtype,
    registers,
)


def jumpstart_activation_backward(gradients: Gradients, saved: Saved, options: Options) -> InputGradients:
    """As the reference's, for a gradient of the output that is dense like the result. One launch."""
    if math.prod(saved.size) == 0:
        return reference.jumpstart_activation_backward(gradients, saved, options)
    extrema, dtype = saved.extrema, saved.dtype
    memory_format = dense_format(len(saved.size), saved.channels_last)
    grad_x = torch.empty(saved.size, dtype=dtype, device=extrema.device, memory_format=memory_format)
    launch = _backward(
        torch.Size(saved.size), options.unit_dim, saved.channels_last, extrema.shape[1], dtype,
        gradients.output is None or is_aligned(gradients.output), options.activation,
        *(gradient is not None for gradient in gradients),
    )  # fmt: skip
    grad_output, grad_slack_sums, grad_extrema = gradients
    with device_of(grad_x):
        launch(
            grad_x.get_device(),
            None if grad_output is None else grad_output.to(dtype),
            None if grad_slack_sums is None else grad_slack_sums.to(extrema.dtype).contiguous(),
            None if grad_extrema is None else grad_extrema.to(extrema.dtype).contiguous(),
            saved.mask,
            extrema,
            saved.indices,
            grad_x,
            float_bits(options.margin),
            float_bits(options.parameter),
        )
    grad_bias = None
    if saved.with_grad_bias:
        grad_bias = unit_rows(grad_x.to(extrema.dtype), options.unit_dim).sum(1).to(dtype)
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
    *gradients: bool,  # which of the three there are, and the kernel is compiled for
) -> Launch:
    layout = make_layout(size, unit_dim, channels_last)
    points = count - layout.units
    position_points = points == math.prod(size) // layout.units  # samples of one position included
    grid = plan.make_grid(layout, position_points, dtype.itemsize, aligned)
    return Launch(
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
        **registers(80),
    )
