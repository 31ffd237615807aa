"""Redraw every figure and table of README.md and of docs/ that shows stored results of benchmarks.

python -m benchmarks.report        (make figures)
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import goals
from benchmarks.report.documents import ROOT, insert
from benchmarks.report.figures import CAPTIONS, draw
from benchmarks.report.tables import make_tables
from benchmarks.result_files import FOLDER

DOCUMENTS = (Path("README.md"), Path("docs/benchmarks.md"), Path("docs/linked.md"))


def main(words: Sequence[str] | None = None) -> int:
    """Redraw the figures, write the tables, print the goals."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.report", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--results", type=Path, default=FOLDER, metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--root", type=Path, default=ROOT, metavar="FOLDER", help="of README.md and docs/")
    arguments = parser.parse_args(words)
    if not arguments.results.is_dir():
        parser.error(f"argument --results: there is no folder {arguments.results}")
    parts = make_tables(arguments.results)
    paths = draw(arguments.results, arguments.root)
    parts |= {f"figure-{path.stem}": f"![{CAPTIONS[path.stem]}](figures/{path.name})" for path in paths}
    for document in DOCUMENTS:
        for name in insert(arguments.root / document, parts):
            print(f"{document}: {name}")
    for path in paths:
        print(path.relative_to(arguments.root))
    print()
    goals.print_table(arguments.results)
    return 0


if __name__ == "__main__":
    sys.exit(main())
