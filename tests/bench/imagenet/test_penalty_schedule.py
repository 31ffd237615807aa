"""The weight of the penalty: the values of PyTorch's own schedulers, and a state that can be put back."""

import copy
import math

import pytest
import torch
from torch.optim import lr_scheduler
from trainings import make_options

from benchmarks.imagenet.penalty_schedule import PenaltyWeight
from benchmarks.imagenet.training import make_penalty_weight, warmup_cosine

SCHEDULES = (
    {"schedule": "constant"},
    {"schedule": "linear", "warmup_steps": 4},
    {"schedule": "cosine", "total_steps": 12, "final": 0.1},
    {"schedule": "cosine", "warmup_steps": 3, "total_steps": 12},
)


def values(weight, steps):
    found = []
    for _ in range(steps):
        found.append(weight.value)
        weight.step()
    return found


def scheduled(make, steps, peak):
    """The learning rates of a scheduler of PyTorch."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def test_constant():
    assert values(PenaltyWeight(0.3), 5) == [0.3] * 5
    assert PenaltyWeight(0).value == 0


def test_linear_is_that_of_pytorch():
    expected = scheduled(lambda optimizer: lr_scheduler.LinearLR(optimizer, 1 / 4, total_iters=3), 8, 0.5)
    assert values(PenaltyWeight(0.5, schedule="linear", warmup_steps=4), 8) == pytest.approx(expected)
    assert expected[0] == 0.125 and expected[3] == pytest.approx(0.5)


@pytest.mark.parametrize("warmup", (0, 1, 5))
def test_cosine_is_that_of_pytorch(warmup):
    def make(optimizer):
        cosine = lr_scheduler.CosineAnnealingLR(optimizer, 20 - warmup, eta_min=0.05)
        if not warmup:
            return cosine
        linear = lr_scheduler.LinearLR(optimizer, 1 / warmup, total_iters=max(warmup - 1, 1))
        return lr_scheduler.SequentialLR(optimizer, [linear, cosine], [warmup])

    weight = PenaltyWeight(0.5, schedule="cosine", warmup_steps=warmup, total_steps=20, final=0.05)
    found = values(weight, 20)
    assert found == pytest.approx(scheduled(make, 20, 0.5))
    assert weight.value == pytest.approx(0.05) and found[warmup] == 0.5
    weight.step()
    assert weight.value == pytest.approx(0.05)  # and stays there


@pytest.mark.parametrize("options", SCHEDULES)
def test_a_state_goes_on_where_it_was(options):
    weight = PenaltyWeight(0.5, **options)
    whole = values(copy.deepcopy(weight), 15)
    first = values(weight, 6)
    state = weight.state_dict()
    assert all(isinstance(value, (int, float, str, type(None))) for value in state.values())
    values(weight, 1)
    resumed = PenaltyWeight(7.0)  # as in PyTorch, the state brings its settings along
    resumed.load_state_dict(state)
    assert first + values(resumed, 9) == whole


def test_a_state_of_something_else():
    with pytest.raises(ValueError, match="state_dict must have the keys peak, .*got last_epoch"):
        PenaltyWeight(0.5).load_state_dict({"last_epoch": 3})


@pytest.mark.parametrize(
    "error,message,options",
    (
        (ValueError, "schedule must be one of constant, linear, cosine, got 'step'", {"schedule": "step"}),
        (ValueError, "peak must be finite and at least 0, got -1", {"peak": -1}),
        (ValueError, "peak must be finite", {"peak": math.nan}),
        (TypeError, "peak must be a number, got str", {"peak": "1"}),
        (TypeError, "peak must be a number, got bool", {"peak": True}),
        (TypeError, "warmup_steps must be an int, got float", {"schedule": "linear", "warmup_steps": 1.0}),
        (ValueError, "warmup_steps must be at least 1 for 'linear', got 0", {"schedule": "linear"}),
        (ValueError, "warmup_steps must be 0 for 'constant', got 2", {"warmup_steps": 2}),
        (ValueError, "warmup_steps must be at least 0", {"schedule": "cosine", "warmup_steps": -1}),
        (ValueError, "total_steps must be given for 'cosine' alone", {"total_steps": 5}),
        (ValueError, "total_steps must be given for 'cosine' alone, got None", {"schedule": "cosine"}),
        (
            ValueError,
            "total_steps must be more than warmup_steps, 5, got 5",
            {"schedule": "cosine", "warmup_steps": 5, "total_steps": 5},
        ),
        (ValueError, "final must be 0 for 'constant', got 1", {"final": 1}),
    ),
)
def test_wrong_arguments(error, message, options):
    with pytest.raises(error, match=message):
        PenaltyWeight(**{"peak": 0.5, **options})


def test_the_options_are_in_epochs():
    words = "--epochs=4 --penalty-weight=0.5 --penalty-schedule={} --penalty-warmup-epochs={}"
    cosine = make_penalty_weight(make_options("", "", words.format("cosine", 1.5)), 10)
    assert (
        cosine.state_dict()
        == PenaltyWeight(0.5, schedule="cosine", warmup_steps=15, total_steps=40).state_dict()
    )
    linear = make_penalty_weight(make_options("", "", words.format("linear", 0)), 10)
    assert values(linear, 3) == [0.5] * 3
    assert values(make_penalty_weight(make_options("", "", words.format("constant", 2)), 10), 3) == [0.5] * 3
    almost_all = make_penalty_weight(make_options("", "", words.format("cosine", 3.99)), 10)
    assert almost_all.warmup_steps == 39


def test_learning_rate_warms_up_and_falls_to_zero():
    factor = warmup_cosine(2, 6)
    assert [factor(step) for step in range(3)] == [0.5, 1.0, 1.0]
    assert factor(4) == pytest.approx(0.5) and factor(6) == factor(7) == 0
    assert warmup_cosine(3, 3)(3) == 1.0
