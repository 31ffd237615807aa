"""What the library does not have: fakes, and autograd in Python, in two ways."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from jumpstart_kernels.ops import jumpstart_activation as definition
from jumpstart_kernels.ops.arguments import ForwardResult, Options, save_for_backward

Operator = Callable[..., tuple[Tensor, ...]]
"""``(x, bias, *options)`` to the fields of :class:`~jumpstart_kernels.ops.arguments.ForwardResult`."""
NAMESPACE = "jumpstart_stable"


def load(library: Path) -> dict[str, Operator]:
    """Load the library, and return the operator with its autograd by ``register_autograd`` and by
    ``autograd.Function``."""
    torch.ops.load_library(library)
    operators = torch.ops.jumpstart_stable
    backward = definition.make_backward(operators.jumpstart_activation_backward.default)
    for name in ("registered", "function"):
        torch.library.register_fake(
            f"{NAMESPACE}::jumpstart_activation.{name}", definition.flat_forward(definition._fake_forward)
        )
    torch.library.register_fake(
        f"{NAMESPACE}::jumpstart_activation_backward", definition._flat_backward(definition._fake_backward)
    )
    torch.library.register_autograd(
        f"{NAMESPACE}::jumpstart_activation.registered", backward, setup_context=definition._setup_context
    )
    return {
        "register_autograd": operators.jumpstart_activation.registered,
        "autograd.Function": make_function(operators.jumpstart_activation.function, backward).apply,
    }


def make_function(operator: Operator, formula: Callable[..., Any]) -> Any:
    """An ``autograd.Function`` over an operator that has no autograd of its own."""

    class JumpstartActivation(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor, bias: Tensor | None, *options: Any) -> tuple[Tensor, ...]:
            result = ForwardResult(*operator(x, bias, *options))
            ctx.mark_non_differentiable(result.mask, result.indices)
            save_for_backward(ctx, x, bias, result, Options(*options))
            return tuple(result)

        @staticmethod
        def backward(ctx: Any, *grads: Tensor | None) -> Any:
            return formula(ctx, *grads)

    return JumpstartActivation
