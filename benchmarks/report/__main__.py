"""Redraw the figures and tables of README.md, docs/benchmarks.md and docs/linked.md; print the goals.

python -m benchmarks.report        (part of make figures)
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import goals
from benchmarks.report import command
from benchmarks.report.figures import CAPTIONS, draw
from benchmarks.report.tables import make_tables

DOCUMENTS = (Path("README.md"), Path("docs/benchmarks.md"), Path("docs/linked.md"))


def redraw(results: Path, root: Path) -> list[Path]:
    """Draw the figures of what was measured, and write its tables."""
    paths = draw(results, root)
    parts = make_tables(results)
    parts |= {f"figure-{path.stem}": f"![{CAPTIONS[path.stem]}](figures/{path.name})" for path in paths}
    command.write(root, DOCUMENTS, parts)
    return paths


def main(words: Sequence[str] | None = None) -> int:
    """Redraw, and print the goals."""
    parser = command.make_parser("benchmarks.report", __doc__ or "")
    arguments = parser.parse_args(words)
    command.run(arguments, parser, redraw)
    print()
    goals.print_table(arguments.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
