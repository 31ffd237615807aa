"""SGD and Adam for K networks, with a learning rate for each and with an optimizer state that units can lose."""

from collections.abc import Sequence

import torch
from torch import Tensor

BETAS = (0.9, 0.999)
EPSILON = 1e-8
Index = tuple[Tensor | slice, ...]


class SGD:
    """Plain gradient descent.

    Args:
        parameters: each ``[K, ...]``, three-dimensional.
        rates: the learning rate of each network.
    """

    def __init__(self, parameters: Sequence[Tensor], rates: Sequence[float], **_: bool) -> None:
        self.parameters = parameters
        self.rates = parameters[0].new_tensor(rates)[:, None, None]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """Update the parameters by gradients of their shapes."""
        for parameter, gradient in zip(self.parameters, gradients, strict=True):
            parameter.sub_(gradient * self.rates)

    def forget(self, place: int, index: Index) -> None:
        """Reset the state of the ``place``-th parameter at an index: there is none."""


class Adam:
    """PyTorch's Adam.

    The bias correction is the same exponential average as the moments', of ones. So a weight whose averages
    are set to zero starts again as at step zero, while others go on.

    Args:
        parameters: each ``[K, ...]``, three-dimensional.
        rates: the learning rate of each network.
        forgets: whether :meth:`forget` will be called: each weight then has a correction of its own.
    """

    def __init__(self, parameters: Sequence[Tensor], rates: Sequence[float], forgets: bool = False) -> None:
        self.parameters = parameters
        self.rates = parameters[0].new_tensor(rates)[:, None, None]
        self.averages = [[torch.zeros_like(p) for p in parameters] for _ in BETAS]
        self.corrections = [
            [torch.zeros_like(p if forgets else p[:1, :1, :1]) for p in parameters] for _ in BETAS
        ]

    @torch.no_grad()
    def step(self, gradients: Sequence[Tensor]) -> None:
        """Update the parameters by gradients of their shapes."""
        for place, (parameter, gradient) in enumerate(zip(self.parameters, gradients, strict=True)):
            first, second = (averages[place] for averages in self.averages)
            first.lerp_(gradient, 1 - BETAS[0])
            second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
            for correction, beta in zip(self.corrections, BETAS, strict=True):
                correction[place].mul_(beta).add_(1 - beta)
            corrections = [correction[place] for correction in self.corrections]
            divisor = (second / corrections[1]).sqrt_().add_(EPSILON)
            parameter.sub_((first / divisor).mul_(self.rates / corrections[0]))

    def forget(self, place: int, index: Index) -> None:
        """Reset the state of the ``place``-th parameter at an index."""
        for states in (*self.averages, *self.corrections):
            states[place][index] = 0


OPTIMIZERS = {"sgd": SGD, "adam": Adam}
