"""What ``permutation_prune`` has removed, and what that has changed."""

import math
from dataclasses import dataclass

from jumpstart_kernels.pruning.merging import Merge


@dataclass(frozen=True)
class LayerReport:
    """The units of one layer, or of several whose units can only be removed together."""

    name: str
    """Of the layer that makes them; of several the first."""
    layers: tuple[str, ...]
    """All that make them."""
    units: int
    """Before."""
    kept: int
    """After; 0 if the layer is gone."""
    dead: tuple[int, ...] = ()
    """Dead units that are gone, numbered as before."""
    merges: tuple[Merge, ...] = ()
    """Units that are gone because another orders the data alike."""
    passed_on: int = 0
    """Units that are gone together with their layer."""
    linear: int = 0
    """Units that are positive on all data, of all before."""
    passing: int = 0
    """Units that order the data as a unit does that their layer reads, of all before."""
    unjudged: int = 0
    """Units that are positive too rarely to be judged; they are kept."""
    note: str = ""
    """Why no unit, or not the layer, can be removed."""

    @property
    def label(self) -> str:
        """The name, and how many more layers make the same units."""
        return self.name + (f" + {len(self.layers) - 1}" if len(self.layers) > 1 else "")

    @property
    def dead_count(self) -> int:
        """Dead units that are gone."""
        return len(self.dead)

    @property
    def merged_count(self) -> int:
        """Units that are gone because another orders the data alike."""
        return len(self.merges)


@dataclass(frozen=True)
class Size:
    """What a model costs."""

    parameters: int
    bytes: int
    """Of parameters and buffers."""
    latency: float
    """Seconds of a forward in ``eval()`` of the first batch, the median."""


@dataclass(frozen=True, repr=False)
class PruneReport:
    """The result of :func:`~jumpstart_kernels.pruning.permutation_prune` in numbers; prints as a table."""

    layers: tuple[LayerReport, ...]
    """In the order of the forward."""
    samples: int
    """Samples of the loader."""
    decisions: int
    """Decisions on them, one a sample unless the model decides for positions."""
    flips: int
    """Decisions of the loader that have changed."""
    max_flips: int
    largest_change: float
    """Of a logit, on the loader."""
    certified: bool
    """Whether no logit of the loader moves by half the smallest gap between the two largest."""
    unseen: int
    """Decisions on other data; 0 if none were given."""
    unseen_flips: int
    most_unseen_flips: float
    """The upper bound of the share of flips, at 95 % (Clopper and Pearson); NaN without other data, and where
    a sample has several decisions, which depend on each other."""
    before: Size
    after: Size
    batch: int
    """Samples of the batch by which latency is measured."""

    @property
    def units(self) -> int:
        """All units that could have been removed, and those that could not."""
        return sum(layer.units for layer in self.layers)

    @property
    def removed(self) -> int:
        """Units that are gone."""
        return sum(layer.units - layer.kept for layer in self.layers)

    def __str__(self) -> str:
        rows: list[tuple[str, ...]] = [
            ("layer", "units", "kept", "dead", "merged", "gone with layer", "note")
        ]
        for layer in self.layers:
            counts = (layer.units, layer.kept, layer.dead_count, layer.merged_count, layer.passed_on)
            rows.append((layer.label, *map(str, counts), _notes(layer)))
        totals = [sum(int(row[column]) for row in rows[1:]) for column in range(1, 6)]
        rows.append(("total", *map(str, totals), ""))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(
                [
                    row[0].ljust(widths[0]),
                    *(cell.rjust(width) for cell, width in zip(row[1:6], widths[1:6], strict=True)),
                    row[6],
                ]
            ).rstrip()
            for row in rows
        ]
        lines.insert(-1, "-" * (sum(widths[:6]) + 10))
        return "\n".join([*lines, *self._sentences()])

    __repr__ = __str__

    def _sentences(self) -> list[str]:
        how = "so that decisions were counted"
        if self.certified:
            how = "less than half the smallest gap between the two largest, so that no decision can change"
        lines = [
            f"{self.flips} of {self.decisions} decisions changed, of at most {self.max_flips}; "
            f"the largest change of a logit is {self.largest_change:.3g}, {how}"
        ]
        if self.unseen:
            bound = f": below {self.most_unseen_flips:.2%} at 95 %"
            if math.isnan(self.most_unseen_flips):
                bound = ", of which those of a sample depend on each other: no bound"
            lines.append(f"{self.unseen_flips} of {self.unseen} decisions on unseen data changed{bound}")
        else:
            lines.append("no unseen data was given: what holds on these samples may not on others")
        if not self.removed:
            lines.append("nothing is redundant within this tolerance: a larger one tries more units")
        before, after = self.before, self.after
        lines.append(
            f"parameters {before.parameters:,} -> {after.parameters:,}, "
            f"{before.bytes:,} -> {after.bytes:,} bytes; forward of {self.batch} samples "
            f"{before.latency * 1e3:.3g} -> {after.latency * 1e3:.3g} ms"
        )
        return lines


def _notes(layer: LayerReport) -> str:
    notes = [layer.note] if layer.note else []
    if layer.unjudged:
        notes.append(f"{layer.unjudged} positive too rarely to be judged")
    return "; ".join(notes)
