"""Summaries of runs, and which setting of a technique is the best."""

import math
from collections.abc import Iterable
from statistics import fmean

from benchmarks.paper.sweep import Record
from benchmarks.plasticity.settings import FIRST_TENTH

Setting = tuple[float, float, float]  # learning rate, strength, λ


def average(scores: list[float | None], regression: bool) -> float:
    """The mean; a score that is not finite counts as no accuracy, or as an infinite error."""
    worst = math.inf if regression else 0.0
    return fmean(worst if score is None else score for score in scores)


def summary(run: Record, regression: bool) -> Record:
    """The mean score over all tasks, over the first tenth and over the last; None for an infinite error."""
    tenth = max(1, round(FIRST_TENTH * len(run["scores"])))
    parts = {"mean": run["scores"], "first": run["scores"][:tenth], "last": run["scores"][-tenth:]}
    found = {name: average(scores, regression) for name, scores in parts.items()}
    return {name: value if math.isfinite(value) else None for name, value in found.items()}


def ranked(runs: Iterable[Record], regression: bool) -> list[tuple[Setting, float]]:
    """Settings and their mean scores over seeds and all tasks, the best first.

    Args:
        runs: of one technique on one problem with one optimizer, with ``mean`` of :func:`summary`.
        regression: whether a score is an error.
    """
    groups: dict[Setting, list[float | None]] = {}
    for run in runs:
        groups.setdefault((run["rate"], run["strength"], run["lam"]), []).append(run["mean"])
    means = {setting: average(group, regression) for setting, group in groups.items()}
    return sorted(means.items(), key=lambda item: item[1] if regression else -item[1])


def of(runs: Iterable[Record], problem: str, optimizer: str, technique: str, tuning: bool) -> list[Record]:
    """Those of one technique on one problem with one optimizer."""
    key = (problem, optimizer, technique, tuning)
    return [run for run in runs if key == tuple(run[name] for name in KEYS)]


KEYS = ("problem", "optimizer", "technique", "tuning")
