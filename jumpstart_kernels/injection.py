"""The penalty's gradient without a loss to add it to: injected by every layer into its own backward."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from jumpstart_kernels import records
from jumpstart_kernels.modules import JumpstartReLU, LayerExtrema, check_module
from jumpstart_kernels.penalty import check_penalty_options, penalty_coefficients, penalty_weights


@dataclass(frozen=True)
class PenaltyCounts:
    """How many units and points a penalty is the mean over. Counts of the parts of a model can be added."""

    units: int
    points: int

    def __add__(self, other: "PenaltyCounts") -> "PenaltyCounts":
        return PenaltyCounts(self.units + other.units, self.points + other.points)


class PenaltyInjection:
    """What :func:`inject_penalty` gives: the weight, to be set at any time, and the end of it.

    As a context manager it ends with the ``with`` block.
    """

    def __init__(self, layers: list[JumpstartReLU], coefficients: Tensor, weight: float | Tensor) -> None:
        self._layers = layers
        self._coefficients = coefficients  # [2, 5], of weight 1
        self._weights = torch.empty_like(coefficients)  # kept in place: compiled code and graphs read it
        self.weight = weight

    @property
    def weight(self) -> float | Tensor:
        """Weight of the penalty in the loss as it is when ``backward`` is called on it.

        A number, or a 0-dim tensor, which need not come to the host. Not to be set between a forward and its
        backward.
        """
        return self._weight

    @weight.setter
    def weight(self, weight: float | Tensor) -> None:
        if not isinstance(weight, (int, float, Tensor)) or isinstance(weight, bool):
            raise TypeError(f"weight must be a number or a 0-dim tensor, got {type(weight).__name__}")
        if isinstance(weight, Tensor) and weight.dim() > 0:
            raise ValueError(f"weight must be a number or a 0-dim tensor, got {weight.dim()} dimensions")
        with torch.no_grad():
            self._weights.copy_(self._coefficients * weight)
        self._weight = weight.detach() if isinstance(weight, Tensor) else float(weight)

    def remove(self) -> None:
        """Have the layers record again, for :func:`~jumpstart_kernels.penalty`."""
        for layer in self._layers:
            layer._inject = None
        self._layers = []

    def __enter__(self) -> "PenaltyInjection":
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def _inject(self, output: Tensor, slack_sums: Tensor, active: bool) -> Tensor:
        weights = self._weights.to(slack_sums)  # itself, but on another device or of another dtype
        return _Inject.apply(output, slack_sums, weights, active)


class _Inject(torch.autograd.Function):
    """``output`` as it is; in backward ``slack_sums`` get ``weights`` as their gradient, if it is active.

    It saves the same for backward either way: a checkpoint's second forward may be active, the first not.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(output: Tensor, slack_sums: Tensor, weights: Tensor, active: bool) -> Tensor:
        return output.detach()  # no view: it may be overwritten

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor, Tensor, bool], output: Tensor) -> None:
        *_, weights, ctx.active = inputs
        ctx.save_for_backward(weights)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        (weights,) = ctx.saved_tensors
        return grad, weights if ctx.active else None, None, None


def inject_penalty(
    model: nn.Module,
    weight: float | Tensor,
    *,
    counts: PenaltyCounts | None = None,
    reduction: str = "balanced",
    sign_balance: float = 0.5,
    terms: str = "full",
) -> PenaltyInjection:
    """From now on add the gradient of ``weight`` times the penalty in backward, with no penalty in the loss.

    For pipeline stages, which cannot return a loss, and for reentrant checkpoints, whose first forward has no
    gradient to give to one. Every forward in training with grad injects once, when its backward runs; the
    layers record nothing meanwhile. The result is that of the explicit loss if ``weight`` is all that the
    penalty is multiplied by there:

    ====================== ==============================================================================
    λ                      the weight of the penalty in the loss
    × loss scale           of a ``GradScaler``: ``injection.weight = scaler.scale(lam)`` before each step
    ÷ micro-batches        where the loss is divided by their number; not where a schedule divides gradients
    × nothing              for DDP and FSDP, which average the gradients; each rank injects its own penalty
    ====================== ==============================================================================

    Args:
        model: the model, a stage or a block of it: all :class:`~jumpstart_kernels.JumpstartReLU` in it.
        weight: a number or a 0-dim tensor; :attr:`PenaltyInjection.weight` changes it.
        counts: units and points of all layers of all stages in one forward (of one micro-batch), which
            ``"balanced"`` and ``"mean"`` divide by: from :func:`count_units_and_points`.
        reduction: as in :func:`~jumpstart_kernels.penalty`, but for ``"norm"``, which is known only after the
            last layer.
        sign_balance: as in :func:`~jumpstart_kernels.penalty`.
        terms: as in :func:`~jumpstart_kernels.penalty`.

    Raises:
        TypeError: ``model``, ``weight``, ``counts`` or ``sign_balance`` is of a wrong type.
        ValueError: ``reduction="norm"``; ``counts`` missing; no ``JumpstartReLU`` in the model, or one that
            injects already; and the errors of :func:`~jumpstart_kernels.penalty`.
    """
    check_module(model)
    check_penalty_options(reduction, sign_balance, terms)
    if reduction == "norm":
        raise ValueError("reduction must not be 'norm' to be injected: its gradient needs all layers at once")
    if counts is not None and not isinstance(counts, PenaltyCounts):
        raise TypeError(f"counts must be PenaltyCounts, got {type(counts).__name__}")
    if counts is None and reduction in ("balanced", "mean"):
        raise ValueError(
            f"counts must be given for reduction={reduction!r}: count_units_and_points(model, x) of the "
            "whole model, or the sum of those of its stages"
        )
    layers = [layer for layer in model.modules() if isinstance(layer, JumpstartReLU)]
    if not layers:
        raise ValueError("model must have a JumpstartReLU layer: call jumpstart_kernels.replace_relu first")
    if any(layer._inject is not None for layer in layers):
        raise ValueError("model must not inject a penalty already: remove() that injection first")
    if counts is None:
        weights = penalty_coefficients(reduction, sign_balance, terms)
    else:
        weights = penalty_weights(reduction, sign_balance, terms, counts.units, counts.points)
    parameters = list(model.parameters())
    device = parameters[0].device if parameters else None
    precise = any(parameter.dtype == torch.float64 for parameter in parameters)
    coefficients = torch.tensor(weights, device=device, dtype=torch.float64 if precise else torch.float32)
    injection = PenaltyInjection(layers, coefficients.view(2, 5), weight)
    for layer in layers:
        records.clear(layer)
        layer._inject = injection._inject
    return injection


def count_units_and_points(model: nn.Module, *args: Any, **kwargs: Any) -> PenaltyCounts:
    """Units and points of all layers of a model in one forward, as ``"balanced"`` divides by them.

    One call of ``model(*args, **kwargs)`` without grad, in the mode that it is in; buffers and random state
    are put back after.

    Raises:
        TypeError: ``model`` is no module.
        ValueError: no ``JumpstartReLU`` ran.
    """
    check_module(model)
    total = PenaltyCounts(0, 0)

    def count(extrema: LayerExtrema) -> None:
        nonlocal total
        points = extrema.point_max.numel()
        if points:
            total += PenaltyCounts(extrema.unit_max.numel(), points)

    layers = [layer for layer in model.modules() if isinstance(layer, JumpstartReLU)]
    with contextlib.ExitStack() as stack:
        for layer in layers:
            layer._watchers.append(count)
            stack.callback(partial(layer._watchers.remove, count))
        stack.enter_context(_preserved(model))
        with torch.no_grad():
            model(*args, **kwargs)
    if total.units == 0:
        raise ValueError("model must run a JumpstartReLU layer in its forward: call replace_relu first")
    return total


@contextlib.contextmanager
def _preserved(model: nn.Module) -> Iterator[None]:
    """Put buffers and random states back, and what the layers know of forwards that no penalty reaches."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    flags = [(layer, layer._unreachable) for layer in model.modules() if isinstance(layer, JumpstartReLU)]
    devices = {parameter.device for parameter in model.parameters() if parameter.is_cuda}
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                buffer.copy_(value)
        for layer, flag in flags:
            layer._unreachable = flag
