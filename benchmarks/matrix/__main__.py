"""Build and test the package with several versions of PyTorch; write the table of docs/versions.md.

python -m benchmarks.matrix        (make test-matrix)
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.matrix.environment import (
    ROOT,
    TESTS,
    Environment,
    find_python,
    oldest_torch,
    pinned_torch,
)
from benchmarks.report.command import read_complete, write
from benchmarks.report.documents import insert
from benchmarks.result_files import FOLDER

OLDEST_PYTHON = "3.12"  # that of the GPU machines, where the extension built here can be used
# The interpreter of its Triton needs arrays of one element to convert to numbers.
OLDEST_CONSTRAINTS = ("numpy<2.4",)
NEWEST_TORCH = "torch>=2.14"
NAMES = ("oldest", "pinned", "newest")
STORED = "matrix.json"
RESULTS = FOLDER / STORED
DOCUMENT = Path("docs/versions.md")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.matrix", description=__doc__)
    parser.add_argument("--only", choices=NAMES, action="append", help="an environment; may be repeated")
    parser.add_argument(
        "--python", type=Path, action="append", default=[], metavar="PATH", help="a Python to use"
    )
    parser.add_argument("--workers", type=int, default=2, metavar="N", help="pytest workers; default: 2")
    parser.add_argument("--tests", nargs="+", default=list(TESTS), metavar="PATH")
    parser.add_argument(
        "--no-output", action="store_true", help="do not change the stored results and the docs"
    )
    return parser


def environment(name: str, given: Sequence[Path]) -> Environment:
    """The environment of a row."""
    if name == "oldest":
        python = find_python(OLDEST_PYTHON, given)
        return Environment(name, f"torch=={oldest_torch()}", python, OLDEST_CONSTRAINTS, with_cuda=True)
    torch = f"torch=={pinned_torch()}" if name == "pinned" else NEWEST_TORCH
    return Environment(name, torch, Path(sys.executable))


def make_table(rows: Mapping[str, dict[str, Any]]) -> str:
    """The rows as Markdown."""
    lines = [
        "| | torch | Python | Triton | CUDA code | CPU kernels | passed | skipped | failed | extension |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        extension, cuda = row["extension"], row["operators"]["CUDA"]
        built = f"built for {extension['cuda']}, {len(cuda)} operators" if extension["cuda"] else "not built"
        cells = [name, row["torch"], row["python"], row["triton"] or "none", built, row["instruction_set"]]
        cells += [f"{row[count]:,}" for count in ("passed", "skipped", "failed")]
        cells.append(f"{extension['bytes'] / 1e6:.1f} MB")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def redraw(results: Path, root: Path) -> list[Path]:
    """Write the table from the stored results; there is no figure."""
    record = read_complete(results / STORED)
    if record is not None:
        write(root, [DOCUMENT], {"matrix": make_table(record)})
    return []


def main(words: Sequence[str] | None = None) -> int:
    options = make_parser().parse_args(words)
    stored: dict[str, dict[str, Any]] = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
    failed = 0
    chosen = [environment(name, options.python) for name in options.only or NAMES]
    for row in chosen:
        row.install()
        row.copy_sources()
        row.build()
        found = row.probe()
        package = row.sources.relative_to(ROOT) / "jumpstart_kernels"
        print(f"{row.name}: {package / found['extension']['file']}, {found['extension']['bytes']:,} bytes")
        counts = row.test(options.tests, options.workers)
        failed += counts["failed"]
        stored[row.name] = {**found, **counts}
        rows = {name: stored[name] for name in NAMES if name in stored}
        if not options.no_output:
            RESULTS.write_text(json.dumps(rows, indent=2) + "\n")
            insert(ROOT / DOCUMENT, {"matrix": make_table(rows)})
    print(make_table(rows))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
