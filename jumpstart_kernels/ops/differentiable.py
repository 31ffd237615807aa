"""Double backward of the operators: their backward in plain PyTorch, which PyTorch differentiates."""

from collections.abc import Callable

import torch
from torch import Tensor


def differentiable(
    backward: torch._ops.OpOverload, reference: Callable[..., Tensor]
) -> Callable[..., Tensor]:
    """The autograd kernel of a backward operator: ``reference`` if it must be differentiable."""

    def run(*arguments):
        tensors = (argument for argument in arguments if isinstance(argument, Tensor))
        if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
            return reference(*arguments)
        with torch._C._AutoDispatchBelowAutograd():
            return backward(*arguments)

    return run
