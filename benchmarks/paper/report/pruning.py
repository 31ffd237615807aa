"""Permutation pruning beside its peers: units removed at zero flips, flips on unseen rows, accuracies."""

from collections.abc import Callable
from statistics import fmean, median

from benchmarks.paper.report.common import resources
from benchmarks.paper.report.pruning_runs import (
    Results,
    Way,
    flip_share,
    middle,
    names_of,
    own_ways,
    results_of,
)
from benchmarks.paper.sweep import Record, runs_of

GOAL = 1.5  # times the units that the best peer removes


def best_peer(record: Record, cell: dict[Way, list[Record]], protocol: str) -> tuple[str, float]:
    """The peer that removes the most units, and how many."""
    removed = {name: middle(cell[Way(name, protocol)], "removed") for name in record["settings"]["peers"]}
    name = max(removed, key=lambda name: removed[name])
    return name, removed[name]


def meets_goal(ours: float, peers: float) -> bool:
    return ours > 0 and ours >= GOAL * peers


def conditions(record: Record) -> str:
    settings = record["settings"]
    runs = runs_of(record)
    shapes = ", ".join(
        f"{name} of {depth} layers of {width} units" for name, (depth, width) in settings["shapes"].items()
    )
    base = settings["trainings"]["plain"]
    decay, lam = (
        settings["trainings"][name][key]
        for name, key in (("weight decay", "weight_decay"), ("Jumpstart", "lam"))
    )
    networks = len({(run["data_set"], run["shape"], run["training"], run["seed"]) for run in runs})
    schedule = settings["schedule"]
    return (
        f"{', '.join(settings['data_sets'].values())}; networks {shapes}, trained plain, with a weight decay "
        f"of {decay:g}, or with Jumpstart, λ = {lam:g}; seeds: {settings['seeds']}, networks: {networks}; "
        f"Adam with learning rate {base['learning_rate']:g}, which decays to 0, He initialization, gradients "
        f"clipped to a norm of {base['max_norm']:g}, {schedule['steps']:,} steps, batches of "
        f"{schedule['batch_size']}; at most {settings['calibration']:,} calibration rows. {resources(record)}"
    )


def verdict(record: Record) -> str:
    """Where the goal is met, and whether any decision on the calibration rows has changed."""
    settings, results, ours = record["settings"], results_of(record), own_ways(record)
    lines = []
    for protocol in settings["protocols"]:
        met, more = [], []
        for way in ours:
            pairs = [
                (middle(cell[way], "removed"), best_peer(record, cell, protocol)[1])
                for cell in results.values()
            ]
            met.append(f"{sum(meets_goal(*pair) for pair in pairs)} with {way.protocol}")
            more.append(f"{sum(own > peers for own, peers in pairs)}")
        lines.append(
            f"- **Peers, {protocol}.** Of {len(results)} cells, ours removes at least {GOAL:g} times the "
            f"units of the best peer in {', '.join(met)}; more units than it in {', '.join(more)}."
        )
    runs = runs_of(record)
    flipped = sum(run["flips"] > 0 for run in runs)
    lines.append(
        f"- **Calibration rows.** A decision on them changed in {flipped or 'none'} of {len(runs):,} runs."
    )
    return "\n".join(lines)


def summary_table(record: Record) -> str:
    """Units removed by ours and by the best peer, cell by cell, and in all."""
    settings, results, ours = record["settings"], results_of(record), own_ways(record)
    tolerances = " / ".join(f"{tolerance:g}" for tolerance in settings["tolerances"])
    headings = ["data set", "network", "trained", "units", f"ours, tolerance {tolerances}"]
    for protocol in settings["protocols"]:
        headings += [f"best peer, {protocol}", "ours / best peer"]
    headings.append(f"ours, {ours[0].protocol}: dead / merged / with a layer")
    lines = _head(headings, 3)
    totals = [sum(middle(cell[way], "removed") for cell in results.values()) for way in ours]
    best: dict[str, float] = dict.fromkeys(settings["protocols"], 0.0)
    kinds = ("dead", "merged", "with_layers")
    for place, cell in results.items():
        removed = [middle(cell[way], "removed") for way in ours]
        cells = [*names_of(record, place), f"{cell[ours[0]][0]['removable']}", _joined(removed)]
        for protocol in settings["protocols"]:
            name, units = best_peer(record, cell, protocol)
            best[protocol] += units
            cells += [f"{settings['peers'][name]}: {units:g}", _ratios(removed, units)]
        cells.append(_joined([middle(cell[ours[0]], kind) for kind in kinds]))
        lines.append(_row(cells))
    units = sum(cell[ours[0]][0]["removable"] for cell in results.values())
    kinds_in_all = [sum(middle(cell[ours[0]], kind) for cell in results.values()) for kind in kinds]
    of_cells, single = [], []
    for protocol in settings["protocols"]:
        of_cells += [f"{best[protocol]:g}", _ratios(totals, best[protocol])]
        sums = {
            name: sum(middle(cell[Way(name, protocol)], "removed") for cell in results.values())
            for name in settings["peers"]
        }
        name = max(sums, key=lambda name: sums[name])
        single += [f"{settings['peers'][name]}: {sums[name]:g}", _ratios(totals, sums[name])]
    start, end = ["", "", f"{units}", _joined(totals)], _joined(kinds_in_all)
    lines.append(_row(["all, best peer of each cell", *start, *of_cells, end]))
    lines.append(_row(["all, best single peer", *start, *single, end]))
    return "\n".join(lines)


def total_table(record: Record) -> str:
    """Every method over all cells: units removed, flips on unseen rows, what it does to accuracy."""
    settings, results = record["settings"], results_of(record)
    units = sum(next(iter(cell.values()))[0]["removable"] for cell in results.values())

    def row(title: str, ways: list[Way]) -> str:
        cells = [title]
        for way in ways:
            removed = sum(middle(cell[way], "removed") for cell in results.values())
            cells.append(f"{removed / units:.1%}")
        for way in ways:
            cells.append(f"{fmean(flip_share(cell[way]) for cell in results.values()):.2%}")
        for way in ways:
            cells.append(f"{_mean_change(results, way):+.2%}".replace("-", "−"))
        if len(ways) == 1:  # no protocol but its own
            cells = [cells[0], cells[1], "", cells[2], "", cells[3], ""]
        return _row([cell.replace("%", " %") for cell in cells])

    headings = ["method"]
    for what in ("units removed", "flips, unseen", "test accuracy"):
        headings += [f"{what}, {protocol}" for protocol in settings["protocols"]]
    lines = _head(headings, 1)
    lines += [row(f"ours, {way.protocol}", [way]) for way in own_ways(record)]
    for name, title in (settings["peers"] | settings["own_order"]).items():
        lines.append(row(title, [Way(name, protocol) for protocol in settings["protocols"]]))
    return "\n".join(lines)


def _mean_change(results: Results, way: Way) -> float:
    """Of the accuracy: the mean over the cells of the median over the seeds."""
    changes = (
        median(run["accuracy"] - run["accuracy_before"] for run in cell[way]) for cell in results.values()
    )
    return fmean(changes)


def _detail_table(record: Record, show: Callable[[list[Record]], str], before: bool) -> str:
    """A row for each cell, a column for each method; of peers both protocols."""
    settings, results = record["settings"], results_of(record)
    peers = settings["peers"] | settings["own_order"]
    headings = ["data set", "network", "trained"] + ["before"] * before
    headings += [f"ours, {way.protocol}" for way in own_ways(record)] + list(peers.values())
    lines = _head(headings, 3)
    for place, cell in results.items():
        cells = names_of(record, place)
        if before:
            cells.append(f"{middle(next(iter(cell.values())), 'accuracy_before'):.4f}")
        cells += [show(cell[way]) for way in own_ways(record)]
        for name in peers:
            cells.append(" / ".join(show(cell[Way(name, protocol)]) for protocol in settings["protocols"]))
        lines.append(_row(cells))
    return "\n".join(lines)


def unit_table(record: Record) -> str:
    return _detail_table(record, lambda runs: f"{middle(runs, 'removed'):g}", before=False)


def flip_table(record: Record) -> str:
    return _detail_table(record, lambda runs: f"{100 * flip_share(runs):.2f}", before=False)


def accuracy_table(record: Record) -> str:
    return _detail_table(record, lambda runs: f"{middle(runs, 'accuracy'):.4f}", before=True)


def _head(headings: list[str], names: int) -> list[str]:
    return [_row(headings), "|" + "---|" * names + "---:|" * (len(headings) - names)]


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _joined(values: list[float]) -> str:
    return " / ".join(f"{value:g}" for value in values)


def _ratios(ours: list[float], peer: float) -> str:
    """Bold where the goal is met."""
    texts = []
    for value in ours:
        text = f"{value / peer:.2f}" if peer else "∞" if value else "–"
        texts.append(f"**{text}**" if meets_goal(value, peer) else text)
    return " / ".join(texts)


TABLES: dict[str, Callable[[Record], str]] = {
    "pruning-conditions": conditions,
    "pruning-verdict": verdict,
    "pruning-summary": summary_table,
    "pruning-totals": total_table,
    "pruning-units": unit_table,
    "pruning-flips": flip_table,
    "pruning-accuracies": accuracy_table,
}
