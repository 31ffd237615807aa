"""How other methods rank the units of a layer: a score for each unit, of which the lowest go first.

Each is the score of its source alone. What a source does besides, such as retraining, or adding the outgoing
weights of a unit that goes to those of another one, is replaced by the least-squares repair that all share.
"""

from collections.abc import Callable
from functools import cached_property
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.paper.networks import Rectangle
from jumpstart_kernels.pruning.capture import Products
from jumpstart_kernels.pruning.repair import unexplained


class Passes:
    """What a network does on labelled data, computed when it is asked for.

    Args:
        model: in ``eval()``, of linear layers with ReLUs; units may have been removed from it.
        x: ``[N, features]``.
        y: labels ``[N]``.
        seed: of the random scores.
    """

    def __init__(self, model: Rectangle, x: Tensor, y: Tensor, seed: int) -> None:
        self.model, self.seed = model, seed
        self._x, self._y = x, y

    @cached_property
    def outputs(self) -> list[Tensor]:
        """Of each layer behind its ReLU, ``[N, units]``, with their graph."""
        found, x = [], self._x
        for layer in self.model.layers:
            x = torch.relu(layer(x))
            found.append(x)
        return found

    @cached_property
    def gradients(self) -> list[Tensor]:
        """Of each row's loss by the outputs of each layer, ``[N, units]``."""
        loss = F.cross_entropy(self.model.classifier(self.outputs[-1]), self._y, reduction="sum")
        return list(torch.autograd.grad(loss, self.outputs, retain_graph=True))

    def incoming(self, layer: int) -> Tensor:
        """``[units, inputs]``"""
        module: Any = self.model.layers[layer]
        return module.weight.detach()

    def bias(self, layer: int) -> Tensor:
        """``[units]``"""
        module: Any = self.model.layers[layer]
        return module.bias.detach()

    def outgoing(self, layer: int) -> Tensor:
        """``[units, outputs]``"""
        behind: Any = [*self.model.layers, self.model.classifier][layer + 1]
        return behind.weight.detach().T


def magnitude(passes: Passes, layer: int) -> Tensor:
    """The Euclidean norm of the incoming weights: He et al., *Soft Filter Pruning*, arXiv 1808.06866."""
    return passes.incoming(layer).norm(dim=1)


def l1_structured(passes: Passes, layer: int) -> Tensor:
    """The sum of the absolute incoming weights: Li et al., *Pruning Filters*, arXiv 1608.08710."""
    return passes.incoming(layer).abs().sum(1)


def fpgm(passes: Passes, layer: int) -> Tensor:
    """The sum of the distances to the weights of all other units: He et al., *FPGM*, arXiv 1811.00250."""
    weights = passes.incoming(layer)
    return (weights[:, None] - weights).norm(dim=2).sum(1)


def taylor(passes: Passes, layer: int) -> Tensor:
    """The mean of |output times gradient of the loss|: Molchanov et al., arXiv 1611.06440, Section 2.2."""
    return (passes.outputs[layer] * passes.gradients[layer]).detach().abs().mean(0)


def activation(passes: Passes, layer: int) -> Tensor:
    """The mean output: the activation criterion of Molchanov et al., arXiv 1611.06440, Section 2.2."""
    return passes.outputs[layer].detach().mean(0)


def chance(passes: Passes, layer: int) -> Tensor:
    """Random scores, other ones for each layer."""
    generator = torch.Generator().manual_seed(1000 * passes.seed + layer)
    return torch.rand(len(passes.incoming(layer)), generator=generator)


def data_free(passes: Passes, layer: int) -> Tensor:
    """The saliency of the removal of a unit in favor of one like it: Srinivas & Babu, arXiv 1507.06149.

    ``min_i mean(a_j²) · ‖w_i − w_j‖²`` over the units i that are left, with the bias among the weights w. The
    least salient unit goes, then of those that are left the next, as in Algorithm 1 there; a score is never
    less than that of a unit that goes before.
    """
    weights = torch.cat([passes.incoming(layer), passes.bias(layer)[:, None]], 1)
    distances = (weights[:, None] - weights).square().sum(2)
    saliency = passes.outgoing(layer).square().mean(1) * distances  # [i, j]: j goes, i stays
    saliency.fill_diagonal_(torch.inf)
    scores = weights.new_full((len(weights),), torch.inf)
    last = 0.0
    for _ in range(len(weights) - 1):
        lowest, unit = saliency.amin(0).min(0)
        scores[unit] = last = max(last, float(lowest))
        saliency[unit] = torch.inf
        saliency[:, unit] = torch.inf
    return scores.clamp(max=1.0001 * last)  # the one that is left comes last


def missed(passes: Passes, layer: int) -> Tensor:
    """What the layer behind would miss of a unit: the order in which ``permutation_prune`` tries units.

    The mean square that least squares from the other units of the layer leaves of its output, times the sum
    of its squared outgoing weights. No peer, but it tells the order of ours from its search.
    """
    output, products = passes.outputs[layer].detach(), Products()
    products.add(output, output, output.new_ones(len(output)))
    left = unexplained(products, constant=True, left=torch.arange(output.shape[1]))
    return left * passes.outgoing(layer).square().sum(1)


class Peer(NamedTuple):
    """A method, and how its scores of several layers are made comparable."""

    title: str
    score: Callable[[Passes, int], Tensor]
    norm: float
    """The scores of a layer are divided by their norm of this order."""


LARGEST, EUCLIDEAN = float("inf"), 2.0
PEERS = {
    "magnitude": Peer("magnitude", magnitude, LARGEST),
    "l1": Peer("L1-structured", l1_structured, LARGEST),
    "fpgm": Peer("FPGM", fpgm, LARGEST),
    "taylor": Peer("Taylor", taylor, EUCLIDEAN),
    "activation": Peer("activation", activation, EUCLIDEAN),
    "random": Peer("random", chance, LARGEST),
    "data_free": Peer("data-free merging", data_free, LARGEST),
}
"""arXiv 1611.06440 divides by the Euclidean norm; the others rank the units of one layer alone."""
OWN_ORDER = {"missed": Peer("order of ours", missed, LARGEST)}
RANKINGS = PEERS | OWN_ORDER


def normalized_scores(peer: Peer, passes: Passes, layer: int) -> Tensor:
    """The scores of a layer, ``[units]``, comparable to those of others."""
    scores = peer.score(passes, layer).double()
    return scores / scores.norm(peer.norm).clamp(min=torch.finfo(scores.dtype).tiny)
