"""What :func:`~jumpstart_kernels.recycle` has done."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, repr=False, eq=False)
class RecycleReport:
    """Which units have been recycled, and why others have not; prints as a table by activation."""

    units: dict[str, int]
    """How many units each activation of the usage report has, by name."""
    found: dict[str, int]
    """How many of them are dormant, or dead (see ``criterion``)."""
    recycled: dict[str, Tensor]
    """Those of them that have been recycled, int64, on the CPU. Empty where there are none."""
    left: dict[str, dict[str, int]]
    """How many have been found, but stay as they are, by activation and reason."""
    by_layer: dict[str, Tensor]
    """The units recycled by the name of the layer that makes them, such as ``"conv1"``, numbered as there."""
    unchanged: int
    """How many recycled units have changed nothing in the output. On the data of the usage report they were
    constant, and that constant, unless it was 0, is now part of a bias."""
    on_average: int
    """How many recycled units were not constant, but have their mean in a bias."""
    changed: int
    """How many recycled units were not silent, and a layer that reads them could not take their mean exactly:
    it has no bias, pads with zeros, or is transposed; or ``keep_mean=False``."""
    criterion: str = ""
    """What was looked for, such as ``"dormant at τ = 0.1"``."""
    notes: tuple[str, ...] = ()
    """What optimizers keep that could not be cleared."""
    waiting: bool = False
    """Whether nothing has been looked at, as the window of the watch was not full."""

    @property
    def total(self) -> int:
        """How many units have been recycled. A unit that passes several activations counts once."""
        return sum(map(len, self.by_layer.values()))

    def __str__(self) -> str:
        if self.waiting:
            return "recycled: 0; the window of the watch is not full yet"
        rows: list[tuple[str, ...]] = [("layer", "units", "found", "recycled", "left")]
        for name, count in self.units.items():
            left = sum(self.left[name].values())
            rows.append((name, *map(str, (count, self.found[name], len(self.recycled[name]), left))))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for name, *cells in rows:
            padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
            lines.append("  ".join([name.ljust(widths[0]), *padded]))
        for name, reasons in self.left.items():
            lines += [f"left in {name}: {count}, {reason}" for reason, count in reasons.items()]
        lines.append(
            f"{self.criterion}; recycled: {self.total}; output unchanged by {self.unchanged}, mean kept of "
            f"{self.on_average}, changed by {self.changed}"
        )
        lines += [f"optimizer: {note}" for note in self.notes]
        return "\n".join(lines)

    __repr__ = __str__
