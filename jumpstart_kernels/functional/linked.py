"""Linked neurons: ``cat(g(x), g(−x))`` along the units, in one pass."""

import torch
from torch import Tensor

from jumpstart_kernels.functional.checks import check_input, check_unit_dim
from jumpstart_kernels.functional.jumpstart import run
from jumpstart_kernels.ops import LINKED_OVERLOADS
from jumpstart_kernels.ops.activations import LINKED_ACTIVATIONS, NONE
from jumpstart_kernels.ops.arguments import NO_STATISTICS, ForwardResult, Options, Record
from jumpstart_kernels.ops.backends import select
from jumpstart_kernels.ops.composite import is_transformed
from jumpstart_kernels.ops.layout import along_units


def linked_relu(x: Tensor, *, unit_dim: int = 1) -> Tensor:
    """``cat(relu(x), relu(−x))`` along ``unit_dim``: in each pair one half has a gradient, unless ``x`` is 0.

    Riera Molina, Pujol, *Solving internal covariate shift in deep learning with linked neurons*, arXiv
    1712.02609, Section 3. Also known as CReLU (Shang et al., arXiv 1603.05201). Backward keeps two bits an
    element: at 0 neither half passes a gradient, as in PyTorch.

    Args:
        x: pre-activation ``[N, C, *]`` of one or more dimensions, float32, float64, float16 or bfloat16, with
            any strides.
        unit_dim: the dimension of the units, which becomes twice as long.

    Returns:
        ``[N, 2C, *]`` of the dtype of ``x``, in channels_last if ``x`` is and ``unit_dim`` is 1, else
        contiguous.

    Raises:
        TypeError: ``x`` is not a tensor of one of these dtypes; ``unit_dim`` is not an int.
        ValueError: ``unit_dim`` is out of range; ``x`` has no dimensions.
    """
    return run_linked_output("linked_relu", x, None, unit_dim)


def linked_prelu(x: Tensor, weight: Tensor, *, unit_dim: int = 1) -> Tensor:
    """``cat(prelu(x), prelu(−x))`` along ``unit_dim``, each half with learnable slopes of its own.

    The gradient of the slopes comes from the same backward pass as that of ``x``, summed in float32 (float64
    for float64) in an order that does not change from run to run.

    Args:
        x: as of :func:`linked_relu`, like ``unit_dim``, result and errors.
        weight: the slopes where ``x``, and where ``−x``, is negative: ``[2, C]``, one for each unit, or
            ``[2, 1]``, shared; of the dtype and device of ``x``.
        unit_dim: the dimension of the units.

    Raises:
        TypeError: ``weight`` is no tensor, or has another dtype than ``x``.
        ValueError: ``weight`` has another shape or device.
    """
    return run_linked_output("linked_prelu", x, weight, unit_dim)


def linked_selu(x: Tensor, *, unit_dim: int = 1) -> Tensor:
    """``cat(selu(x), selu(−x))`` along ``unit_dim``; arguments, result and errors of :func:`linked_relu`.

    SELU: Klambauer et al., arXiv 1706.02515, Eq. 2. Backward reads ``x`` again. Values are within a few units
    in the last place of ``F.selu``.
    """
    return run_linked_output("linked_selu", x, None, unit_dim)


def linked_silu(x: Tensor, *, unit_dim: int = 1) -> Tensor:
    """``cat(silu(x), silu(−x))`` along ``unit_dim``; arguments, result and errors of :func:`linked_relu`.

    ``silu(x) = x · sigmoid(x)``, which the paper calls Swish. Backward reads ``x`` again. Values are within a
    few units in the last place of ``F.silu``.
    """
    return run_linked_output("linked_silu", x, None, unit_dim)


def run_linked_output(activation: str, x: Tensor, weight: Tensor | None, unit_dim: int) -> Tensor:
    """The output alone."""
    check_unit_dim(unit_dim)
    # With positions as points unit_dim may be 0.
    return run_linked(x, weight, Options(activation, 0.0, unit_dim, True, 1.0, NO_STATISTICS)).output


def run_linked(x: Tensor, weight: Tensor | None, options: Options) -> ForwardResult:
    """The operator, for an activation of ``LINKED_ACTIVATIONS`` and a ``unit_dim`` of any sign.

    Unless they are ``"indexed"`` the extrema must not be differentiated: only those with slack have a
    gradient. Under ``torch.func`` and forward-mode differentiation there are no statistics.
    """
    unit_dim = check_input(x, options.unit_dim, options.position_points)
    options = options._replace(unit_dim=unit_dim)
    if weight is not None:
        weight = _per_unit(weight, x, unit_dim)
    if not is_transformed():
        return ForwardResult(*LINKED_OVERLOADS[select(x)](x, weight, *options))
    value = LINKED_ACTIVATIONS[options.activation].value
    slopes = [None, None] if weight is None else [along_units(w, x.dim(), unit_dim) for w in weight.unbind(0)]
    nothing = x.new_empty(0)
    output = torch.cat([value(x, slopes[0]), value(-x, slopes[1])], unit_dim)
    return ForwardResult(output, nothing, nothing, nothing, nothing)


def run_linked_layer(
    x: Tensor,
    weight: Tensor | None,
    activation: str,
    unit_dim: int,
    points: str,
    margin: float,
    tie_breaking: str,
    extrema_kind: str,
) -> tuple[Tensor, Record]:
    """What a module needs: the output, and what the penalty on the shared pre-activation needs.

    Args:
        extrema_kind: ``"limited"`` or ``"exact"``: only those with slack have a gradient.
    """
    options = Options(activation, 0.0, unit_dim, points == "position", margin, extrema_kind)
    if tie_breaking == "single" and not is_transformed():
        output, _, slack_sums, extrema, _ = run_linked(x, weight, options)
    else:
        output = run_linked(x, weight, options._replace(extrema_kind=NO_STATISTICS)).output
        _, slack_sums, extrema = run(x, None, options._replace(activation=NONE), tie_breaking, False)
    units = x.shape[unit_dim]
    count = extrema.shape[1] - units if x.numel() else 0  # of the points
    return output, Record(slack_sums, extrema, units, count, margin)


def _per_unit(weight: Tensor, x: Tensor, unit_dim: int) -> Tensor:
    """The slopes as ``[2, C]``; raises for those that do not go with ``x``."""
    if not isinstance(weight, Tensor):
        raise TypeError(f"weight must be a torch.Tensor, got {type(weight).__name__}")
    units = x.shape[unit_dim]
    if weight.dim() != 2 or weight.shape[0] != 2 or weight.shape[1] not in (1, units):
        raise ValueError(
            f"weight must have a slope for each sign and each of the {units} units of x, shape [2, {units}], "
            f"or be shared, [2, 1], got shape {list(weight.shape)}"
        )
    if weight.dtype != x.dtype:
        raise TypeError(f"weight must have the dtype of x, {x.dtype}, got {weight.dtype}")
    if weight.device != x.device:
        raise ValueError(f"weight must be on the device of x, {x.device}, got {weight.device}")
    return weight.expand(2, units)
