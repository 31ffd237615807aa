"""Runs that differ from a base run in some of their fields."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from benchmarks.paper.stack_training import Run
from benchmarks.paper.sweep import Record, runs_of

Change = Mapping[str, Any]
RECIPES: dict[str, dict[str, Any]] = {
    "as published": {},
    "stabilized": {"initialization": "he", "max_norm": 1.0, "weight_decay": 0.003, "rate_schedule": "linear"},
}
"""How networks are trained: as in the paper, or with what stabilizes the training of deep ones."""


def combine(**fields: Iterable[Any]) -> list[Change]:
    """Every combination of the fields' values."""
    return [dict(zip(fields, values, strict=True)) for values in itertools.product(*fields.values())]


def runs_of_changes(base: Run, changes: Sequence[Change], seeds: int) -> tuple[Run, ...]:
    """One run for each seed and change, in order, without duplicates."""
    changed = [replace(base, seed=seed, **change) for seed in range(seeds) for change in changes]
    return tuple(dict.fromkeys(changed))


def runs_with(record: Record, technique: str, change: Change) -> list[Record]:
    """The runs of a technique that differ from the settings' ``base`` only in ``change``."""
    wanted = record["settings"]["base"] | {"technique": technique} | change
    if technique != "jumpstart":
        wanted["lam"] = 0.0
    del wanted["seed"]
    return [run for run in runs_of(record) if all(run[key] == value for key, value in wanted.items())]
