"""What the techniques do to K networks besides descending the loss: decay, perturbation, replaced units.

Each is made for networks and the strength of each of them, and may have a part in every step:
:meth:`Upkeep.adjust` before it, :meth:`Upkeep.maintain` after it.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.plasticity.measures import activity
from benchmarks.plasticity.networks import Networks, Pass
from benchmarks.plasticity.optimizers import SGD, Adam

PERTURBED_EVERY = 10  # steps
RECYCLED_EVERY = 100  # steps
DECAY = 0.99  # of the averages of continual backpropagation
MATURITY = 100  # steps for which a new unit is not replaced


class Upkeep:
    """Does nothing.

    Args:
        networks: K of them.
        strengths: of the technique, one for each network.
        optimizer: of the networks, which forgets about replaced units.
        seed: of the random numbers.
    """

    replaces = False
    """Whether it replaces units, so that the optimizer must forget."""

    def __init__(
        self, networks: Networks, strengths: Sequence[float], optimizer: SGD | Adam, seed: int = 0
    ) -> None:
        self.networks, self.optimizer = networks, optimizer
        self.strengths = networks.weights[0].new_tensor(strengths)[:, None]  # [K, 1]
        self.generator = torch.Generator().manual_seed(seed)
        self.steps = 0

    def adjust(self, gradient: Tensor) -> None:
        """Change the gradient, ``[K, P]``, in place."""

    def maintain(self, done: Pass, probe: Callable[[], Tensor]) -> None:
        """Change the networks after a step.

        Args:
            done: the forward pass of the step.
            probe: gives further inputs of the current task, ``[K, inputs, N]``.
        """

    def draw(self, layer: int, *size: int) -> Tensor:
        """Fresh weights of a layer."""
        weight = self.networks.weights[layer]
        uniform = torch.rand(size, generator=self.generator, dtype=weight.dtype)
        return (2 * uniform - 1) * self.networks.bounds[layer]

    @torch.no_grad()
    def replace(self, layer: int, mask: Tensor) -> None:
        """Give units of a hidden layer fresh incoming weights and zero outgoing ones; no state of them stays.

        Args:
            layer: of the units.
            mask: ``[K, units]``, which ones.
        """
        networks = self.networks
        owners, units = mask.nonzero(as_tuple=True)
        incoming, outgoing = (owners, units), (owners, slice(None), units)
        networks.weights[layer][incoming] = self.draw(layer, len(units), networks.weights[layer].shape[2])
        networks.biases[layer][incoming] = 0
        networks.weights[layer + 1][outgoing] = 0
        self.optimizer.forget(layer, incoming)
        self.optimizer.forget(len(networks.weights) + layer, incoming)
        self.optimizer.forget(layer + 1, outgoing)


class L2(Upkeep):
    """L2 regularization: half the squared norm of all parameters, times the strength, joins the loss."""

    def adjust(self, gradient: Tensor) -> None:
        gradient.addcmul_(self.networks.vector, self.strengths)


class L2Init(Upkeep):
    """The same towards the initial parameters (Kumar et al., 2023)."""

    def __init__(
        self, networks: Networks, strengths: Sequence[float], optimizer: SGD | Adam, seed: int = 0
    ) -> None:
        super().__init__(networks, strengths, optimizer, seed)
        self.initial = networks.vector.clone()

    def adjust(self, gradient: Tensor) -> None:
        gradient.addcmul_(self.networks.vector - self.initial, self.strengths)


class ShrinkAndPerturb(Upkeep):
    """Every few steps all weights move by the strength, a fraction, towards freshly drawn ones.

    After Ash and Adams, 2020, with one number for both: weights shrink by it, and fresh ones times it join.
    """

    @torch.no_grad()
    def maintain(self, done: Pass, probe: Callable[[], Tensor]) -> None:
        self.steps += 1
        if self.steps % PERTURBED_EVERY:
            return
        for layer, weight in enumerate(self.networks.weights):
            weight.lerp_(self.draw(layer, *weight.shape), self.strengths[:, :, None])
        for bias in self.networks.biases:
            bias.mul_(1 - self.strengths[:, :, None])


class ReDo(Upkeep):
    """Every so many steps, units that are dormant on the probe inputs are replaced (Sokar et al., 2023).

    The strength is the threshold of dormancy.
    """

    replaces = True

    @torch.no_grad()
    def maintain(self, done: Pass, probe: Callable[[], Tensor]) -> None:
        self.steps += 1
        if self.steps % RECYCLED_EVERY:
            return
        for layer, features in enumerate(self.networks.run(probe()).features):
            self.replace(layer, activity(features) <= self.strengths)
