"""Comparison of techniques over data sets by their best runs: the paper's four global metrics, and ranks."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from benchmarks.paper.sweep import Record

DIGITS = 7  # of a mean accuracy, so that equal counts compare as equal
Best = Mapping[str, Mapping[str, Record]]  # by data set and technique
Accuracies = Mapping[str, Mapping[str, float]]  # by technique and data set


class Global(NamedTuple):
    """The four metrics of one technique."""

    dead: float
    """Area under the curve "fraction of the data sets whose dead unit ratio exceeds t", t from 0 to 1."""
    linear: float
    """The same for linear units."""
    trainability: float
    """See :func:`trainability`."""
    convergence: float
    """See :func:`convergence`."""


class Pair(NamedTuple):
    """One technique against another over the data sets, by their mean accuracies over the seeds."""

    wins: int
    draws: int
    losses: int
    p_value: float
    """Of Wilcoxon's two-sided signed-rank test; 1 if all are draws."""


def best_runs(runs: Sequence[Record], seed: int) -> dict[str, dict[str, Record]]:
    """The best test accuracy for each data set and technique, as in the paper, with dead and linear units.

    If several runs reach it, their shares of dead and of linear units are averaged.
    """
    groups: dict[str, dict[str, list[Record]]] = {}
    for run in runs:
        if run["seed"] == seed:
            groups.setdefault(run["data_set"], {}).setdefault(run["technique"], []).append(run)
    return {
        data_set: {technique: _best(group) for technique, group in of_set.items()}
        for data_set, of_set in groups.items()
    }


def _best(runs: Sequence[Record]) -> Record:
    accuracy = max(run["accuracy"] for run in runs)
    best = [run for run in runs if run["accuracy"] == accuracy]
    return {"accuracy": accuracy, **{key: fmean(run[key] for run in best) for key in ("dead", "linear")}}


def global_metrics(best: Best) -> dict[str, Global]:
    """The metrics of each technique.

    The area under "fraction of the values that exceed t", t from 0 to 1, is the mean of the values.
    """
    accuracies = mean_accuracies([best])
    found = {}
    for technique in accuracies:
        own = [of_set[technique] for of_set in best.values()]
        found[technique] = Global(
            fmean(run["dead"] for run in own),
            fmean(run["linear"] for run in own),
            trainability(accuracies, technique),
            convergence(accuracies, technique),
        )
    return found


def trainability(accuracies: Accuracies, technique: str) -> float:
    """Fraction of the data sets on which the technique beats the worst accuracy of all techniques."""
    return fmean(
        mine > min(of_all[name] for of_all in accuracies.values())
        for name, mine in accuracies[technique].items()
    )


def convergence(accuracies: Accuracies, technique: str) -> float:
    """Mean of its accuracy minus the best accuracy of all techniques."""
    return fmean(
        mine - max(of_all[name] for of_all in accuracies.values())
        for name, mine in accuracies[technique].items()
    )


def mean_accuracies(bests: Sequence[Best]) -> dict[str, dict[str, float]]:
    """By technique and data set, over the seeds; equal if as many rows were right."""
    techniques = list(next(iter(bests[0].values())))
    return {
        technique: {
            name: round(fmean(best[name][technique]["accuracy"] for best in bests), DIGITS)
            for name in bests[0]
        }
        for technique in techniques
    }


def mean_ranks(accuracies: Accuracies) -> dict[str, float]:
    """Of each technique over the data sets. 1 is the best; ties share their mean rank."""
    from scipy.stats import rankdata

    techniques, names = list(accuracies), list(next(iter(accuracies.values())))
    ranks = [rankdata([-accuracies[technique][name] for technique in techniques]) for name in names]
    return {technique: fmean(rank[i] for rank in ranks) for i, technique in enumerate(techniques)}


def compare(one: Mapping[str, float], other: Mapping[str, float]) -> Pair:
    """Compare two techniques by their accuracies on the data sets."""
    from scipy.stats import wilcoxon

    differences = [round(one[name] - other[name], DIGITS) for name in one]
    wins, losses = sum(d > 0 for d in differences), sum(d < 0 for d in differences)
    p_value = float(wilcoxon(differences).pvalue) if wins + losses else 1.0
    return Pair(wins, len(differences) - wins - losses, losses, p_value)
