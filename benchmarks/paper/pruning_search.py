"""Two ways to remove units by the scores of a peer, both with the repair of ``permutation_prune``.

One ranking: the k lowest units of one ranking over all layers go, layer by layer from front to back. What the
units do is seen anew before each layer, behind the removals and repairs in front of it, and decisions are
checked once, at the end. The largest k counts by which none has changed: all powers of 2 are tried, then the
interval behind the largest good one is bisected.

Same search: that of ``permutation_prune``, from front to back, and in rounds. In the first dead units go,
without a repair, which they do not need. In each of the others, a growing share of the units of a layer,
those of the lowest scores, are tried together, and by halves where a decision would change. Scores are those
of the network as it is before each layer.

In both a layer keeps at least one unit.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.paper.networks import Rectangle
from benchmarks.paper.pruning_peers import Passes, Peer, normalized_scores
from jumpstart_kernels.pruning.merging import remove_in_halves
from jumpstart_kernels.pruning.network import Network
from jumpstart_kernels.pruning.reduction import Look, Reduction
from jumpstart_kernels.pruning.rounds import SHARES
from jumpstart_kernels.pruning.unit_sets import UnitSet

Unit = tuple[int, int]  # layer, number in the given model


class Labelled:
    """Batches of calibration rows, and their labels."""

    def __init__(self, batches: Sequence[Tensor], labels: Tensor) -> None:
        self.batches, self.labels = batches, labels
        self.x = torch.cat(list(batches))

    def passes(self, model: Rectangle, seed: int) -> Passes:
        return Passes(model, self.x, self.labels, seed)


def rank(peer: Peer, passes: Passes) -> list[Unit]:
    """The units of all layers, the lowest score first, without the highest of each layer."""
    scores, units = [], []
    for layer in range(len(passes.model.layers)):
        of_layer = normalized_scores(peer, passes, layer)
        order = of_layer.argsort(stable=True)[:-1]
        scores.append(of_layer[order])
        units += [(layer, unit) for unit in order.tolist()]
    return [units[place] for place in torch.cat(scores).argsort(stable=True).tolist()]


def by_one_ranking(reduction: Reduction, peer: Peer, data: Labelled, seed: int) -> int:
    """Leave ``reduction`` with the largest k removed by which no decision flips; returns k."""
    ranking = rank(peer, data.passes(reduction.given, seed))  # type: ignore[arg-type]

    def holds(k: int) -> bool:
        return _flips_without(reduction, ranking[:k]) == 0

    most = largest(holds, len(ranking))
    if not holds(most):
        raise RuntimeError(f"{most} units could be removed before, and cannot any more")
    return most


def largest(holds: Callable[[int], bool], most: int) -> int:
    """A number up to ``most`` that holds, while the next does not; 0 always holds, and is not tried."""
    powers = [2**i for i in range(most.bit_length()) if 2**i < most] + [most] * (most > 0)
    good = max((k for k in powers if holds(k)), default=0)
    bad = min((k for k in powers if k > good), default=most + 1)
    while bad - good > 1:
        middle = (good + bad) // 2
        if holds(middle):
            good = middle
        else:
            bad = middle
    return good


def _flips_without(reduction: Reduction, removed: Sequence[Unit]) -> int:
    reduction.network = Network(reduction.given, reduction.structure)
    for layer, units in enumerate(_sets(reduction)):
        numbers = [number for place, number in removed if place == layer]
        if numbers:
            reduction.remove(units, reduction.look(units), torch.tensor(numbers))
    with torch.no_grad():
        check = reduction.decisions.check(reduction.network.model)
    assert check is not None
    return check.flips


def by_same_search(reduction: Reduction, peer: Peer, data: Labelled, seed: int) -> int:
    """Remove from ``reduction`` what the search of ``permutation_prune`` allows; returns how many units."""
    sets = _sets(reduction)
    seen: dict[UnitSet, _Seen] = {}
    for share in (0.0, *SHARES):
        for layer, units in enumerate(sets):
            if units not in seen or seen[units].removals != reduction.removals:
                seen[units] = _Seen(reduction.look(units), reduction.removals, set())
            look, refused = seen[units].look, seen[units].refused
            left = reduction.network.left[units]  # those that have been seen
            dead = left[look.values[0].amax(1) <= 0][: len(left) - 1]
            for _ in remove_in_halves(reduction, units, look, dead, None, refused):
                pass
            if share:
                passes = data.passes(reduction.network.model, seed)  # type: ignore[arg-type]
                order = peer.score(passes, layer).argsort(stable=True)
                left = reduction.network.left[units][order]
                candidates = left[: math.ceil(share * len(left))]
                every = torch.ones(units.size, units.size)
                every[:, left[-1]] = 2  # the unit of the highest score is the one for which others may go
                for _ in remove_in_halves(reduction, units, look, candidates, every, refused):
                    pass
    return sum(units.size - len(reduction.network.left[units]) for units in sets)


class _Seen(NamedTuple):
    """What the data say of a set, until something is removed."""

    look: Look
    removals: int  # of the whole model, when it was seen
    refused: set[int]  # units that cannot go, each alone


def _sets(reduction: Reduction) -> list[UnitSet]:
    return [units for units in reduction.structure.sets if not units.obstacle]
