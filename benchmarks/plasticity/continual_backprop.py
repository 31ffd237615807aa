"""Continual backpropagation (Dohare et al., 2024): in every step a few units of low utility are replaced."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from benchmarks.plasticity.networks import Networks, Pass
from benchmarks.plasticity.optimizers import SGD, Adam
from benchmarks.plasticity.upkeep import DECAY, MATURITY, Upkeep


class ContinualBackprop(Upkeep):
    """Of the mature units of a layer, the strength, a rate, of them is replaced in a step, at most one.

    A unit's utility is an exponential average of its mean absolute output times the sum of its absolute
    outgoing weights. The mean contribution of a replaced unit moves to the next layer's biases. Both averages
    are corrected for their start at zero.
    """

    replaces = True

    def __init__(
        self, networks: Networks, strengths: Sequence[float], optimizer: SGD | Adam, seed: int = 0
    ) -> None:
        super().__init__(networks, strengths, optimizer, seed)
        depth, width = networks.shape.depth, networks.shape.width
        zeros = networks.weights[0].new_zeros(networks.count, depth, width)
        self.utilities, self.means, self.ages = zeros.clone(), zeros.clone(), zeros.clone()
        self.due = zeros[:, :, 0].clone()
        """``[K, depth]``: how many units are to be replaced, fractions included."""

    @torch.no_grad()
    def maintain(self, done: Pass, probe: Callable[[], Tensor]) -> None:
        self.ages += 1
        means = torch.stack([features.mean(2) for features in done.features], 1)  # [K, depth, width]
        outgoing = torch.stack([weight.abs().sum(1) for weight in self.networks.weights[1:]], 1)
        self.means.lerp_(means, 1 - DECAY)
        self.utilities.lerp_(means * outgoing, 1 - DECAY)  # outputs of ReLU are their absolute values
        mature = self.ages > MATURITY
        self.due += self.strengths * mature.sum(2)
        replaced = self.due >= 1
        if replaced.any():
            corrected = self.utilities / self.correction()
            worst = corrected.masked_fill(~mature, torch.inf).argmin(2)  # [K, depth]
            mask = torch.zeros_like(mature).scatter_(2, worst[:, :, None], replaced[:, :, None]) & mature
            self.due -= replaced.to(self.due)
            for layer in replaced.any(0).nonzero().flatten().tolist():
                self.move_mean(layer, mask[:, layer])
                self.replace(layer, mask[:, layer])
            for state in (self.utilities, self.means, self.ages):
                state.masked_fill_(mask, 0)

    def correction(self) -> Tensor:
        """The sum of the weights in the averages of each unit, ``[K, depth, width]``."""
        return 1 - DECAY**self.ages

    def move_mean(self, layer: int, mask: Tensor) -> None:
        """Add what the units in ``mask``, ``[K, width]``, contribute on average to the next biases."""
        means = (self.means / self.correction())[:, layer] * mask
        self.networks.biases[layer + 1].add_(self.networks.weights[layer + 1] @ means[:, :, None])
