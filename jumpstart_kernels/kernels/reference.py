"""The operator in plain PyTorch: the oracle of every test, and the fallback on any device.

This page is the definition written down; the other backends are it made fast.
"""

import torch
from torch import Tensor

from jumpstart_kernels.kernels.layout import (
    Layout,
    as_matrix,
    from_matrix,
    is_channels_last,
    make_layout,
    pack_mask,
    point_rows,
    statistics_dtype,
    unit_rows,
    unpack_mask,
)
from jumpstart_kernels.kernels.slack import slack_gradients, slacks, sum_slacks


def jumpstart_relu_forward(
    x: Tensor,  # [N, C, *], units along unit_dim
    unit_dim: int,
    position_points: bool,
    margin: float,
    apply_relu: bool,
    all_indices: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """ReLU and the statistics of its pre-activation.

    Returns:
        output: ``relu(x)``, or ``[0]`` without ``apply_relu``.
        mask: uint8 ``[matrix rows, ceil(matrix columns / 8)]``: the bit of an element is set unless
            ``x <= 0``; ``[0, 0]`` without ``apply_relu``.
        slack_sums: ``[2, 5]``, for units and for points Σs⁺, Σs⁻, Σs⁺², Σs⁻², Σs⁺s⁻.
        extrema: ``[2, C + P]``, maxima then minima; of the units, behind them of the points.
        indices: int64 ``[2, C + P]``, the place of each extremum in ``x.flatten()``, the first of those
            that tie. Without ``all_indices`` it is −1 where the slack is zero, and so the gradient.
    """
    layout = make_layout(x.shape, unit_dim, is_channels_last(x, unit_dim))
    by_unit, by_point = unit_rows(x, unit_dim), point_rows(x, unit_dim, position_points)
    if x.numel() > 0:
        unit_max, unit_argmax = by_unit.max(1)
        unit_min, unit_argmin = by_unit.min(1)
        point_max, point_argmax = by_point.max(1)
        point_min, point_argmin = by_point.min(1)
        extrema = torch.stack([torch.cat([unit_max, point_max]), torch.cat([unit_min, point_min])])
        extrema = extrema.to(statistics_dtype(x.dtype))
        places = torch.stack([torch.cat([unit_argmax, point_argmax]), torch.cat([unit_argmin, point_argmin])])
        slack = slacks(extrema, margin)
    else:  # extrema of nothing, which no slack comes from
        count = by_unit.shape[0] + by_point.shape[0]
        extrema = torch.tensor([[-torch.inf], [torch.inf]], dtype=statistics_dtype(x.dtype), device=x.device)
        extrema = extrema.repeat(1, count)
        places = torch.full((2, count), -1, device=x.device)
        slack = torch.zeros_like(extrema)

    indices = _flat_indices(places, layout, position_points, x)
    if not all_indices:
        indices = torch.where(slack == 0, -1, indices)

    if apply_relu:
        output = torch.relu(x)
        mask = pack_mask(~(as_matrix(x, layout) <= 0))  # as in torch.relu, a NaN passes its gradient
    else:
        output, mask = x.new_empty(0), x.new_empty((0, 0), dtype=torch.uint8)
    return output, mask, sum_slacks(slack, layout.units), extrema, indices


def jumpstart_relu_backward(
    grad_output: Tensor | None,  # like output
    grad_slack_sums: Tensor | None,  # [2, 5]
    grad_extrema: Tensor | None,  # [2, C + P]
    mask: Tensor,
    extrema: Tensor,
    indices: Tensor,
    size: list[int],
    channels_last: bool,
    dtype: torch.dtype,
    unit_dim: int,
    margin: float,
) -> Tensor:
    """Gradient of ``x``: the output's through the mask, each extremum's to the element that holds it.

    Differentiable in its tensors, so that PyTorch can derive the double backward from it.
    """
    layout = make_layout(size, unit_dim, channels_last)
    grad_x = torch.zeros(size, dtype=extrema.dtype, device=extrema.device)
    if grad_output is not None:
        positive = from_matrix(unpack_mask(mask, layout.matrix[1]), size, layout)
        grad_x = torch.where(positive, grad_output.to(extrema.dtype), grad_x)
    if grad_x.numel() == 0 or (grad_slack_sums is None and grad_extrema is None):
        return grad_x.to(dtype)

    grad_values = torch.zeros_like(extrema) if grad_extrema is None else grad_extrema
    if grad_slack_sums is not None:
        grad_values = grad_values + slack_gradients(extrema, grad_slack_sums, layout.units, margin)
    grad_values = torch.where(indices < 0, 0.0, grad_values)
    grad_x = grad_x.flatten()
    # In each of these four groups an element is hit at most once, so the order of additions, and with it
    # every bit of the sums, is fixed on any device.
    for group in (slice(None, layout.units), slice(layout.units, None)):
        for side in (0, 1):
            grad_x = grad_x.index_add(0, indices[side, group].clamp(min=0), grad_values[side, group])
    return grad_x.view(size).to(dtype)


def _flat_indices(places: Tensor, layout: Layout, position_points: bool, x: Tensor) -> Tensor:
    """From the place within its unit or point to the place in ``x.flatten()``, ``[2, C + P]``."""
    if x.numel() == 0:
        return places
    units = layout.units
    inner = layout.rows if layout.channels_last else layout.inner  # positions behind the unit dimension
    unit_places, point_places = places[:, :units], places[:, units:]
    unit = torch.arange(units, device=x.device)
    point = torch.arange(point_places.shape[1], device=x.device)
    unit_indices = (unit_places // inner * units + unit) * inner + unit_places % inner
    if position_points:
        point_indices = (point // inner * units + point_places) * inner + point % inner
    else:
        point_indices = point * (x.numel() // len(point)) + point_places
    return torch.cat([unit_indices, point_indices], 1)
