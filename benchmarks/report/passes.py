"""What a bias and a ReLU read and write, by PyTorch and in one pass: the picture of docs/bias.md.

It shows no results. ``python -m benchmarks.figures`` draws it.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.report.documents import DPI, FIGURES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NAME = "bias_passes"
SIZE = 2  # bytes of an element, bfloat16
MASK = 1 / 8  # bytes an element
READ, WRITTEN = "#0072B2", "#E69F00"  # Okabe-Ito colors, hatched apart as well


class Access(NamedTuple):
    """A tensor that a pass reads or writes, in bytes an element."""

    what: str
    written: bool
    size: float = SIZE


Passes = dict[str, Sequence[Access]]  # by name, in order

ROWS: dict[str, Passes] = {
    "forward\nPyTorch": {
        "add the bias": (Access("x", False), Access("x + b", True)),
        "ReLU": (Access("x + b", False), Access("y", True)),
    },
    "forward\nfused": {
        "bias, ReLU, extrema": (Access("x", False), Access("y", True), Access("mask", True, MASK)),
    },
    "backward\nPyTorch": {
        "ReLU": (Access("grad y", False), Access("y", False), Access("grad x", True)),
        "sum for the bias": (Access("grad x", False),),
    },
    "backward\nfused": {
        "ReLU, bias, penalty": (
            Access("grad y", False),
            Access("mask", False, MASK),
            Access("grad x", True),
        ),
    },
}


def bytes_of(passes: Passes) -> float:
    """Bytes an element that these passes move."""
    return sum(access.size for accesses in passes.values() for access in accesses)


def draw_passes() -> "Figure":
    """One bar for each direction and way, its passes one after the other, as long as the bytes they move."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    figure = Figure(figsize=(8.6, 3.6), layout="constrained")
    axis = figure.add_subplot()
    gap = 0.25  # between passes
    for row, passes in enumerate(ROWS.values()):
        left = 0.0
        for name, accesses in passes.items():
            begin = left
            for access in accesses:
                color, hatch = (WRITTEN, "//") if access.written else (READ, None)
                axis.barh(row, access.size, 0.5, left, color=color, hatch=hatch, edgecolor="white")
                if access.size == SIZE:
                    box = {"facecolor": "white", "edgecolor": "none", "pad": 1.5}
                    axis.text(
                        left + SIZE / 2, row, access.what, ha="center", va="center", fontsize=9, bbox=box
                    )
                left += access.size
            axis.text(begin, row - 0.3, name, va="bottom", fontsize=9, color="#444444")
            left += gap
        axis.text(left, row, f"{bytes_of(passes):g} bytes", va="center", fontsize=10, fontweight="bold")
    axis.set_yticks(range(len(ROWS)), list(ROWS))
    axis.set(
        xlim=(0, 10),
        ylim=(len(ROWS) - 0.6, -0.75),
        xlabel="in order, as long as the bytes an element",
        xticks=[],
    )
    axis.spines[:].set_visible(False)
    axis.tick_params(axis="y", length=0)
    legend = [
        Patch(color=READ, label="read"),
        Patch(facecolor=WRITTEN, hatch="//", edgecolor="white", label="written"),
    ]
    axis.legend(handles=legend, loc="lower right", frameon=False)
    return figure


def redraw(_results: Path, root: Path) -> list[Path]:
    """Draw the picture."""
    path = root / FIGURES / f"{NAME}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    draw_passes().savefig(path, dpi=DPI)
    return [path]
