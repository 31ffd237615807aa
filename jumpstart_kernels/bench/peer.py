"""One implementation that is compared: its forward, its backward, and what it must move."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import jumpstart_kernels as jk

Outputs = tuple[Tensor, ...]  # the layer's output, and the penalty if there is one
Forward = Callable[[Tensor], Outputs]
PENALTY_WEIGHT = 0.1  # in the loss of a step; its value does not change the time


class HandGradient(torch.autograd.Function):
    """A loss of value 0 whose gradient for the output is handed to it: it moves no bytes of its own."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, grad: Tensor) -> Tensor:
        ctx.grad = grad
        return output.new_zeros((), dtype=torch.float32)  # as a criterion computes it in mixed precision

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[Tensor, None]:
        return ctx.grad, None


@dataclass
class Peer:
    """One implementation of an activation's layer, regularized or not."""

    name: str
    forward: Forward
    definition: Forward
    tensors_moved: tuple[int, int] | None = None
    """Tensors of the input's size that forward and backward must move at least; None: not defined."""
    mask: int = 0
    """Bits per element that are also written in the forward and read in the backward."""
    parameters: Sequence[Tensor] = ()
    before_relu: Callable[[Tensor], Tensor] | None = None
    """How the ReLU's input is computed, if it is: its sign near 0 then depends on rounding."""
    cancels: bool = False
    """Whether small values may have lost digits, as where ``exp(x) - 1`` is computed so."""
    backend: str | None = None
    bias: Tensor | None = None
    """What the forward adds to its input; one of the parameters."""
    model: nn.Module | None = None
    """Kept for the forward, which runs a part of it."""
    ones: list[Tensor] = field(default_factory=list)
    """The gradient of the penalty, if there is one."""

    def __post_init__(self) -> None:
        if self.bias is not None:
            self.parameters = [*self.parameters, self.bias]

    def active(self) -> AbstractContextManager:
        """The context in which the peer runs."""
        return nullcontext() if self.backend is None else jk.use_backend(self.backend)

    def prepare(self, x: Tensor) -> None:
        """Run once, to trigger compilation and create the penalty's gradient."""
        self.ones = [torch.ones_like(penalty) for penalty in self.forward(x)[1:]]

    def backward(self, x: Tensor, outputs: Outputs, grad: Tensor) -> None:
        """Fresh gradients of ``sum(output · grad) + penalty`` for ``x`` and the parameters."""
        self._clear(x)
        torch.autograd.backward(outputs, [grad, *self.ones])

    def step(self, x: Tensor, grad: Tensor) -> None:
        """Forward and backward as a training loop has them: gradients are cleared first, and one loss is run.

        Fresh gradients of ``sum(output · grad) + PENALTY_WEIGHT · penalty`` for ``x`` and the parameters.
        """
        self._clear(x)
        output, *penalties = self.forward(x)
        loss = HandGradient.apply(output, grad)
        for each in penalties:
            loss = loss + PENALTY_WEIGHT * each
        loss.backward()

    def _clear(self, x: Tensor) -> None:
        x.grad = None
        for parameter in self.parameters:
            parameter.grad = None

    def model_bytes(self, elements: int, size: int) -> tuple[float, float] | None:
        """The minimum bytes that forward and backward move, for elements of ``size`` bytes."""
        if self.tensors_moved is None:
            return None
        forward, backward = (elements * (tensors * size + self.mask / 8) for tensors in self.tensors_moved)
        return forward, backward


def compile_forward(forward: Forward) -> Forward:
    torch._dynamo.reset()  # drop the graphs of other shapes
    return torch.compile(forward, fullgraph=True, dynamic=False)
