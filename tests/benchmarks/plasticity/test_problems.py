"""The tasks: what changes from one to the next, and what does not."""

import pytest
import torch

from benchmarks.plasticity.problems import PROBE, Problem, SlowlyChangingRegression, reduced, standardized
from benchmarks.plasticity.settings import SETTINGS, load_problem
from benchmarks.plasticity.techniques import TECHNIQUES
from benchmarks.plasticity.training import Run, Schedule, train

SEEDS = (3, 4)


def digits(name, count=40):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(count, 6, generator=generator)
    return Problem(name, 6, 10, 5, 8, x, torch.randint(10, (count,), generator=generator))


def rows(x):
    """``[S, inputs, N]`` as the set of each seed's samples, their values sorted."""
    return [{tuple(sample.sort().values.tolist()) for sample in of_seed.T} for of_seed in x]


def test_a_task_permutes_the_pixels_of_all_digits_alike():
    problem = digits("permuted_digits")
    stream = problem.stream(SEEDS)
    stream.next_task()
    first = stream.x.clone()
    (x, y), (x_next, _) = stream.batch(), stream.batch()
    assert x.shape == (2, 6, 8) and y.shape == (2, 8)
    for seed in range(2):
        permutation = [int((row == problem.x.T).all(1).nonzero()) for row in first[seed]]
        assert sorted(permutation) == list(range(6))
        for sample, label in zip(x[seed].T, y[seed], strict=True):  # each is a digit with its label
            place = int((sample == first[seed].T).all(1).nonzero())
            assert label == problem.y[place]
        assert not rows(x)[seed] & rows(x_next)[seed]  # no digit twice in a pass through them
    assert not torch.equal(first[0], first[1])
    stream.next_task()
    assert not torch.equal(stream.x, first)


def test_random_labels_change_while_the_images_stay():
    problem = digits("random_labels", 400)
    stream = problem.stream(SEEDS)
    stream.next_task()
    x, y = stream.x.clone(), stream.y.clone()
    stream.next_task()
    assert torch.equal(stream.x, x) and torch.equal(x[0].T, problem.x)
    assert 0.8 < (stream.y != y).double().mean() < 0.97 and y.unique().tolist() == list(range(10))


def test_one_slow_bit_flips_a_task_and_the_target_is_the_threshold_network():
    stream = Problem("slowly_changing_regression", 20, 1, 5, 8).stream(SEEDS)
    for _ in range(4):
        before = stream.slow.clone()
        stream.next_task()
        assert (stream.slow != before).sum(1).tolist() == [1, 1]
    x, y = stream.batch()
    slow = SlowlyChangingRegression.FLIPPING
    assert (x[:, :slow] == stream.slow[:, :, None]).all() and x.unique().tolist() == [0, 1]
    assert x[:, slow:].std(2).min() > 0 or x.shape[2] < 16
    for seed in range(2):
        weights, output = stream.weights[seed], stream.output[seed, 0]
        for sample, value in zip(x[seed].T, y[seed], strict=True):
            total = 0.0
            for unit, sign in zip(weights, output, strict=True):
                threshold = 20 * 0.7 - int((unit < 0).sum())
                total += float(sign) * (float(unit @ sample) > threshold)
            assert value == total
    assert stream.probe().shape == (2, 20, PROBE)


@pytest.mark.parametrize("name", SETTINGS)
def test_a_seed_has_the_same_tasks_in_any_company(name):
    problem = load_problem(name, None, None, quick=True)
    streams = [problem.stream(seeds) for seeds in ((7,), (5, 7))]
    for _ in range(2):
        for stream in streams:
            stream.next_task()
    for _ in range(3):
        alone, together = (stream.batch() for stream in streams)
        assert all(torch.equal(a[0], b[1]) for a, b in zip(alone, together, strict=True))


def test_images_become_small_grey_ones():
    images = torch.randint(256, (30, 3, 8, 8), dtype=torch.uint8)
    x = reduced(images, 2)
    grey = images.float().mean(1)
    expected = torch.stack([grey[:, i : i + 4, j : j + 4].mean((1, 2)) for i in (0, 4) for j in (0, 4)], 1)
    torch.testing.assert_close(x, standardized(expected))
    assert abs(float(x.mean())) < 1e-5 and float(x.std()) == pytest.approx(1)


def test_a_network_learns_and_another_that_diverges_does_not_touch_it():
    problem = load_problem("permuted_digits", None, None)
    schedule = Schedule(tasks=2, depth=2, width=16, measured_every=1)
    runs = (Run(0, 0.1), Run(0, 1e6))
    good, bad = train(runs, problem, TECHNIQUES["backprop"], "sgd", schedule)
    (alone,) = train(runs[:1], problem, TECHNIQUES["backprop"], "sgd", schedule)
    assert good["scores"] == pytest.approx(alone["scores"], abs=0.02) and min(good["scores"]) > 0.5
    assert max(bad["scores"]) < 0.2 and bad["dead"][-1] > 0.9
