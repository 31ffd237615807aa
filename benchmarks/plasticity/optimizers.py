"""SGD and Adam for K networks, with a learning rate for each and a state that units can lose."""

from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.plasticity.networks import Networks

BETAS = (0.9, 0.999)
EPSILON = 1e-8
Index = tuple[Tensor | slice, ...]


class SGD:
    """Plain gradient descent.

    Args:
        networks: K of them.
        rates: the learning rate of each.
        forgets: for :class:`Adam`.
    """

    def __init__(self, networks: Networks, rates: Sequence[float], forgets: bool = False) -> None:
        self.vector = networks.vector
        self.rates = self.vector.new_tensor(rates)[:, None]

    def step(self, gradient: Tensor) -> None:
        """Update the parameters by their gradient, ``[K, P]``."""
        self.vector.addcmul_(gradient, self.rates, value=-1)

    def forget(self, place: int, index: Index) -> None:
        """Reset the state of the ``place``-th parameter at an index: there is none."""


class Adam:
    """PyTorch's Adam.

    The bias correction is the same exponential average as the moments', of ones. So a weight whose averages
    are set to zero starts again as at step zero, while others go on.

    Args:
        networks: K of them.
        rates: the learning rate of each.
        forgets: whether :meth:`forget` will be called: each weight then has a correction of its own.
    """

    def __init__(self, networks: Networks, rates: Sequence[float], forgets: bool = False) -> None:
        self.vector = vector = networks.vector
        self.rates = vector.new_tensor(rates)[:, None]
        self.moments = [torch.zeros_like(vector) for _ in BETAS]
        self.corrections = [torch.zeros_like(vector if forgets else vector[:, :1]) for _ in BETAS]
        shapes = [parameter.shape for parameter in networks.parameters]
        states = [*self.moments, *self.corrections] if forgets else []
        self.by_parameter = [networks.views(state, shapes) for state in states]

    def step(self, gradient: Tensor) -> None:
        """Update the parameters by their gradient, ``[K, P]``."""
        first, second = self.moments
        first.lerp_(gradient, 1 - BETAS[0])
        second.mul_(BETAS[1]).addcmul_(gradient, gradient, value=1 - BETAS[1])
        for correction, beta in zip(self.corrections, BETAS, strict=True):
            correction.mul_(beta).add_(1 - beta)
        divisor = (second / self.corrections[1]).sqrt_().add_(EPSILON)
        self.vector.addcdiv_(first * (self.rates / self.corrections[0]), divisor, value=-1)

    def forget(self, place: int, index: Index) -> None:
        """Reset the state of the ``place``-th parameter at an index."""
        for views in self.by_parameter:
            views[place][index] = 0


OPTIMIZERS: dict[str, type[SGD] | type[Adam]] = {"sgd": SGD, "adam": Adam}
