"""What the commands that redraw stored results have in common."""

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.report.documents import ROOT, insert
from benchmarks.result_files import FOLDER, Record

Redraw = Callable[[Path, Path], list[Path]]
"""From the folder of the results and the root of the documents; returns the figures that it has drawn."""


def make_parser(module: str, text: str) -> argparse.ArgumentParser:
    """The options of every such command."""
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=text.partition("\n")[0])
    parser.add_argument("--results", type=Path, default=FOLDER, metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--root", type=Path, default=ROOT, metavar="FOLDER", help="of README.md and docs/")
    return parser


def run(arguments: argparse.Namespace, parser: argparse.ArgumentParser, redraw: Redraw) -> None:
    """Redraw, and name what has been drawn."""
    if not arguments.results.is_dir():
        parser.error(f"argument --results: there is no folder {arguments.results}")
    for path in redraw(arguments.results, arguments.root):
        print(path.relative_to(arguments.root))


def read_complete(path: Path) -> Record | None:
    """A file of results; None, and said, if it does not exist or its experiment was interrupted."""
    record = json.loads(path.read_text()) if path.is_file() else None
    if record is None or record.get("remaining"):
        state = "does not exist" if record is None else "is not complete"
        print(f"{path.name} {state}: its tables and figures stay as they are")
        return None
    return record


def write(root: Path, documents: Sequence[Path], parts: Mapping[str, str]) -> None:
    """Replace the generated parts of the documents, and name them."""
    for document in documents:
        for name in insert(root / document, parts):
            print(f"{document}: {name}")
