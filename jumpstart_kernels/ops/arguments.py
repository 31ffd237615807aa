"""The operator's arguments and results by name, in the order of its schema.

The dispatcher passes flat arguments; on both sides of it functions pass these tuples.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from jumpstart_kernels.ops.layout import dense_format, runs_channels_last

EXTREMA_KINDS = ("limited", "exact", "indexed")
"""What the forward returns of extrema.

``"limited"``: as far as slack knows them, ``min(max, margin)`` and ``max(min, −margin)``, which need not be
followed beyond the margin. ``"exact"``: as they are. In both only those with slack have an index and a
gradient. ``"indexed"``: as they are, and all have an index and a gradient. Of an
empty ``x`` they are −∞ and ∞.
"""

NO_STATISTICS = "none"
"""Instead of one of :data:`EXTREMA_KINDS`, for linked activations: no statistics are computed."""


class Options(NamedTuple):
    """The operator's options, besides its tensors; ``csrc/options.h`` is the counterpart."""

    activation: str
    """A name in :data:`~jumpstart_kernels.ops.activations.ACTIVATIONS`, or ``"none"``: statistics only; for
    ``linked_activation`` one in ``LINKED_ACTIVATIONS``."""
    parameter: float
    """Of the activation, such as a slope; 0 if it has none."""
    unit_dim: int
    position_points: bool
    margin: float
    extrema_kind: str
    """One of :data:`EXTREMA_KINDS`, or :data:`NO_STATISTICS`."""


class ForwardResult(NamedTuple):
    """The results of the forward."""

    output: Tensor
    """The activation of ``x``, or of ``x + bias``, like all that follows; ``[0]`` for ``"none"``."""
    mask: Tensor
    """uint8 ``[matrix rows, ceil(matrix columns / 8)]``: the bit of an element is set unless ``x <= 0``;
    ``[0, 0]`` for ``"none"``."""
    slack_sums: Tensor
    """``[2, 5]``, of the units and of the points: see :class:`~jumpstart_kernels.ops.slack.SlackSum`."""
    extrema: Tensor
    """``[2, C + P]``, maxima then minima; of the units, then of the points."""
    indices: Tensor
    """int64 ``[2, C + P]``: index of each extremum in ``x.flatten()``, the first among ties; or −1, see
    :data:`EXTREMA_KINDS`."""


class Record(NamedTuple):
    """What one forward of one layer contributes to the penalty; ``csrc/record.h`` is the counterpart."""

    slack_sums: Tensor
    """``[2, 5]``"""
    extrema: Tensor
    """``[2, C + P]``, maxima then minima, perhaps limited to the margin; only those with slack have a
    gradient."""
    units: int
    """C"""
    points: int
    """P, or 0 if the input was empty"""
    margin: float


class Gradients(NamedTuple):
    """Gradients of the forward's differentiable results; None for those not in the loss."""

    output: Tensor | None
    slack_sums: Tensor | None
    extrema: Tensor | None


class InputGradients(NamedTuple):
    """The results of the backward."""

    x: Tensor
    bias: Tensor | None
    """``[C]``; None unless :attr:`Saved.with_grad_bias`."""


class Saved(NamedTuple):
    """What the forward saves for its backward; ``csrc/saved.h`` is the counterpart."""

    mask: Tensor
    extrema: Tensor
    indices: Tensor
    size: list[int] | torch.Size
    """Of ``x``."""
    channels_last: bool
    dtype: torch.dtype
    """Of ``x``, and of the bias."""
    with_grad_bias: bool
    """Whether there is a bias that needs a gradient."""


class LinkedSaved(NamedTuple):
    """What the forward of a linked activation saves for its backward."""

    x: Tensor | None
    """None if the mask is enough."""
    weight: Tensor | None
    """``[2, C]``; None if the activation has none."""
    mask: Tensor
    extrema: Tensor
    indices: Tensor
    size: list[int] | torch.Size
    """Of ``x``."""
    channels_last: bool
    dtype: torch.dtype
    """Of ``x``, and of the weight."""
    with_grad_weight: bool
    """Whether there is a weight that needs a gradient."""


class LinkedInputGradients(NamedTuple):
    """The results of the backward of a linked activation."""

    x: Tensor
    weight: Tensor | None
    """``[2, C]``; None unless :attr:`LinkedSaved.with_grad_weight`."""


SavedFields = TypeVar("SavedFields", Saved, LinkedSaved)


def save_for_backward(
    ctx: Any, x: Tensor, bias: Tensor | None, result: ForwardResult, options: Options
) -> None:
    """Save in an autograd context what :func:`saved_arguments` returns."""
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(result.mask, result.extrema, result.indices)
    with_grad_bias = bias is not None and ctx.needs_input_grad[1]
    ctx.constants = (x.shape, runs_channels_last(x, options.unit_dim), x.dtype, with_grad_bias, *options)


def saved_arguments(ctx: Any) -> tuple[Any, ...]:
    """The fields of :class:`Saved`, then of :class:`Options`: backward's arguments after the gradients."""
    return (*ctx.saved_tensors, *ctx.constants)


def save_penalty(ctx: Any, layers: int, weights: list[float], value: Tensor | None) -> None:
    """Keep in an autograd context what a penalty's backward needs; ``value`` if it is a square root."""
    ctx.layers, ctx.weights = layers, weights
    ctx.save_for_backward(*([] if value is None else [value]))


def penalty_gradients(ctx: Any, grad: Tensor, backward: Callable[..., Tensor]) -> list[Tensor]:
    """The gradient of every layer's slack sums: the same for each."""
    return [backward(grad, *(ctx.saved_tensors or (None,)), ctx.weights)] * ctx.layers


def weight_goes_with(weight: Tensor, x: Tensor, unit_dim: int) -> bool:
    """Whether the operator accepts a weight for ``x``."""
    return weight.shape == (2, x.shape[unit_dim]) and are_alike((weight, x))


def goes_with(bias: Tensor, x: Tensor, unit_dim: int) -> bool:
    """Whether the operator accepts a bias for ``x``."""
    return bias.shape == (x.shape[unit_dim],) and bias.layout is torch.strided and are_alike((bias, x))


def check_bias(bias: Tensor, x: Tensor, unit_dim: int) -> None:
    """Raise for a bias that does not go with ``x``."""
    if not isinstance(bias, Tensor):
        raise TypeError(f"bias must be a torch.Tensor or None, got {type(bias).__name__}")
    if bias.layout is not torch.strided or bias.is_nested:
        kind = "nested" if bias.is_nested else bias.layout
        raise TypeError(f"bias must be a dense tensor (torch.strided), got {kind}")
    units = x.shape[unit_dim]
    if bias.dim() != 1 or bias.shape[0] != units:
        raise ValueError(
            f"bias must have one value for each of the {units} units of x, shape [{units}], got shape "
            f"{list(bias.shape)}"
        )
    if bias.dtype != x.dtype:
        raise TypeError(f"bias must have the dtype of x, {x.dtype}, got {bias.dtype}")
    if bias.device != x.device:
        raise ValueError(f"bias must be on the device of x, {x.device}, got {bias.device}")


def are_alike(tensors: Sequence[Tensor]) -> bool:
    """Whether tensors have one dtype and one device."""
    first = tensors[0]
    return all(tensor.dtype == first.dtype and tensor.device == first.device for tensor in tensors[1:])


def dense_gradients(gradients: Gradients, saved: Saved | LinkedSaved) -> Gradients:
    """That of the output in the memory order of ``x``, as the kernels take it."""
    if gradients.output is None:
        return gradients
    memory_format = dense_format(len(saved.size), saved.channels_last)
    return gradients._replace(output=gradients.output.contiguous(memory_format=memory_format))


def split_backward(
    arguments: tuple[Any, ...], of_forward: type[SavedFields]
) -> tuple[Gradients, SavedFields, Options]:
    """The backward's flat arguments by name.

    Args:
        of_forward: what its forward saves, :class:`Saved` or :class:`LinkedSaved`.
    """
    gradients, saved = len(Gradients._fields), len(of_forward._fields)
    return (
        Gradients(*arguments[:gradients]),
        of_forward(*arguments[gradients : gradients + saved]),
        Options(*arguments[gradients + saved :]),
    )
