"""The operator without state: ReLU and the statistics of its input, in one pass."""

import math
from collections.abc import Collection
from typing import NamedTuple

import torch
from torch import Tensor

from jumpstart_kernels.backends import select
from jumpstart_kernels.kernels import native
from jumpstart_kernels.kernels.composite import composite_extrema, is_transformed
from jumpstart_kernels.kernels.layout import point_shape
from jumpstart_kernels.kernels.slack import slacks, sum_slacks
from jumpstart_kernels.ops import OVERLOADS, eager

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
POINTS = ("sample", "position")
TIE_BREAKING = ("single", "average", "random")
_SHORTCUTS = {"native": native.jumpstart_relu, "triton": eager.jumpstart_relu}


class JumpstartStatistics(NamedTuple):
    """What the penalty and the metrics are made of. All differentiable; float32, or float64 for float64.

    ``C`` are the units of ``x``; the points have shape ``[N]``, or with ``points="position"`` the shape of
    ``x`` without ``unit_dim``.
    """

    slack_sums: Tensor
    """``[2, 5]``: for units, then for points, Σs⁺, Σs⁻, Σs⁺², Σs⁻² and Σs⁺s⁻."""
    unit_max: Tensor
    """``[C]``, the largest value of each unit."""
    unit_min: Tensor
    """``[C]``, the smallest value of each unit."""
    point_max: Tensor
    """The largest value of each point."""
    point_min: Tensor
    """The smallest value of each point."""


class JumpstartReLUOutput(NamedTuple):
    """:class:`JumpstartStatistics` behind the output, ``relu(x)`` of the shape, dtype and layout of ``x``."""

    output: Tensor
    slack_sums: Tensor
    unit_max: Tensor
    unit_min: Tensor
    point_max: Tensor
    point_min: Tensor


def jumpstart_relu(
    x: Tensor,
    *,
    unit_dim: int = 1,
    points: str = "sample",
    margin: float = 1.0,
    tie_breaking: str = "single",
    inplace: bool = False,
) -> JumpstartReLUOutput:
    """``relu(x)``, with the extrema of ``x`` over its units and points and their slack, in one pass.

    Slack is ``s⁺ = relu(margin − max)`` and ``s⁻ = relu(margin + min)`` of a unit or point: Eqs. 3-6 of Riera
    Molina et al., *Unit-Centric Regularization for Efficient Deep Neural Networks*, IEEE Access 13, 2025.

    Args:
        x: pre-activation ``[N, C, *]``, float32, float64, float16 or bfloat16, of any strides.
        unit_dim: the dimension of the units.
        points: ``"sample"``, a point is a sample (dimension 0); ``"position"``, it is every index but that of
            the unit: a token, a pixel.
        margin: how far beyond 0 an extremum has to be, in the units of ``x``.
        tie_breaking: which element gets an extremum's gradient if several hold it: ``"single"``, the first
            in row-major order; ``"average"``, all of them evenly; ``"random"``, one drawn from PyTorch's
            generator. The last two are not fused and keep memory of twice the size of ``x``. Nor is anything
            under ``torch.func`` or forward-mode differentiation.
        inplace: overwrite ``x`` with the output, as ``F.relu`` does.

    Returns:
        A named tuple: ``output``, then the fields of :class:`JumpstartStatistics`.

    Raises:
        TypeError: ``x`` is not a tensor of these dtypes.
        ValueError: an option or ``unit_dim`` is out of range; ``x`` has no dimensions.
    """
    check_options(unit_dim, points, margin, tie_breaking)
    output, slack_sums, extrema = run(x, unit_dim, points, margin, tie_breaking, inplace, all_indices=True)
    return JumpstartReLUOutput(output, slack_sums, *split_extrema(extrema, x, unit_dim, points))


def jumpstart_stats(
    x: Tensor,
    *,
    unit_dim: int = 1,
    points: str = "sample",
    margin: float = 1.0,
    tie_breaking: str = "single",
) -> JumpstartStatistics:
    """The statistics of :func:`jumpstart_relu` without the ReLU: for other activations, or to watch a layer.

    Arguments, result and errors are those of :func:`jumpstart_relu`, less ``inplace`` and ``output``.
    """
    check_options(unit_dim, points, margin, tie_breaking)
    unit_dim = check_input(x, unit_dim, points)
    if tie_breaking == "single" and not is_transformed():
        overload = OVERLOADS[select(x)]
        _, _, slack_sums, extrema, _ = overload(x, unit_dim, points == "position", margin, False, True)
    else:
        extrema = composite_extrema(x, unit_dim, points == "position", tie_breaking)
        slack_sums = _slack_sums(extrema, x, unit_dim, margin)
    return JumpstartStatistics(slack_sums, *split_extrema(extrema, x, unit_dim, points))


def run(
    x: Tensor,
    unit_dim: int,
    points: str,
    margin: float,
    tie_breaking: str,
    inplace: bool,
    all_indices: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, slack sums and ``[2, C + P]`` extrema, for options that :func:`check_options` has passed.

    Without ``all_indices`` the extrema must not be differentiated: only those with slack have a gradient.
    """
    unit_dim = check_input(x, unit_dim, points)
    if tie_breaking == "single" and not is_transformed():
        overload = OVERLOADS[select(x)]
        output, _, slack_sums, extrema, _ = overload(
            x, unit_dim, points == "position", margin, True, all_indices
        )
        return (x.copy_(output) if inplace else output), slack_sums, extrema
    extrema = composite_extrema(x, unit_dim, points == "position", tie_breaking)
    return torch.nn.functional.relu(x, inplace), _slack_sums(extrema, x, unit_dim, margin), extrema


def run_eagerly(
    x: Tensor,
    unit_dim: int,
    points: str,
    margin: float,
    tie_breaking: str,
    inplace: bool,
) -> tuple[Tensor, Tensor, Tensor, int, int] | None:
    """:func:`run_layer` by the shortest way to the backend; None where that cannot be gone."""
    if tie_breaking != "single" or torch.compiler.is_compiling() or not isinstance(x, Tensor):
        return None
    shortcut = _SHORTCUTS.get(select(x))
    return None if shortcut is None else shortcut(x, unit_dim, points == "position", margin, inplace)


def run_layer(
    x: Tensor,
    unit_dim: int,
    points: str,
    margin: float,
    tie_breaking: str,
    inplace: bool,
) -> tuple[Tensor, Tensor, Tensor, int, int]:
    """What a module needs: output, slack sums, ``[2, C + P]`` extrema, units C and points P (0 of nothing).

    Of the extrema only those with slack have a gradient.
    """
    output, slack_sums, extrema = run(x, unit_dim, points, margin, tie_breaking, inplace, all_indices=False)
    units = x.shape[unit_dim]
    return output, slack_sums, extrema, units, extrema.shape[1] - units if x.numel() else 0


def split_extrema(
    extrema: Tensor, x: Tensor, unit_dim: int, points: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``[2, C + P]`` into unit_max, unit_min, point_max, point_min."""
    units = x.shape[unit_dim]
    shape = point_shape(x.shape, unit_dim % x.dim(), points == "position")
    maxima, minima = extrema.unbind(0)
    return maxima[:units], minima[:units], maxima[units:].view(shape), minima[units:].view(shape)


def _slack_sums(extrema: Tensor, x: Tensor, unit_dim: int, margin: float) -> Tensor:
    slack = slacks(extrema, margin) if x.numel() else torch.zeros_like(extrema) + x.sum()  # of nothing: 0
    return sum_slacks(slack, x.shape[unit_dim])


def check_options(unit_dim: int, points: str, margin: float, tie_breaking: str) -> None:
    """Raise for options that no input makes right."""
    if isinstance(unit_dim, bool) or not isinstance(unit_dim, int):
        raise TypeError(f"unit_dim must be an int, got {type(unit_dim).__name__}")
    check_choice("points", points, POINTS)
    check_choice("tie_breaking", tie_breaking, TIE_BREAKING)
    if isinstance(margin, bool) or not isinstance(margin, (int, float)):
        raise TypeError(f"margin must be a number, got {type(margin).__name__}")
    if not (math.isfinite(margin) and margin >= 0):
        raise ValueError(f"margin must be finite and not negative, got {margin}")


def check_choice(name: str, value: object, allowed: Collection[str]) -> None:
    """Raise for a value that is not one of those allowed."""
    if value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def check_input(x: Tensor, unit_dim: int, points: str) -> int:
    """Raise for a tensor that the operator does not take; return ``unit_dim`` counted from the front."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}")
    if x.dtype not in DTYPES:
        raise TypeError(f"x must be float32, float64, float16 or bfloat16, got {x.dtype}")
    if x.layout is not torch.strided or x.is_nested:
        kind = "nested" if x.is_nested else x.layout
        raise TypeError(f"x must be a dense tensor (torch.strided), got {kind}")
    dim = x.dim()
    if dim == 0:
        raise ValueError("x must have a dimension of units, got a 0-dim tensor")
    if not -dim <= unit_dim < dim:
        raise ValueError(f"unit_dim must be in [{-dim}, {dim - 1}] for a {dim}-D x, got {unit_dim}")
    if unit_dim < 0:
        unit_dim += dim
    if unit_dim == 0 and points == "sample":
        raise ValueError("unit_dim must not be 0 with points='sample': dimension 0 holds the samples")
    return unit_dim
