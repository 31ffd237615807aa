"""What to set: one choice at a time, from a common beginning, on the 50 layers of 4 units of the UCI tables.

    python -m benchmarks.paper.choices --output benchmarks/results/paper_choices.json

Without ``--data`` on scikit-learn's data sets alone. A sweep that was stopped goes on where it was.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace

from benchmarks.paper.changes import Change, combine, runs_of_changes
from benchmarks.paper.networks import INITIALIZATIONS
from benchmarks.paper.sweep import Record, run_command
from benchmarks.paper.training import LAM_SCHEDULES, RATE_SCHEDULES, Run
from benchmarks.paper.uci import add_arguments, run_grid
from jumpstart_kernels.penalty import TERMS

BASE = Run("jumpstart", seed=0, learning_rate=0.01, lam=0.1, max_norm=1.0)
BESIDE = ("plain", "batch_norm", "skips")  # other techniques, with some of the changes

QUESTIONS: dict[str, list[Change]] = {
    "λ": combine(lam=(0.001, 0.01, 0.1, 1.0, 10.0)),
    "schedule of λ": combine(lam=(0.1, 1.0), lam_schedule=LAM_SCHEDULES),
    "reduction": [
        *combine(reduction=("balanced", "mean"), lam=(0.01, 0.1, 1.0)),
        *combine(reduction=("sum",), lam=(1e-5, 1e-4, 1e-3)),
        *combine(reduction=("norm",), lam=(1e-3, 1e-2, 1e-1)),
        *combine(reduction=("squared",), lam=(1e-5, 1e-4, 1e-3)),
    ],
    "terms": combine(terms=TERMS),
    "learning rate": combine(learning_rate=(0.03, 0.01, 0.003, 0.001, 0.0003)),
    "schedule of the rate": combine(rate_schedule=RATE_SCHEDULES),
    "initialization": combine(initialization=INITIALIZATIONS),
    "weight decay": combine(weight_decay=(0.0, 0.0003, 0.001, 0.003, 0.01)),
    "gradient norm": combine(max_norm=(None, 10.0, 1.0, 0.1)),
}
BESIDE_CHANGES = combine(initialization=INITIALIZATIONS, max_norm=(None, 1.0))


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper.choices", description=__doc__.partition("\n")[0]
    )
    add_arguments(parser)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    return run_command("choices", words, parse_arguments, run)


def run(arguments: argparse.Namespace, command: list[str]) -> Record:
    seeds = arguments.seeds
    changes = [change for answers in QUESTIONS.values() for change in answers]
    grid = {"jumpstart": runs_of_changes(BASE, changes, seeds)}
    for technique in BESIDE:
        base = replace(BASE, technique=technique, lam=0.0)
        grid[technique] = runs_of_changes(base, BESIDE_CHANGES, seeds)
    settings = {"base": asdict(BASE), "questions": QUESTIONS, "beside": BESIDE_CHANGES}
    return run_grid(grid, settings, arguments, command)


if __name__ == "__main__":
    sys.exit(main())
