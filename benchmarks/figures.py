"""Redraw all of docs/figures, and the generated tables of README.md and docs/, from benchmarks/results.

python -m benchmarks.figures        (make figures)

Nothing is trained or measured for it. The parts have commands of their own, too: ``benchmarks.report``,
``benchmarks.paper.report``, ``benchmarks.plasticity.report``, ``benchmarks.demo``,
``benchmarks.instruments``.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

import benchmarks.matrix.__main__ as matrix
import benchmarks.paper.report.__main__ as paper
import benchmarks.report.__main__ as layer
from benchmarks import demo, instruments, packages
from benchmarks.plasticity import report as plasticity
from benchmarks.report import command, passes

PARTS = (layer, passes, paper, plasticity, demo, instruments, matrix, packages)


def redraw(results: Path, root: Path) -> list[Path]:
    """All parts."""
    return [path for part in PARTS for path in part.redraw(results, root)]


def main(words: Sequence[str] | None = None) -> int:
    parser = command.make_parser("benchmarks.figures", __doc__ or "")
    command.run(parser.parse_args(words), parser, redraw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
