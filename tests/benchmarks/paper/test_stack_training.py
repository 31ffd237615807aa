"""``benchmarks/paper/stack_training.py``: batches, seeds, what is reported of a run."""

import dataclasses

import pytest
import torch

from benchmarks.paper.networks import INITIALIZATIONS, Shape
from benchmarks.paper.stack_training import (
    EVALUATIONS,
    LAM_SCHEDULES,
    RATE_SCHEDULES,
    Batches,
    Run,
    Schedule,
    make_network,
    train,
)
from jumpstart_kernels.demo.data import Data


def make_data(seed=0, rows=40, features=3):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(rows + 20, features, generator=generator)
    y = (x[:, 0] > 0).long()
    return Data("Half-spaces", x[:rows], y[:rows], x[rows:], y[rows:])


def test_an_epoch_has_every_row_once_and_seeds_have_their_order():
    batches = Batches([0, 1, 0], rows=10, size=4)
    x, y = torch.arange(30.0).view(3, 10, 1), torch.arange(10).expand(3, 10)
    epochs = []
    for _ in range(2):
        taken = [batches.take(x, y) for _ in range(batches.count)]
        assert sorted(part.shape[1] for _, part in taken) == [3, 3, 4]
        labels = torch.cat([part for _, part in taken], dim=1)
        assert all(sorted(row) == list(range(10)) for row in labels.tolist())
        rows = torch.cat([part for part, _ in taken], dim=1)
        assert torch.equal(rows[..., 0], labels + torch.tensor([[0.0], [10.0], [20.0]]))
        epochs.append(labels)
    assert torch.equal(epochs[0][0], epochs[0][2]) and not torch.equal(epochs[0][0], epochs[0][1])
    assert not torch.equal(*epochs)


def test_techniques_begin_with_the_same_parameters():
    shape = Shape(4, 3, 2, 2)
    plain, other = (make_network(shape, Run(name, 5, 0.01)) for name in ("plain", "jumpstart"))
    assert all(torch.equal(a.weight, b.weight) for a, b in zip(plain.layers, other.layers, strict=True))
    assert torch.equal(plain.classifier.weight, other.classifier.weight)
    again = make_network(shape, Run("plain", 6, 0.01))
    assert not torch.equal(plain.layers[0].weight, again.layers[0].weight)


@pytest.mark.parametrize("name", INITIALIZATIONS)
def test_initializations_are_of_the_layers(name):
    network = make_network(Shape(3, 64, 64, 2), Run("plain", 0, 0.01, initialization=name))
    deviation = {"pytorch": 1 / 3**0.5, "he": 2**0.5, "xavier": 1.0, "orthogonal": 2**0.5}  # times 1 / √64
    for layer in network.layers:
        assert layer.weight.std().item() == pytest.approx(deviation[name] / 8, rel=0.05)
        assert (layer.bias == 0).all() == (name != "pytorch")


def test_schedules_of_lam_begin_and_end_where_they_should():
    steps = (0, 10, 50, 99)
    weights = {
        name: [make(2.0, 100).weight_at(step) for step in steps] for name, make in LAM_SCHEDULES.items()
    }
    assert weights["constant"] == [2.0] * 4
    assert weights["warm-up"][0] < 0.5 and weights["warm-up"][1:] == [2.0] * 3
    assert weights["linear"] == pytest.approx([2.0, 1.8, 1.0, 0.02])
    assert weights["cosine"][0] == 2.0 and weights["cosine"][3] < 0.01
    assert weights["first half"] == [2.0, 2.0, 0.0, 0.0]


@pytest.mark.parametrize(("name", "middle"), [("constant", 1.0), ("linear", 0.5), ("cosine", 0.5)])
def test_schedules_of_the_rate_fall_to_zero(name, middle):
    falls = name != "constant"
    factors = [RATE_SCHEDULES[name](done) for done in (0.0, 0.5, 1.0)]
    assert factors == pytest.approx([1.0, middle, 0.0 if falls else 1.0])
    runs = [Run("plain", 0, 0.01, rate_schedule=name), Run("plain", 0, 0.01)]
    one, other = train(runs, [make_data()] * 2, 2, 8, Schedule(epochs=40, batch_size=16))
    assert (one.curve == other.curve) == (not falls)


def test_what_is_kept_is_what_has_the_least_training_loss():
    """At a rate this high the loss jumps, so that it is seldom the last evaluation."""
    schedule = Schedule(epochs=60, batch_size=40, evaluations=60)
    runs = [Run("jumpstart", seed, 0.3, 0.1) for seed in range(4)]
    outcomes = train(runs, [make_data(seed) for seed in range(4)], 10, 8, schedule)
    assert all(len(outcome.curve) == 60 for outcome in outcomes)
    assert all(outcome.lowest_loss_accuracy in outcome.curve for outcome in outcomes)
    assert any(outcome.lowest_loss_accuracy > outcome.accuracy for outcome in outcomes)


def test_a_run_does_not_depend_on_those_beside_it():
    data = [make_data(seed) for seed in (0, 1)]
    runs = [Run("jumpstart", seed, rate, lam) for seed, rate, lam in ((0, 0.01, 0.1), (1, 0.001, 1.0))]
    schedule = Schedule(epochs=30, batch_size=16)
    together = train(runs, data, 5, 4, schedule)
    for run, part, outcome in zip(runs, data, together, strict=True):
        (alone,) = train([run], [part], 5, 4, schedule)
        numbers, others = (dataclasses.astuple(one)[:-1] for one in (alone, outcome))
        assert numbers == pytest.approx(others, abs=0.051)  # a row of the test split


def test_images_are_trained_by_convolutions():
    """Bars across or upright in 6×6 pixels, wherever they are."""
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.zeros(160, 1, 6, 6), torch.arange(160) % 2
    for image, label in zip(images, labels, strict=True):
        line = int(torch.randint(6, (1,), generator=generator))
        image[0, line] = 1 - label
        image[0, :, line] += label
    data = Data("Bars", images[:120], labels[:120], images[120:], labels[120:])
    runs = [Run("jumpstart", 0, rate, 0.1) for rate in (0.01, 0.003)]
    outcomes = train(runs, [data] * 2, 4, 6, Schedule(epochs=60, batch_size=60))
    assert max(outcome.accuracy for outcome in outcomes) >= 0.9


def test_outcomes_say_what_a_run_came_to():
    runs = [Run("plain", 0, 0.01), Run("plain", 0, 0.001)]
    schedule = Schedule(epochs=200, steps=150, batch_size=64)
    outcomes = train(runs, [make_data()] * 2, 1, 8, schedule)
    fast, slow = outcomes
    assert len(fast.curve) == EVALUATIONS and fast.accuracy == fast.curve[-1]
    assert max(fast.curve) >= 0.9 and fast.train_accuracy >= 0.95
    assert fast.lowest_loss_accuracy in fast.curve
    assert slow.train_accuracy <= fast.train_accuracy
    assert 0 <= fast.dead + fast.linear <= 1 and fast.train_dead <= fast.dead


def test_a_network_that_diverged_is_told_of_and_leaves_the_others_alone():
    runs = [Run("plain", 0, 0.01), Run("plain", 0, 1e30)]
    schedule = Schedule(epochs=20)
    healthy, diverged = train(runs, [make_data()] * 2, 3, 4, schedule)
    assert (healthy.diverged, diverged.diverged) == (0, 1)
    assert (diverged.accuracy, diverged.dead, diverged.linear) == (0, 1, 0)
    (alone,) = train(runs[:1], [make_data()], 3, 4, schedule)
    assert alone.curve == pytest.approx(healthy.curve, abs=0.051)  # a row of the test split


def test_a_convolution_that_diverged_leaves_those_of_its_group_alone():
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(60, 1, 4, 4, generator=generator), torch.arange(60) % 2
    images[labels == 1] += 1
    data = Data("Light and dark", images[:40], labels[:40], images[40:], labels[40:])
    schedule = Schedule(epochs=20)
    runs = [Run("plain", 0, 0.01), Run("plain", 0, 1e30)]
    healthy, diverged = train(runs, [data] * 2, 3, 4, schedule)
    assert (healthy.diverged, diverged.diverged) == (0, 1)
    (alone,) = train(runs[:1], [data], 3, 4, schedule)
    assert alone.curve == pytest.approx(healthy.curve, abs=0.051)  # a row of the test split
    assert healthy.accuracy > 0.7


@pytest.mark.parametrize(
    ("runs", "data", "text"),
    [
        ([Run("plain", 0, 0.1), Run("gelu", 0, 0.1)], [make_data()] * 2, "one technique"),
        ([Run("plain", 0, 0.1)], [make_data()] * 2, "data for each"),
        (
            [Run("plain", 0, 0.1)] * 2,
            [make_data(), make_data(features=4)],
            "same numbers of rows and features",
        ),
    ],
)
def test_what_cannot_be_trained_as_one_is_refused(runs, data, text):
    with pytest.raises(ValueError, match=text):
        train(runs, data, 2, 2, Schedule())
