"""The stored runs of permutation pruning and its peers, by what they are of."""

from statistics import median
from typing import NamedTuple

from benchmarks.paper.pruning import OURS
from benchmarks.paper.sweep import Record, runs_of


class Cell(NamedTuple):
    """Networks that differ in the seed alone."""

    data_set: str
    shape: str
    training: str


class Way(NamedTuple):
    """A method, with its protocol or tolerance."""

    method: str
    protocol: str


Results = dict[Cell, dict[Way, list[Record]]]


def results_of(record: Record) -> Results:
    """The runs of all seeds, by cell and way, in the order of the settings."""
    settings = record["settings"]
    found: Results = {
        Cell(data_set, shape, training): {way: [] for way in ways_of(record)}
        for data_set in settings["data_sets"]
        for shape in settings["shapes"]
        for training in settings["trainings"]
    }
    for run in runs_of(record):
        cell = found[Cell(run["data_set"], run["shape"], run["training"])]
        cell[Way(run["method"], run["protocol"])].append(run)
    return found


def own_ways(record: Record) -> list[Way]:
    return [Way(OURS, f"tolerance {tolerance:g}") for tolerance in record["settings"]["tolerances"]]


def ways_of(record: Record) -> list[Way]:
    """Ours, then the peers, then the order of ours."""
    settings = record["settings"]
    methods = [*settings["peers"], *settings["own_order"]]
    return own_ways(record) + [Way(name, way) for name in methods for way in settings["protocols"]]


def middle(runs: list[Record], key: str) -> float:
    """The median over the seeds."""
    return median(run[key] for run in runs)


def flip_share(runs: list[Record]) -> float:
    """Of the decisions on unseen rows."""
    return median(run["unseen_flips"] / run["unseen"] for run in runs)


def names_of(record: Record, cell: Cell) -> list[str]:
    """The data set, the shape and the training, as they are shown."""
    depth, width = record["settings"]["shapes"][cell.shape]
    return [record["settings"]["data_sets"][cell.data_set], f"{depth} × {width}", cell.training]
