"""``benchmarks/paper/metrics.py``: on results small enough to be worked out by hand."""

import pytest
import torch

from benchmarks.paper.metrics import (
    best_runs,
    compare,
    convergence,
    global_metrics,
    mean_accuracies,
    mean_ranks,
    trainability,
)
from benchmarks.paper.report.common import ends_at_chance


def run(data_set, technique, accuracy, dead=0.0, linear=0.0, seed=0, lam=0.0):
    return {
        "data_set": data_set, "technique": technique, "seed": seed, "lam": lam,
        "accuracy": accuracy, "dead": dead, "linear": linear,
    }  # fmt: skip


RUNS = [
    run("a", "plain", 0.4, dead=0.5, linear=0.25),
    run("a", "plain", 0.3, dead=0.0),
    run("a", "jumpstart", 0.9, dead=0.2, lam=0.1),
    run("a", "jumpstart", 0.9, dead=0.1, linear=0.05, lam=1.0),
    run("b", "plain", 0.7, dead=1.0),
    run("b", "jumpstart", 0.6, dead=0.3, linear=0.15),
    run("b", "jumpstart", 0.99, seed=1),
]


def test_of_equally_good_runs_dead_and_linear_units_are_averaged():
    best = best_runs(RUNS, seed=0)
    assert best["a"]["plain"] == {"accuracy": 0.4, "dead": 0.5, "linear": 0.25}
    assert best["a"]["jumpstart"] == pytest.approx({"accuracy": 0.9, "dead": 0.15, "linear": 0.025})
    assert best["b"]["jumpstart"]["accuracy"] == 0.6
    assert list(best_runs(RUNS, seed=1)) == ["b"]


def test_global_metrics():
    found = global_metrics(best_runs(RUNS, seed=0))
    assert found["jumpstart"] == pytest.approx((0.225, 0.0875, 0.5, -0.05))
    assert found["plain"] == pytest.approx((0.75, 0.125, 0.5, -0.25))


def test_dead_units_are_the_area_under_the_curve():
    ratios = (0.1, 0.35, 0.35, 0.8)
    best = {str(i): {"plain": run(str(i), "plain", 0.5, dead=ratio)} for i, ratio in enumerate(ratios)}
    steps = 100_000
    area = sum(sum(ratio > i / steps for ratio in ratios) / 4 for i in range(steps)) / steps
    assert global_metrics(best)["plain"].dead == pytest.approx(area, abs=1e-4)


def test_a_tie_with_the_worst_is_not_trained():
    best = {"a": {name: run("a", name, 0.5) for name in ("plain", "jumpstart")}}
    assert global_metrics(best)["jumpstart"].trainability == 0


def test_ranks_are_shared_by_equals():
    accuracies = {"x": {"a": 0.9, "b": 0.5}, "y": {"a": 0.9, "b": 0.7}, "z": {"a": 0.1, "b": 0.6}}
    assert mean_ranks(accuracies) == {"x": 2.25, "y": 1.25, "z": 2.5}


def test_accuracies_are_means_over_the_seeds():
    bests = [best_runs([run("a", "plain", value, seed=seed)], seed) for seed, value in enumerate((0.5, 0.7))]
    assert mean_accuracies(bests) == {"plain": {"a": pytest.approx(0.6)}}
    hits = {"plain": (10, 10, 10), "batch_norm": (10, 11, 9)}  # of 26
    runs = [
        run("a", t, round(n / 26, 10), seed=seed) for t, of_t in hits.items() for seed, n in enumerate(of_t)
    ]
    means = mean_accuracies([best_runs(runs, seed) for seed in range(3)])
    assert means["plain"] == means["batch_norm"]


def test_the_most_frequent_class_is_chance_however_it_is_rounded():
    chance = torch.tensor([1.0] * 62 + [0.0] * 37).mean().item()  # float32
    assert ends_at_chance({"accuracy": round(62 / 99, 10), "chance": chance})
    assert not ends_at_chance({"accuracy": round(63 / 99, 10), "chance": chance})


def test_of_means_over_the_seeds_a_tie_of_one_seed_counts_less():
    values = {"plain": (0.5, 0.5), "jumpstart": (0.5, 0.6), "skips": (0.7, 0.3)}
    runs = [run("a", name, each[seed], seed=seed) for name, each in values.items() for seed in (0, 1)]
    bests = [best_runs(runs, seed) for seed in (0, 1)]
    by_seed = [global_metrics(best)["jumpstart"] for best in bests]
    assert [found.trainability for found in by_seed] == [0, 1]
    assert [found.convergence for found in by_seed] == pytest.approx([-0.2, 0])
    means = mean_accuracies(bests)
    assert trainability(means, "jumpstart") == 1
    assert convergence(means, "jumpstart") == pytest.approx(0)


def test_wins_draws_losses_and_the_paired_test():
    one = {str(i): 0.5 + 0.01 * i for i in range(10)}
    pair = compare(one, {name: value - 0.1 - 0.001 * int(name) for name, value in one.items()})
    assert pair[:3] == (10, 0, 0) and pair.p_value == pytest.approx(2 / 2**10)
    assert compare(one, one) == (0, 10, 0, 1.0)
    pair = compare({"a": 1.0, "b": 0.5, "c": 0.2}, {"a": 0.9, "b": 0.5, "c": 0.3})
    assert pair[:3] == (1, 1, 1)
