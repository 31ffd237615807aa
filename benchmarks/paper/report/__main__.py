"""Every table and figure of docs/paper.md and docs/tuning.md, from the stored results.

python -m benchmarks.paper.report        (make paper)
"""

import argparse
import json
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.figures import DPI, FIGURES, ROOT
from benchmarks.paper import choices_report, cifar_report, grid_report, uci_report
from benchmarks.paper.sweep import Record
from benchmarks.results import FOLDER
from benchmarks.tables import insert

DOCUMENTS = (Path("docs/paper.md"), Path("docs/tuning.md"))
TABLES: dict[str, Mapping[str, Callable[[Record], str]]] = {
    "paper_uci": {
        "uci-conditions": uci_report.conditions,
        "uci-global": uci_report.global_table,
        "uci-one-choice": uci_report.one_choice_table,
        "uci-pairs": uci_report.pair_table,
        "uci-data-sets": uci_report.data_set_table,
        "uci-choices": uci_report.choice_table,
        "uci-notes": uci_report.note_table,
    },
    "paper_uci_steadied": {
        "uci-steadied-conditions": uci_report.conditions,
        "uci-steadied-global": uci_report.global_table,
        "uci-steadied-one-choice": uci_report.one_choice_table,
        "uci-steadied-pairs": uci_report.pair_table,
        "uci-steadied-data-sets": uci_report.data_set_table,
        "uci-steadied-choices": uci_report.choice_table,
    },
    "paper_moons": {
        "moons-conditions": grid_report.conditions,
        "moons-summary": grid_report.summary_table,
    },
    "paper_digits": {
        "digits-conditions": grid_report.conditions,
        "digits-summary": grid_report.summary_table,
    },
    "paper_choices": choices_report.TABLES,
    "paper_cifar": {
        "cifar-conditions": cifar_report.conditions,
        "cifar-variants": cifar_report.variant_table,
    },
}
DRAWINGS = {
    "paper_uci": {
        "paper_uci_units": (
            uci_report.draw_units,
            "Share of the data sets with more dead, or linear, units than t",
        ),
        "paper_uci_accuracy": (
            uci_report.draw_accuracies,
            "Test accuracy of each technique on each data set",
        ),
    },
    "paper_uci_steadied": {},
    "paper_moons": {
        "paper_moons_grid": (grid_report.draw_grid, "Validation accuracy over depth and width, two moons"),
    },
    "paper_digits": {
        "paper_digits_grid": (grid_report.draw_grid, "Validation accuracy over depth and width, digits"),
    },
    "paper_choices": {
        "paper_choices": (choices_report.draw_choices, "Test accuracy by what is set"),
    },
    "paper_cifar": {
        "paper_cifar_curves": (cifar_report.draw_curves, "Test accuracy over the epochs, CIFAR-10"),
    },
}


def main(words: Sequence[str] | None = None) -> int:
    """Redraw the figures and write the tables of the results that are there."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper.report", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--results", type=Path, default=FOLDER, metavar="FOLDER", help="default: %(default)s")
    parser.add_argument("--root", type=Path, default=ROOT, metavar="FOLDER", help="of docs/")
    arguments = parser.parse_args(words)
    if not arguments.results.is_dir():
        parser.error(f"argument --results: there is no folder {arguments.results}")
    found: dict[str, str] = {}
    for stem, makers in TABLES.items():
        path = arguments.results / f"{stem}.json"
        if not path.is_file():
            print(f"{path.name} is not there: its tables and figures stay as they are")
            continue
        record = json.loads(path.read_text())
        if record.get("left"):
            print(f"{path.name} is not complete: its tables and figures stay as they are")
            continue
        found |= {name: make(record) for name, make in makers.items()}
        for name, (draw, caption) in DRAWINGS[stem].items():
            picture = arguments.root / FIGURES / f"{name}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            draw(record).savefig(picture, dpi=DPI)
            print(picture.relative_to(arguments.root))
            found[f"figure-{name}"] = f"![{caption}](figures/{picture.name})"
    for document in DOCUMENTS:
        for name in insert(arguments.root / document, found):
            print(f"{document}: {name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
