"""Rounds through the sets of a model: what is most redundant anywhere goes first."""

from dataclasses import dataclass, field
from typing import NamedTuple

from torch import Tensor

from jumpstart_kernels.pruning.bypassing import correlation_passed_on, is_bypassable, obstacle_to_bypass
from jumpstart_kernels.pruning.keys import Redundancy, redundant_pairs
from jumpstart_kernels.pruning.merging import Merge, merge_units
from jumpstart_kernels.pruning.reduction import Look, Reduction
from jumpstart_kernels.pruning.report import LayerReport
from jumpstart_kernels.pruning.unit_sets import UnitSet
from jumpstart_kernels.usage.report import LINEAR

SHARES = (0.1, 0.25, 0.5, 0.75, 1.0)
"""How much of a set may go at most in the rounds with a tolerance: the units that are missed least."""


class Round(NamedTuple):
    """What is tried of every set."""

    tolerance: float
    share: float


def rounds_of(tolerance: float) -> list[Round]:
    """First what is of the same order, then what is within a tolerance, in growing shares of all units."""
    return [Round(0.0, 1.0), *(Round(tolerance, share) for share in SHARES if tolerance)]


@dataclass
class _Seen:
    """What the data say of a set, until something is removed."""

    look: Look
    found: Redundancy  # up to the largest tolerance
    passed: Tensor  # correlations [units]
    left: Tensor  # the units that have been compared
    refused: set[int] = field(default_factory=set)  # those that cannot go, each alone
    stays: bool = False  # whether the layer has been found not to go


class History:
    """What becomes of a set of units, round by round.

    Args:
        units: the set.
        tolerance: the largest, of the last round.
    """

    def __init__(self, units: UnitSet, tolerance: float) -> None:
        self.units = units
        self._tolerance = tolerance
        self._dead: list[int] = []
        self._merges: list[Merge] = []
        self._note = units.obstacle
        self._seen: _Seen | None = None
        self._removals = -1  # of the whole model, when it was seen
        self._linear = self._passing = self._unjudged = 0

    def prune(self, reduction: Reduction, tolerance: float, share: float) -> None:
        """Remove what is redundant within a tolerance, of the units that are missed least."""
        units = self.units
        if units.obstacle or units in reduction.network.bypassed:
            return
        seen = self._look(reduction)
        if seen is None:
            return
        passed = seen.passed >= 1 - tolerance
        if not seen.stays and is_bypassable(seen.found, passed):
            obstacle = obstacle_to_bypass(reduction, units)
            if not obstacle and reduction.attempt_bypass(units) is not None:
                return
            seen.stays = True
            reason = obstacle or "decisions would change without it, or the forward needs it"
            self._note = (
                f"at a tolerance of {tolerance:g} its units are linear, dead or passed on, but the layer "
                f"stays: {reason}"
            )
        within = seen.found.correlation >= 1 - tolerance
        found = seen.found._replace(
            pairs=seen.found.pairs[within], correlation=seen.found.correlation[within]
        )
        merged = merge_units(reduction, units, seen.look, found, share, seen.left, seen.refused)
        self._dead += merged.dead
        self._merges += merged.merges

    def report(self, reduction: Reduction) -> LayerReport:
        """What has gone in the end."""
        units, left = self.units, len(reduction.network.left[self.units])
        gone = units in reduction.network.bypassed
        return LayerReport(
            units.name,
            tuple(units.producers),
            units.size,
            kept=0 if gone else left,
            dead=tuple(self._dead),
            merges=tuple(self._merges),
            passed_on=left if gone else 0,
            linear=self._linear,
            passing=self._passing,
            unjudged=self._unjudged,
            note="" if gone else self._note,
        )

    def _look(self, reduction: Reduction) -> _Seen | None:
        """What the data say now; None if they say too little."""
        if self._removals == reduction.removals:
            return self._seen
        first, self._removals = self._seen is None, reduction.removals
        look = reduction.look(self.units)
        if reason := reduction.too_few(look):
            self._note, self._seen = reason, None
            return None
        positive = not any(site.linked for site in self.units.sites)
        found = redundant_pairs(look.values, tolerance=self._tolerance, positive=positive)
        passed = correlation_passed_on(reduction, self.units, look)
        if first:
            self._linear = int((found.status == LINEAR).sum())
            self._passing = int((passed >= 1 - self._tolerance).sum())
            self._unjudged = int(found.unjudged.sum())
        look = look._replace(values=[], input=None)  # the largest, and not needed any more
        self._seen = _Seen(look, found, passed, reduction.network.left[self.units])
        return self._seen
