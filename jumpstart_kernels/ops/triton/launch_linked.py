"""Linked activations: their launches; a forward with statistics is in ``launch_forward.py``. Needs Triton."""

import functools
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from jumpstart_kernels.ops import reference
from jumpstart_kernels.ops.activations import LINKED_ACTIVATIONS
from jumpstart_kernels.ops.arguments import (
    NO_STATISTICS,
    ForwardResult,
    Gradients,
    LinkedInputGradients,
    LinkedSaved,
    Options,
    Saved,
)
from jumpstart_kernels.ops.layout import (
    Layout,
    dense_format,
    is_channels_last,
    linked_mask_shape,
    linked_size,
    make_layout,
    statistics_dtype,
)
from jumpstart_kernels.ops.triton import plan
from jumpstart_kernels.ops.triton.bias import jumpstart_activation_backward_bias_kernel
from jumpstart_kernels.ops.triton.launch import (
    Launch,
    alignment,
    device_of,
    float_bits,
    is_aligned,
    offset_dtype,
    registers,
)
from jumpstart_kernels.ops.triton.launch_backward import jumpstart_activation_backward
from jumpstart_kernels.ops.triton.launch_forward import forward_into
from jumpstart_kernels.ops.triton.linked import (
    linked_activation_backward_kernel,
    linked_activation_forward_kernel,
)

_ROWS = 16  # enough to fill a tile


class Forward(NamedTuple):
    """What a forward without statistics needs to know, see :func:`_forward`."""

    mask_shape: tuple[int, int]
    launch: Launch


class Backward(NamedTuple):
    """What a backward needs to know, see :func:`_backward`."""

    sums: int  # partial sums of the slopes' gradients; 0 where there are none
    launches: list[Launch]


def linked_activation_forward(x: Tensor, weight: Tensor | None, options: Options) -> ForwardResult:
    """As the reference's, for a dense ``x``: one launch, or with statistics the launches that these take."""
    if x.numel() == 0:
        return reference.linked_activation_forward(x, weight, options)
    activation, _, unit_dim, *_ = options
    channels_last = is_channels_last(x, unit_dim)
    output = torch.empty(
        linked_size(x.shape, unit_dim),
        dtype=x.dtype,
        device=x.device,
        memory_format=dense_format(x.dim(), channels_last),
    )
    if options.extrema_kind != NO_STATISTICS:
        return forward_into(output, x, None, weight, options)
    forward = _forward(
        x.shape, unit_dim, channels_last, x.dtype, is_aligned(x), activation, alignment(weight)
    )
    mask = x.new_empty(forward.mask_shape, dtype=torch.uint8)
    with device_of(x):
        forward.launch(x.get_device(), x, weight, output, mask if mask.numel() else None)
    exact = statistics_dtype(x.dtype)
    return ForwardResult(
        output,
        mask,
        x.new_empty(0, dtype=exact),
        x.new_empty((2, 0), dtype=exact),
        x.new_empty((2, 0), dtype=torch.int64),
    )


def linked_activation_backward(
    gradients: Gradients, saved: LinkedSaved, options: Options
) -> LinkedInputGradients:
    """As the reference's, for a gradient of the output and an ``x`` that are dense like the result.

    One launch; with the gradient of slopes two, or one where no unit is shared among programs.
    """
    if math.prod(saved.size) == 0:
        return reference.linked_activation_backward(gradients, saved, options)
    if gradients.output is None:
        return _without_output(gradients, saved, options)
    x, dtype, extrema = saved.x, saved.dtype, saved.extrema
    grad_output, grad_slack_sums, grad_extrema = gradients
    assert grad_output is not None
    grad_output = grad_output.to(dtype)
    memory_format = dense_format(len(saved.size), saved.channels_last)
    grad_x = torch.empty(saved.size, dtype=dtype, device=saved.mask.device, memory_format=memory_format)
    sums, launches = _backward(
        torch.Size(saved.size), options.unit_dim, saved.channels_last, extrema.shape[1], dtype,
        is_aligned(grad_output), alignment(x), options.activation, saved.with_grad_weight,
        alignment(saved.weight), grad_slack_sums is not None, grad_extrema is not None,
    )  # fmt: skip
    grad_weight = partial_sums = None
    if saved.with_grad_weight:
        grad_weight = grad_x.new_empty((2, saved.size[options.unit_dim]))
        partial_sums = grad_x.new_empty(sums, dtype=statistics_dtype(dtype)) if sums else grad_weight
    with device_of(grad_x):
        device = grad_x.get_device()
        launches[0](
            device,
            grad_output,
            None if grad_slack_sums is None else grad_slack_sums.to(extrema.dtype).contiguous(),
            None if grad_extrema is None else grad_extrema.to(extrema.dtype).contiguous(),
            x,
            saved.weight,
            saved.mask if x is None else None,
            extrema,
            saved.indices,
            grad_x,
            partial_sums,
            float_bits(options.margin),
        )
        if len(launches) > 1:
            launches[1](device, None, None, None, None, partial_sums, grad_weight, 0)
    return LinkedInputGradients(grad_x, grad_weight)


def _without_output(gradients: Gradients, saved: LinkedSaved, options: Options) -> LinkedInputGradients:
    """Where only extrema have a gradient, as of any other activation."""
    mask, extrema, indices = saved.mask, saved.extrema, saved.indices
    of_statistics = Saved(mask, extrema, indices, saved.size, saved.channels_last, saved.dtype, False)
    grad_x, _ = jumpstart_activation_backward(gradients, of_statistics, options._replace(activation="relu"))
    wanted = saved.with_grad_weight
    return LinkedInputGradients(
        grad_x, grad_x.new_zeros((2, saved.size[options.unit_dim])) if wanted else None
    )


@functools.lru_cache(maxsize=1024)
def _forward(
    size: torch.Size,
    unit_dim: int,
    channels_last: bool,
    dtype: torch.dtype,
    aligned: bool,
    activation: str,
    weight_aligned: bool | None,  # None without a weight; only what Triton compiles depends on it
) -> Forward:
    layout = make_layout(size, unit_dim, channels_last)
    masked = linked_mask_shape(layout) if LINKED_ACTIVATIONS[activation].from_sign else (0, 0)
    layout = _cut_freely(layout, activation)
    grid = plan.make_grid(layout, True, dtype.itemsize, aligned)
    settled = {**_of_grid(grid, layout, activation), "WHOLE_BYTES": grid.columns % 8 == 0}
    return Forward(masked, Launch(linked_activation_forward_kernel, grid.programs, settled, **registers(96)))


@functools.lru_cache(maxsize=1024)
def _backward(
    size: torch.Size,
    unit_dim: int,
    channels_last: bool,
    count: int,  # of extrema; 0 without statistics
    dtype: torch.dtype,
    grad_output_aligned: bool,
    x_aligned: bool | None,
    activation: str,
    with_grad_weight: bool,
    weight_aligned: bool | None,  # as in a forward
    *of_statistics: bool,  # which of their two gradients there are, and the kernel is compiled for
) -> Backward:
    layout = make_layout(size, unit_dim, channels_last)
    units, points = layout.units, max(count - layout.units, 0)
    position_points = not any(of_statistics) or points == math.prod(size) // units
    rows_of_point = 1 if position_points else layout.rows * (1 if layout.inner == 1 else units)
    inner = layout.rows if channels_last else layout.inner
    if not any(of_statistics):
        layout = _cut_freely(layout, activation)
    make_grid = plan.make_bias_grid if with_grad_weight else plan.make_grid
    aligned = grad_output_aligned and x_aligned is not False
    grid = make_grid(layout, position_points or layout.inner > 1, dtype.itemsize, aligned)
    if with_grad_weight:  # slopes and their sums take registers
        grid = plan.halve_tiles(grid)
    settled = {
        **_of_grid(grid, layout, activation),
        "units": units,
        "points": points,
        "inner": inner,
        "rows_of_point": rows_of_point,
        "POSITION_POINTS": position_points,
        "CHANNELS_LAST": channels_last,
    }
    streaming = Launch(linked_activation_backward_kernel, grid.programs, settled, **registers(128))
    if not with_grad_weight:
        return Backward(0, [streaming])
    partials = plan.bias_partials(grid, layout)
    partials = partials._replace(items=2 * partials.items)  # the slopes of both halves
    if layout.inner == 1 and partials.groups == 1:
        return Backward(0, [streaming])
    merge = Launch(
        jumpstart_activation_backward_bias_kernel,
        partials.programs,
        {
            "groups": partials.groups,
            "units": partials.items,
            "per_unit": partials.per_item,
            "points": 0,
            "BLOCK": partials.block,
        },
        num_warps=plan.STATISTICS_WARPS,
    )
    return Backward(partials.groups * partials.items * partials.per_item, [streaming, merge])


def _cut_freely(layout: Layout, activation: str) -> Layout:
    """With neither masks nor slopes of its own a unit's plane needs no row to itself."""
    definition = LINKED_ACTIVATIONS[activation]
    if layout.inner == 1 or definition.from_sign or definition.slope_derivative is not None:
        return layout
    length = layout.units * layout.inner
    if layout.samples * layout.rows >= _ROWS:
        return layout._replace(units=length, inner=1)
    columns = min(length & -length, 512)
    return layout._replace(units=length // columns, inner=columns) if columns > 1 else layout


def _of_grid(grid: plan.Grid, layout: Layout, activation: str) -> dict[str, Any]:
    """Arguments of both kernels."""
    units_fastest = layout.inner == 1
    return {
        "rows": grid.rows,
        "columns": grid.columns,
        "regions": grid.regions,
        "tiles": grid.tiles,
        "steps": grid.steps,
        "ACTIVATION": activation,
        "UNITS_FASTEST": units_fastest,
        "offset_dtype": offset_dtype(grid.span * (2 if units_fastest else 1)),  # in the output
        "TILE": grid.tile,
    }
