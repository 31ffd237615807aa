"""An activation and the statistics of its input, in one pass."""

from typing import NamedTuple

import torch
from torch import Tensor

from jumpstart_kernels.functional.checks import check_choice, check_input, check_options, check_parameter
from jumpstart_kernels.ops import OVERLOADS
from jumpstart_kernels.ops.activations import ACTIVATIONS, NONE
from jumpstart_kernels.ops.arguments import ForwardResult, Options, Record, check_bias
from jumpstart_kernels.ops.backends import select, select_shortcuts
from jumpstart_kernels.ops.composite import composite_extrema, is_transformed
from jumpstart_kernels.ops.layout import along_units, point_shape
from jumpstart_kernels.ops.slack import slacks, sum_slacks


class JumpstartStatistics(NamedTuple):
    """Statistics for the penalty and the metrics. All differentiable; float32, or float64 for float64.

    ``C`` is the number of units of ``x``; the points have shape ``[N]``, or with ``points="position"`` the
    shape of ``x`` without ``unit_dim``.
    """

    slack_sums: Tensor
    """``[2, 5]``: for units, then for points, Σs⁺, Σs⁻, Σs⁺², Σs⁻² and Σs⁺s⁻, in the order of
    :class:`~jumpstart_kernels.ops.slack.SlackSum`."""
    unit_max: Tensor
    """``[C]``, the largest value of each unit."""
    unit_min: Tensor
    """``[C]``, the smallest value of each unit."""
    point_max: Tensor
    """The largest value of each point."""
    point_min: Tensor
    """The smallest value of each point."""


class JumpstartReLUOutput(NamedTuple):
    """:class:`JumpstartStatistics` behind the output, of the shape, dtype and layout of ``x``."""

    output: Tensor
    slack_sums: Tensor
    unit_max: Tensor
    unit_min: Tensor
    point_max: Tensor
    point_min: Tensor


def jumpstart_relu(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    unit_dim: int = 1,
    points: str = "sample",
    margin: float = 1.0,
    tie_breaking: str = "single",
    inplace: bool = False,
) -> JumpstartReLUOutput:
    """``relu(x)``, with the extrema of ``x`` over its units and points and their slack, in one pass.

    With a bias all of it is of ``x + bias``: the output is that of ``relu(x + bias)`` to the bit, and the
    same backward pass that gives the gradient of ``x`` sums that of the bias, in float32 (float64 for
    float64) and in an order that does not change from run to run.

    Slack is ``s⁺ = relu(margin − max)`` and ``s⁻ = relu(margin + min)`` of a unit or point: Eqs. 3-6 of Riera
    Molina et al., *Unit-Centric Regularization for Efficient Deep Neural Networks*, IEEE Access 13, 2025.

    Args:
        x: pre-activation ``[N, C, *]``, float32, float64, float16 or bfloat16, with any strides.
        bias: ``[C]``, one value for each unit, of the dtype and device of ``x``; None for none.
        unit_dim: the dimension of the units.
        points: what a data point is: ``"sample"``, an index of dimension 0; ``"position"``, an index of all
            dimensions but ``unit_dim``, such as a token or a pixel.
        margin: how far beyond 0 an extremum must be, on the scale of ``x``.
        tie_breaking: which of several tied elements gets an extremum's gradient: ``"single"``, the first in
            row-major order; ``"average"``, all of them evenly; ``"random"``, one drawn from PyTorch's
            generator. The last two are not fused and save twice the memory of ``x``; nothing is fused under
            ``torch.func`` or forward-mode differentiation.
        inplace: overwrite ``x`` with the output, as ``F.relu`` does.

    Returns:
        A named tuple of ``output`` and the fields of :class:`JumpstartStatistics`.

    Raises:
        TypeError: ``x`` is not a tensor of one of these dtypes; ``bias`` is not a tensor of the same one.
        ValueError: an option or ``unit_dim`` is out of range; ``x`` has no dimensions; ``bias`` has another
            shape or device.
    """
    return jumpstart_activation(
        x,
        "relu",
        bias=bias,
        unit_dim=unit_dim,
        points=points,
        margin=margin,
        tie_breaking=tie_breaking,
        inplace=inplace,
    )


def jumpstart_activation(
    x: Tensor,
    activation: str,
    parameter: float = 0.0,
    *,
    bias: Tensor | None = None,
    unit_dim: int = 1,
    points: str = "sample",
    margin: float = 1.0,
    tie_breaking: str = "single",
    inplace: bool = False,
) -> JumpstartReLUOutput:
    """:func:`jumpstart_relu` with another activation: the statistics are the same, those of ``x``.

    Args:
        x: as of :func:`jumpstart_relu`, like all other arguments.
        activation: a name of :data:`~jumpstart_kernels.ops.activations.ACTIVATIONS`.
        parameter: the activation's own number; not used by those that have none.

    Returns:
        A named tuple of ``output`` and the fields of :class:`JumpstartStatistics`.

    Raises:
        TypeError: ``x`` is not a tensor of the operator's dtypes; ``parameter`` is no number.
        ValueError: ``activation``, an option or ``unit_dim`` is out of range; ``x`` has no dimensions.
    """
    check_choice("activation", activation, ACTIVATIONS)
    check_parameter("parameter", parameter)
    check_options(unit_dim, points, margin, tie_breaking)
    options = Options(activation, float(parameter), unit_dim, points == "position", margin, "indexed")
    output, slack_sums, extrema = run(x, bias, options, tie_breaking, inplace)
    return JumpstartReLUOutput(output, slack_sums, *split_extrema(extrema, x, unit_dim, points))


def jumpstart_stats(
    x: Tensor,
    bias: Tensor | None = None,
    *,
    unit_dim: int = 1,
    points: str = "sample",
    margin: float = 1.0,
    tie_breaking: str = "single",
) -> JumpstartStatistics:
    """The statistics of :func:`jumpstart_relu` without the ReLU: for other activations, or to watch a layer.

    Arguments, result and errors are those of :func:`jumpstart_relu`, without ``inplace`` and ``output``.
    """
    check_options(unit_dim, points, margin, tie_breaking)
    options = Options(NONE, 0.0, unit_dim, points == "position", margin, "indexed")
    _, slack_sums, extrema = run(x, bias, options, tie_breaking, False)
    return JumpstartStatistics(slack_sums, *split_extrema(extrema, x, unit_dim, points))


def run(
    x: Tensor, bias: Tensor | None, options: Options, tie_breaking: str, inplace: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, slack sums and ``[2, C + P]`` extrema, for options validated by :func:`check_options`.

    Unless they are ``"indexed"`` the extrema must not be differentiated: only those with slack have a
    gradient.
    """
    options = options._replace(unit_dim=check_input(x, options.unit_dim, options.position_points))
    if bias is not None:
        check_bias(bias, x, options.unit_dim)
    if tie_breaking == "single" and not is_transformed():
        result = ForwardResult(*OVERLOADS[select(x)](x, bias, *options))
        return (x.copy_(result.output) if inplace else result.output), result.slack_sums, result.extrema
    overwritten = x if inplace else None
    if bias is not None:
        x = x + along_units(bias, x.dim(), options.unit_dim)
    extrema = composite_extrema(x, options.unit_dim, options.position_points, tie_breaking)
    slack = (
        slacks(extrema, options.margin) if x.numel() else torch.zeros_like(extrema) + x.sum()
    )  # an empty tensor has no slack
    slack_sums = sum_slacks(slack, x.shape[options.unit_dim])
    if options.activation == NONE:
        return x.new_empty(0), slack_sums, extrema
    in_x = inplace and bias is None
    output = ACTIVATIONS[options.activation].value(x, options.parameter, in_x)
    if overwritten is not None and not in_x:
        output = overwritten.copy_(output)
    return output, slack_sums, extrema


def run_layer_eagerly(
    x: Tensor,
    bias: Tensor | None,
    activation: str,
    parameter: float,
    unit_dim: int,
    points: str,
    margin: float,
    tie_breaking: str,
    inplace: bool,
    extrema_kind: str,
) -> tuple[Tensor, Record] | None:
    """:func:`run_layer` through the backend's shortcut; None where that does not apply."""
    if tie_breaking != "single" or torch.compiler.is_dynamo_compiling() or not isinstance(x, Tensor):
        return None
    shortcuts = select_shortcuts(x)
    if shortcuts is None:
        return None
    return shortcuts.jumpstart_activation(
        x, bias, activation, parameter, unit_dim, points == "position", margin, inplace, extrema_kind
    )


def run_layer(
    x: Tensor,
    bias: Tensor | None,
    activation: str,
    parameter: float,
    unit_dim: int,
    points: str,
    margin: float,
    tie_breaking: str,
    inplace: bool,
    extrema_kind: str,
) -> tuple[Tensor, Record]:
    """What a module needs: the output, and what the penalty needs.

    Args:
        extrema_kind: ``"limited"`` or ``"exact"``: only those with slack have a gradient.
    """
    options = Options(activation, parameter, unit_dim, points == "position", margin, extrema_kind)
    output, slack_sums, extrema = run(x, bias, options, tie_breaking, inplace)
    units = x.shape[unit_dim]
    count = extrema.shape[1] - units if x.numel() else 0  # of the points
    return output, Record(slack_sums, extrema, units, count, margin)


def split_extrema(
    extrema: Tensor, x: Tensor, unit_dim: int, points: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``[2, C + P]`` into unit_max, unit_min, point_max, point_min."""
    units = x.shape[unit_dim]
    shape = point_shape(x.shape, unit_dim % x.dim(), points == "position")
    maxima, minima = extrema.unbind(0)
    return maxima[:units], minima[:units], maxima[units:].view(shape), minima[units:].view(shape)
