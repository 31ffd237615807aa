"""The penalty's gradient without a penalty in the loss: every layer injects it in its own backward."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from jumpstart_kernels.nn import records
from jumpstart_kernels.nn.activation import JumpstartActivation, LayerExtrema
from jumpstart_kernels.nn.recording import check_module, layers_of
from jumpstart_kernels.ops.slack import SUMS_SHAPE
from jumpstart_kernels.penalties.reduction import check_penalty_options, penalty_coefficients, penalty_weights


@dataclass(frozen=True)
class PenaltyCounts:
    """How many units and points a penalty averages over. Counts of parts of a model can be added."""

    units: int
    points: int

    def __add__(self, other: "PenaltyCounts") -> "PenaltyCounts":
        return PenaltyCounts(self.units + other.units, self.points + other.points)


class PenaltyInjection:
    """The handle that :func:`inject_penalty` returns: sets the weight and removes the injection.

    As a context manager it removes the injection at the end of the ``with`` block.
    """

    def __init__(
        self, layers: list[JumpstartActivation], coefficients: Tensor, weight: float | Tensor
    ) -> None:
        self._layers = layers
        self._coefficients = coefficients  # [2, 5], for weight 1
        self._weights = torch.empty_like(coefficients)  # kept in place: compiled code and graphs read it
        self.weight = weight

    @property
    def weight(self) -> float | Tensor:
        """Weight of the penalty in the loss that ``backward`` is called on.

        A number, or a 0-dim tensor, which is not copied to the host. Do not set it between a forward and its
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
        weights = self._weights.to(slack_sums)  # a no-op unless device or dtype differ
        return _Inject.apply(output, slack_sums, weights, active)


class _Inject(torch.autograd.Function):
    """Returns ``output``; in backward ``slack_sums`` get ``weights`` as their gradient, if active.

    It saves the same tensors either way: a checkpoint's second forward may be active when the first was not.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(output: Tensor, slack_sums: Tensor, weights: Tensor, active: bool) -> Tensor:
        return output.detach()  # not a view: it may be overwritten

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
    """Inject the gradient of ``weight`` times the penalty in backward from now on, instead of in the loss.

    For pipeline stages, which cannot return a loss, and for reentrant checkpoints, whose first forward has no
    gradient. Every training forward with grad enabled injects once, when its backward runs; the layers record
    nothing meanwhile. The result equals that of the explicit loss if ``weight`` includes every factor that
    multiplies the penalty there:

    ====================== ==============================================================================
    λ                      the weight of the penalty in the loss
    × loss scale           with a ``GradScaler``: ``injection.weight = scaler.scale(lam)`` before each step
    ÷ micro-batches        if the loss is divided by their number; not if a schedule divides gradients
    × nothing              with DDP and FSDP, which average gradients; each rank injects its own penalty
    ====================== ==============================================================================

    Args:
        model: the model, a stage or a block; all its :class:`~jumpstart_kernels.JumpstartReLU` layers inject.
        weight: a number or a 0-dim tensor; :attr:`PenaltyInjection.weight` changes it.
        counts: units and points of all layers of all stages in one forward (of one micro-batch), from
            :func:`count_units_and_points`; ``"balanced"`` and ``"mean"`` divide by them.
        reduction: as in :func:`~jumpstart_kernels.penalty`, except ``"norm"``, whose gradient is only known
            after the last layer.
        sign_balance: as in :func:`~jumpstart_kernels.penalty`.
        terms: as in :func:`~jumpstart_kernels.penalty`.

    Raises:
        TypeError: ``model``, ``weight``, ``counts`` or ``sign_balance`` has the wrong type.
        ValueError: ``reduction="norm"``; ``counts`` missing; no ``JumpstartReLU`` in the model, or one that
            injects already; and the errors of :func:`~jumpstart_kernels.penalty`.
    """
    check_module(model)
    check_penalty_options(reduction, sign_balance, terms)
    if reduction == "norm":
        raise ValueError("reduction='norm' cannot be injected: its gradient needs all layers at once")
    if counts is not None and not isinstance(counts, PenaltyCounts):
        raise TypeError(f"counts must be PenaltyCounts, got {type(counts).__name__}")
    if counts is None and reduction in ("balanced", "mean"):
        raise ValueError(
            f"counts must be given for reduction={reduction!r}: call count_units_and_points(model, x) on the "
            "whole model, or add those of its stages"
        )
    layers = layers_of(model)
    if not layers:
        raise ValueError("model must have a JumpstartReLU layer: call jumpstart_kernels.replace_relu first")
    if any(layer._inject is not None for layer in layers):
        raise ValueError("model must not inject already: remove() the other injection first")
    if counts is None:
        weights = penalty_coefficients(reduction, sign_balance, terms)
    else:
        weights = penalty_weights(reduction, sign_balance, terms, counts.units, counts.points)
    parameters = list(model.parameters())
    device = parameters[0].device if parameters else None
    precise = any(parameter.dtype == torch.float64 for parameter in parameters)
    coefficients = torch.tensor(weights, device=device, dtype=torch.float64 if precise else torch.float32)
    injection = PenaltyInjection(layers, coefficients.view(SUMS_SHAPE), weight)
    records.clear(layers)
    for layer in layers:
        layer._inject = injection._inject
    return injection


def count_units_and_points(model: nn.Module, *args: Any, **kwargs: Any) -> PenaltyCounts:
    """Units and points of all layers of a model in one forward, by which ``"balanced"`` divides.

    Calls ``model(*args, **kwargs)`` once without grad, in its current mode, and restores buffers and random
    state.

    Raises:
        TypeError: ``model`` is not a module.
        ValueError: no ``JumpstartReLU`` ran.
    """
    check_module(model)
    total = PenaltyCounts(0, 0)

    def count(extrema: LayerExtrema) -> None:
        nonlocal total
        points = extrema.point_max.numel()
        if points:
            total += PenaltyCounts(extrema.unit_max.numel(), points)

    layers = layers_of(model)
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
    """Restore buffers, random states and the layers' flags for unreachable forwards."""
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    flags = [(layer, layer._unreachable) for layer in layers_of(model)]
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
