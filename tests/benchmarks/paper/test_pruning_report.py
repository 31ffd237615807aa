"""``benchmarks/paper/report/pruning.py``: ratios and the goal, on made-up runs."""

from benchmarks.paper import pruning
from benchmarks.paper.report import pruning as tables


def made_up(removed):
    """A record of one cell and three seeds: ``removed`` by method and protocol."""
    runs = []
    for (method, protocol), counts in removed.items():
        for seed, count in enumerate(counts):
            run = {"data_set": "a", "shape": "deep", "training": "plain", "seed": seed, "removable": 200}
            run |= {"method": method, "protocol": protocol, "removed": count, "flips": int(seed == 2)}
            runs.append(run | {"dead": count, "merged": 0, "with_layers": 0})
    settings = {"data_sets": {"a": "A"}, "shapes": {"deep": [2, 100]}, "trainings": {"plain": {}}}
    settings |= {"tolerances": [0.0, 2.0], "peers": {"l1": "L1", "fpgm": "FPGM"}, "own_order": {}}
    settings["protocols"] = ["one ranking"]
    return {"settings": settings, "tasks": {"a": {"runs": runs}}}


def test_ratios_are_of_medians_and_bold_where_the_goal_is_met():
    ours = {(pruning.OURS, "tolerance 0"): (9, 10, 200), (pruning.OURS, "tolerance 2"): (5, 60, 61)}
    record = made_up(ours | {("l1", "one ranking"): (0, 40, 41), ("fpgm", "one ranking"): (39, 39, 39)})
    first, cells, single = tables.summary_table(record).splitlines()[2:]
    assert first == "| A | 2 × 100 | plain | 200 | 10 / 60 | L1: 40 | 0.25 / **1.50** | 10 / 0 / 0 |"
    assert "| 40 | 0.25 / **1.50** |" in cells and "| L1: 40 | 0.25 / **1.50** |" in single
    verdict = tables.verdict(record)
    assert "Of 1 cells, ours removes at least 1.5 times the units of the best peer in 0 with tol" in verdict
    assert "0 with tolerance 0, 1 with tolerance 2; more units than it in 0, 1." in verdict
    assert "changed in 4 of 12 runs." in verdict  # made up


def test_a_goal_of_nothing_is_not_met():
    nothing = made_up({(pruning.OURS, f"tolerance {t}"): (0, 0, 0) for t in (0, 2)} | {
        (name, "one ranking"): (0, 0, 0) for name in ("l1", "fpgm")
    })  # fmt: skip
    assert "| – / – |" in tables.summary_table(nothing)
