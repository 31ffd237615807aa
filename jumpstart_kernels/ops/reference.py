"""The operators in plain PyTorch: the oracle of every test, and the fallback on any device.

This file is the definition; the other backends are fast implementations of it.
"""

import torch
from torch import Tensor

from jumpstart_kernels.ops.activations import ACTIVATIONS, LINKED_ACTIVATIONS, NONE
from jumpstart_kernels.ops.arguments import (
    NO_STATISTICS,
    ForwardResult,
    Gradients,
    InputGradients,
    LinkedInputGradients,
    LinkedSaved,
    Options,
    Saved,
)
from jumpstart_kernels.ops.layout import (
    Layout,
    along_units,
    as_matrix,
    dense_format,
    empty_output,
    from_matrix,
    is_channels_last,
    make_layout,
    pack_mask,
    point_rows,
    statistics_dtype,
    unit_rows,
    unpack_mask,
)
from jumpstart_kernels.ops.slack import LAYER_SUMS, SUMS_SHAPE, slack_gradients, slacks, sum_slacks


def unavailable(device_type: str) -> None:
    """This backend runs everywhere."""


def jumpstart_activation_forward(x: Tensor, bias: Tensor | None, options: Options) -> ForwardResult:
    """An activation and the statistics of its input ``[N, C, *]``, whose units are along ``unit_dim``.

    With a bias ``[C]`` its input is ``x + bias``, rounded to the dtype of both.
    """
    activation, parameter, unit_dim, position_points, margin, kind = options
    layout = make_layout(x.shape, unit_dim, is_channels_last(x, unit_dim))
    if bias is not None:
        x = empty_output(x).copy_(x + along_units(bias, x.dim(), unit_dim))
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
        if kind == "limited":
            # By way of float64, since a margin may be infinite in float32.
            limit = torch.full_like(extrema[0], margin, dtype=torch.float64).to(extrema.dtype)
            extrema = torch.where(slack == 0, torch.stack([limit, -limit]), extrema)
    else:  # an empty tensor: no slack
        count = by_unit.shape[0] + by_point.shape[0]
        nothing = x.new_full((count,), -torch.inf, dtype=statistics_dtype(x.dtype))
        extrema = torch.stack([nothing, -nothing])
        places = torch.full((2, count), -1, device=x.device)
        slack = torch.zeros_like(extrema)

    indices = _flat_indices(places, layout, position_points, x)
    if kind != "indexed":
        indices = torch.where(slack == 0, -1, indices)

    if activation != NONE:
        output = ACTIVATIONS[activation].value(x, parameter, False)
        mask = pack_mask(~(as_matrix(x, layout) <= 0))  # as in torch.relu, a NaN passes its gradient through
    else:
        output, mask = x.new_empty(0), x.new_empty((0, 0), dtype=torch.uint8)
    return ForwardResult(output, mask, sum_slacks(slack, layout.units), extrema, indices)


def jumpstart_activation_backward(gradients: Gradients, saved: Saved, options: Options) -> InputGradients:
    """Gradient of ``x``: the output's through the mask, plus each extremum's to the element that holds it.

    That of the bias is its sum over each unit, before rounding.

    Differentiable, so that PyTorch can derive the double backward from it.
    """
    mask, extrema, _, size, channels_last, dtype, with_grad_bias = saved
    layout = make_layout(size, options.unit_dim, channels_last)
    grad_x = torch.zeros(size, dtype=extrema.dtype, device=extrema.device)
    if gradients.output is not None:
        positive = from_matrix(unpack_mask(mask, layout.matrix[1]), size, layout)
        gradient = ACTIVATIONS[options.activation].gradient
        grad_x = gradient(gradients.output, positive, options.parameter).to(extrema.dtype)
    if grad_x.numel() > 0 and not (gradients.slack_sums is None and gradients.extrema is None):
        grad_x = _add_extremum_gradients(grad_x.flatten(), gradients, saved, layout, options.margin).view(
            size
        )
    grad_bias = unit_rows(grad_x, options.unit_dim).sum(1).to(dtype) if with_grad_bias else None
    return InputGradients(grad_x.to(dtype), grad_bias)


def linked_activation_forward(x: Tensor, weight: Tensor | None, options: Options) -> ForwardResult:
    """``cat(g(x), g(−x))`` along ``unit_dim`` and the statistics of ``x``, unless they are not asked for.

    Args:
        weight: ``[2, C]``, the slopes of both halves; None if the activation has none.
    """
    unit_dim = options.unit_dim
    layout = make_layout(x.shape, unit_dim, is_channels_last(x, unit_dim))
    if options.extrema_kind == NO_STATISTICS:
        result = _without_statistics(x)
    else:
        result = jumpstart_activation_forward(x, None, options._replace(activation=NONE, parameter=0.0))
    activation = LINKED_ACTIVATIONS[options.activation]
    slopes = _slopes(weight, x.dim(), unit_dim)
    output = torch.cat([activation.value(x, slopes[0]), activation.value(-x, slopes[1])], unit_dim)
    output = output.contiguous(memory_format=dense_format(x.dim(), layout.channels_last))
    mask = result.mask
    if activation.from_sign:
        matrix = as_matrix(x, layout)
        mask = torch.cat([pack_mask(~(matrix <= 0)), pack_mask(~(matrix >= 0))], 1)
    return result._replace(output=output, mask=mask)


def linked_activation_backward(
    gradients: Gradients, saved: LinkedSaved, options: Options
) -> LinkedInputGradients:
    """Gradients of ``x``, ``g'(x)`` times that of the first half minus ``g'(−x)`` times that of the second,
    plus each extremum's, and of the weight, each rounded once.

    Differentiable, so that PyTorch can derive the double backward from it.
    """
    unit_dim, activation = options.unit_dim, LINKED_ACTIVATIONS[options.activation]
    layout = make_layout(saved.size, unit_dim, saved.channels_last)
    exact = statistics_dtype(saved.dtype)
    device = saved.mask.device
    grad_x = torch.zeros(saved.size, dtype=exact, device=device)
    grad_weight = torch.zeros((2, layout.units), dtype=exact, device=device)
    if gradients.output is not None:
        halves = (
            gradients.output.to(exact).split(layout.units, unit_dim) if layout.units else (grad_x, grad_x)
        )
        if activation.from_sign:
            masks = saved.mask.chunk(2, 1)
            first, second = (
                torch.where(from_matrix(unpack_mask(mask, layout.matrix[1]), saved.size, layout), half, 0.0)
                for half, mask in zip(halves, masks, strict=True)
            )
            grad_x = first - second
        else:
            assert saved.x is not None
            x, weight = saved.x.to(exact), None if saved.weight is None else saved.weight.to(exact)
            slopes = _slopes(weight, x.dim(), unit_dim)
            first, second = (
                half * activation.derivative(sign * x, slope)
                for half, sign, slope in zip(halves, (1, -1), slopes, strict=True)
            )
            grad_x = first - second
            if saved.with_grad_weight and activation.slope_derivative is not None:
                by_slope = (activation.slope_derivative(sign * x) for sign in (1, -1))
                products = (half * factor for half, factor in zip(halves, by_slope, strict=True))
                grad_weight = torch.stack([unit_rows(product, unit_dim).sum(1) for product in products])
    if grad_x.numel() > 0 and not (gradients.slack_sums is None and gradients.extrema is None):
        grad_x = _add_extremum_gradients(grad_x.flatten(), gradients, saved, layout, options.margin).view(
            saved.size
        )
    return LinkedInputGradients(
        grad_x.to(saved.dtype), grad_weight.to(saved.dtype) if saved.with_grad_weight else None
    )


def _slopes(weight: Tensor | None, dim: int, unit_dim: int) -> tuple[Tensor | None, Tensor | None]:
    """Those of both halves, to broadcast with ``x``."""
    if weight is None:
        return None, None
    first, second = (along_units(slopes, dim, unit_dim) for slopes in weight.unbind(0))
    return first, second


def _without_statistics(x: Tensor) -> ForwardResult:
    """Nothing, in place of the results that are not asked for."""
    exact = statistics_dtype(x.dtype)
    return ForwardResult(
        x.new_empty(0),
        x.new_empty((0, 0), dtype=torch.uint8),
        x.new_empty(0, dtype=exact),
        x.new_empty((2, 0), dtype=exact),
        x.new_empty((2, 0), dtype=torch.int64),
    )


def _add_extremum_gradients(
    grad_x: Tensor, gradients: Gradients, saved: Saved | LinkedSaved, layout: Layout, margin: float
) -> Tensor:
    """Each extremum's gradient, added to that of the element of the flattened ``x`` that holds it."""
    extrema, indices = saved.extrema, saved.indices
    grad_values = torch.zeros_like(extrema) if gradients.extrema is None else gradients.extrema
    if gradients.slack_sums is not None:
        grad_values = grad_values + slack_gradients(extrema, gradients.slack_sums, layout.units, margin)
    grad_values = torch.where(indices < 0, 0.0, grad_values)
    # Each of these four groups hits an element at most once, so the order of additions, and thus every bit
    # of the result, is fixed on any device.
    for group in (slice(None, layout.units), slice(layout.units, None)):
        for side in (0, 1):
            grad_x = grad_x.index_add(0, indices[side, group].clamp(min=0), grad_values[side, group])
    return grad_x


def _flat_indices(places: Tensor, layout: Layout, position_points: bool, x: Tensor) -> Tensor:
    """Indices within a unit or point to indices in ``x.flatten()``, ``[2, C + P]``."""
    if x.numel() == 0:
        return places
    units = layout.units
    inner = layout.rows if layout.channels_last else layout.inner  # positions after the unit dimension
    unit_places, point_places = places[:, :units], places[:, units:]
    unit = torch.arange(units, device=x.device)
    point = torch.arange(point_places.shape[1], device=x.device)
    unit_indices = (unit_places // inner * units + unit) * inner + unit_places % inner
    if position_points:
        point_indices = (point // inner * units + point_places) * inner + point % inner
    else:
        point_indices = point * (x.numel() // len(point)) + point_places
    return torch.cat([unit_indices, point_indices], 1)


def check_penalty(slack_sums: list[Tensor], weights: list[float]) -> None:
    """Raise for arguments that the operator does not accept."""
    if not slack_sums:
        raise ValueError("slack_sums must hold at least one layer's, got none")
    if len(weights) != LAYER_SUMS:
        raise ValueError(f"weights must be {LAYER_SUMS} numbers, got {len(weights)}")
    first = slack_sums[0]
    for sums in slack_sums:
        if sums.numel() != LAYER_SUMS or sums.dtype != first.dtype or sums.device != first.device:
            raise ValueError(
                f"slack_sums must be of shape {list(SUMS_SHAPE)}, one dtype and one device, got "
                f"{list(sums.shape)} of {sums.dtype} on {sums.device}"
            )


def penalty(slack_sums: list[Tensor], weights: list[float], square_root: bool) -> Tensor:
    """Weighted sum of all layers' ``[2, 5]`` slack sums, 0-dim, or its square root with gradient 0 at 0.

    Args:
        slack_sums: one tensor per layer, of the same dtype and device.
        weights: ten, for the entries of ``[2, 5]``. An entry with weight 0 is ignored, even if not finite.
    """
    total = torch.stack(slack_sums).sum(0).flatten()
    weighted = [weight * total[i] for i, weight in enumerate(weights) if weight]
    value = torch.stack(weighted).sum() if weighted else total.new_zeros(())
    if not square_root:
        return value
    nonzero = value != 0
    return torch.where(nonzero, torch.where(nonzero, value, 1.0).sqrt(), value)


def penalty_backward(grad: Tensor, value: Tensor | None, weights: list[float]) -> Tensor:
    """Gradient ``[2, 5]`` of each layer's slack sums; ``value`` is the penalty if it is a square root."""
    if value is not None:
        nonzero = value != 0
        grad = torch.where(nonzero, grad / (2 * torch.where(nonzero, value, 1.0)), 0.0)
    return torch.stack([weight * grad for weight in weights]).view(SUMS_SHAPE)
