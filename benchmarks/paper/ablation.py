"""Ablations: one hyperparameter varied at a time, in the networks of the UCI tables, 50 layers of 4 units.

    python -m benchmarks.paper.ablation --output benchmarks/results/paper_ablation.json

Without ``--data``, on scikit-learn's data sets alone. An interrupted sweep resumes from its output.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace

from benchmarks.paper.changes import Change, combine, runs_of_changes
from benchmarks.paper.networks import INITIALIZATIONS
from benchmarks.paper.stack_training import LAM_SCHEDULES, RATE_SCHEDULES, Run
from benchmarks.paper.sweep import Record, run_command
from benchmarks.paper.uci import add_arguments, run_grid
from jumpstart_kernels.penalties.reduction import TERMS

BASE = Run("jumpstart", seed=0, learning_rate=0.01, lam=0.1, max_norm=1.0)

FACTORS: dict[str, list[Change]] = {
    "λ": combine(lam=(0.001, 0.01, 0.1, 1.0, 10.0)),
    "λ schedule": combine(lam=(0.1, 1.0), lam_schedule=LAM_SCHEDULES),
    "reduction": [
        *combine(reduction=("balanced", "mean"), lam=(0.01, 0.1, 1.0)),
        *combine(reduction=("sum",), lam=(1e-5, 1e-4, 1e-3)),
        *combine(reduction=("norm",), lam=(1e-3, 1e-2, 1e-1)),
        *combine(reduction=("squared",), lam=(1e-5, 1e-4, 1e-3)),
    ],
    "terms": combine(terms=TERMS),
    "learning rate": combine(learning_rate=(0.03, 0.01, 0.003, 0.001, 0.0003)),
    "learning rate schedule": combine(rate_schedule=RATE_SCHEDULES),
    "initialization": combine(initialization=INITIALIZATIONS),
    "weight decay": combine(weight_decay=(0.0, 0.0003, 0.001, 0.003, 0.01)),
    "gradient clipping": combine(max_norm=(None, 10.0, 1.0, 0.1)),
}
"""What is varied, with the changes of :data:`BASE` that are compared."""
BASELINES = ("plain", "batch_norm", "skips")
BASELINE_CHANGES = combine(initialization=INITIALIZATIONS, max_norm=(None, 1.0))


def parse_arguments(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.paper.ablation", description=__doc__.partition("\n")[0]
    )
    add_arguments(parser)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> int:
    return run_command("ablation", words, parse_arguments, run)


def run(arguments: argparse.Namespace, command: list[str]) -> Record:
    seeds = arguments.seeds
    changes = [change for compared in FACTORS.values() for change in compared]
    grid = {"jumpstart": runs_of_changes(BASE, changes, seeds)}
    for technique in BASELINES:
        base = replace(BASE, technique=technique, lam=0.0)
        grid[technique] = runs_of_changes(base, BASELINE_CHANGES, seeds)
    settings = {"base": asdict(BASE), "factors": FACTORS, "baselines": BASELINE_CHANGES}
    return run_grid(grid, settings, arguments, command)


if __name__ == "__main__":
    sys.exit(main())
