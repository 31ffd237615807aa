"""Redraw every table and figure of docs/paper.md and docs/tuning.md from the stored results.

python -m benchmarks.paper.report        (make paper; part of make figures)
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from benchmarks.paper.report import ablation, cifar, grid, linked, pruning, pruning_figure, tickets, uci
from benchmarks.paper.sweep import Record
from benchmarks.report import command
from benchmarks.report.documents import DPI, FIGURES

DOCUMENTS = (Path("docs/paper.md"), Path("docs/tuning.md"))
TABLES: dict[str, Mapping[str, Callable[[Record], str]]] = {
    "paper_uci": {
        "uci-conditions": uci.conditions,
        "uci-global": uci.global_table,
        "uci-shared-hyperparameters": uci.shared_hyperparameter_table,
        "uci-pairs": uci.pair_table,
        "uci-data-sets": uci.data_set_table,
        "uci-hyperparameters": uci.hyperparameter_table,
        "uci-notes": uci.note_table,
    },
    "paper_uci_stabilized": {
        "uci-stabilized-conditions": uci.conditions,
        "uci-stabilized-global": uci.global_table,
        "uci-stabilized-shared-hyperparameters": uci.shared_hyperparameter_table,
        "uci-stabilized-pairs": uci.pair_table,
        "uci-stabilized-data-sets": uci.data_set_table,
        "uci-stabilized-hyperparameters": uci.hyperparameter_table,
    },
    "paper_moons": {
        "moons-conditions": grid.conditions,
        "moons-summary": grid.summary_table,
    },
    "paper_digits": {
        "digits-conditions": grid.conditions,
        "digits-summary": grid.summary_table,
    },
    "paper_ablation": ablation.TABLES,
    "paper_cifar": cifar.TABLES,
    "paper_linked": {
        "linked-conditions": linked.conditions,
        "linked-variants": linked.variant_table,
    },
    "paper_linked_resnet50": {
        "linked-resnet50-conditions": linked.conditions,
        "linked-resnet50-variants": linked.variant_table,
    },
    "paper_linked_steps": {
        "linked-steps-conditions": linked.step_conditions,
        "linked-steps": linked.step_table,
    },
    "paper_tickets": {
        "tickets-claim": tickets.claim,
        "tickets-effect": tickets.effect,
        "tickets-conditions": tickets.conditions,
        "tickets-claims": tickets.claim_table,
        "tickets-accuracies": tickets.accuracy_table,
        "tickets-costs": tickets.cost_table,
    },
    "paper_tickets_resnet20": {
        "tickets-resnet20-claim": tickets.claim,
        "tickets-resnet20-effect": tickets.effect,
        "tickets-resnet20-conditions": tickets.conditions,
        "tickets-resnet20-claims": tickets.claim_table,
        "tickets-resnet20-accuracies": tickets.accuracy_table,
        "tickets-resnet20-costs": tickets.cost_table,
    },
    "paper_pruning": pruning.TABLES,
}
DRAWINGS = {
    "paper_uci": {
        "paper_uci_units": (
            uci.draw_units,
            "Share of the data sets with more dead, or linear, units than t",
        ),
        "paper_uci_accuracy": (
            uci.draw_accuracies,
            "Test accuracy of each technique on each data set",
        ),
    },
    "paper_uci_stabilized": {},
    "paper_moons": {
        "paper_moons_grid": (grid.draw_grid, "Validation accuracy over depth and width, two moons"),
    },
    "paper_digits": {
        "paper_digits_grid": (grid.draw_grid, "Validation accuracy over depth and width, digits"),
    },
    "paper_ablation": {
        "paper_ablation": (ablation.draw_factors, "Test accuracy for every value of every hyperparameter"),
    },
    "paper_cifar": {
        "paper_cifar": (cifar.draw_accuracies, "Test accuracy of each technique, CIFAR-10"),
        "paper_cifar_insides": (
            cifar.draw_insides,
            "Cosine between two images by layer over training, and gradients by layer",
        ),
    },
    "paper_linked": {
        "paper_linked_accuracy": (
            linked.draw_accuracies,
            "Test accuracy of 50 thin convolutions with each activation, single, wider and linked",
        ),
    },
    "paper_linked_resnet50": {},
    "paper_linked_steps": {},
    "paper_tickets": {
        "paper_tickets": (tickets.draw_accuracies, "Test accuracy of sparse networks over their sparsity"),
    },
    "paper_tickets_resnet20": {},
    "paper_pruning": {
        "paper_pruning": (
            pruning_figure.draw_units,
            "Share of the units that permutation pruning and its peers remove at zero flips",
        ),
    },
}


def redraw(results: Path, root: Path) -> list[Path]:
    """Draw the figures of the results that exist, and write their tables."""
    parts: dict[str, str] = {}
    pictures = []
    for stem, makers in TABLES.items():
        record = command.read_complete(results / f"{stem}.json")
        if record is None:
            continue
        parts |= {name: make(record) for name, make in makers.items()}
        for name, (draw, caption) in DRAWINGS[stem].items():
            picture = root / FIGURES / f"{name}.png"
            picture.parent.mkdir(parents=True, exist_ok=True)
            draw(record).savefig(picture, dpi=DPI)
            pictures.append(picture)
            parts[f"figure-{name}"] = f"![{caption}](figures/{picture.name})"
    command.write(root, DOCUMENTS, parts)
    return pictures


def main(words: Sequence[str] | None = None) -> int:
    parser = command.make_parser("benchmarks.paper.report", __doc__ or "")
    command.run(parser.parse_args(words), parser, redraw)
    return 0


if __name__ == "__main__":
    sys.exit(main())
