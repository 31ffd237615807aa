"""λ over the steps: values of PyTorch's schedulers, resuming, injections."""

import copy
import io
import math
import pickle

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

import jumpstart_kernels as jk
from jumpstart_kernels.schedules import (
    ConstantPenalty,
    CosinePenalty,
    LinearPenalty,
    PenaltySchedule,
    SequentialPenalty,
    StopWhenHealthy,
)
from jumpstart_kernels.usage.loader import unit_usage

HEALTHY = {"unit_dead_ratio": 0.05, "unit_linear_ratio": 0.0}
DEAD = {"unit_dead_ratio": 0.06, "unit_linear_ratio": 0.0}
LINEAR = {"unit_dead_ratio": 0.0, "unit_linear_ratio": 0.06}
UNKNOWN = {"unit_dead_ratio": math.nan, "unit_linear_ratio": 0.0}


def schedules() -> list[PenaltySchedule]:
    return [
        ConstantPenalty(0.3),
        ConstantPenalty(0.3, warmup_steps=4),
        LinearPenalty(0.5, total_steps=10, final=0.1, warmup_steps=2),
        CosinePenalty(0.5, total_steps=12, warmup_steps=3),
        SequentialPenalty([CosinePenalty(0.5, total_steps=4), ConstantPenalty(0.2)], [5]),
        StopWhenHealthy(LinearPenalty(0.5, total_steps=10), patience=2),
    ]


def weights(schedule: PenaltySchedule, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(schedule.weight)
        schedule.step()
    return found


def learning_rates(make, steps: int, peak: float) -> list[float]:
    """The values of a PyTorch scheduler."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=peak)
    scheduler = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return found


def test_constant():
    assert weights(ConstantPenalty(0.3), 5) == [0.3] * 5
    assert ConstantPenalty(0).weight == 0


def test_warm_up_is_that_of_pytorch():
    expected = learning_rates(
        lambda optimizer: lr_scheduler.LinearLR(optimizer, 1 / 4, total_iters=3), 8, 0.5
    )
    assert weights(ConstantPenalty(0.5, warmup_steps=4), 8) == pytest.approx(expected)
    assert expected[0] == 0.125 and expected[3] == pytest.approx(0.5)


@pytest.mark.parametrize("warmup", (0, 1, 5))
@pytest.mark.parametrize("kind", (LinearPenalty, CosinePenalty))
def test_the_way_down_is_that_of_pytorch(kind, warmup):
    def make(optimizer):
        if kind is CosinePenalty:
            down = lr_scheduler.CosineAnnealingLR(optimizer, 20 - warmup, eta_min=0.05)
        else:
            down = lr_scheduler.LinearLR(optimizer, 1.0, end_factor=0.1, total_iters=20 - warmup)
        if not warmup:
            return down
        up = lr_scheduler.LinearLR(optimizer, 1 / warmup, total_iters=max(warmup - 1, 1))
        return lr_scheduler.SequentialLR(optimizer, [up, down], [warmup])

    schedule = kind(0.5, total_steps=20, final=0.05, warmup_steps=warmup)
    found = weights(schedule, 20)
    assert found == pytest.approx(learning_rates(make, 20, 0.5))
    assert found[warmup] == 0.5
    assert weights(schedule, 5) == pytest.approx([0.05] * 5)  # and stays there


def test_it_may_rise():
    assert weights(LinearPenalty(0.0, total_steps=4, final=1.0), 6) == [0.0, 0.25, 0.5, 0.75, 1.0, 1.0]


def test_sequential_starts_each_schedule_anew():
    schedule = SequentialPenalty(
        [ConstantPenalty(0.4, warmup_steps=2), LinearPenalty(0.4, total_steps=4), ConstantPenalty(0.1)],
        [3, 6],
    )
    assert weights(schedule, 8) == pytest.approx([0.2, 0.4, 0.4, 0.4, 0.3, 0.2, 0.1, 0.1])


def test_an_inner_schedule_is_not_stepped():
    inner = LinearPenalty(0.5, total_steps=5)
    outer = SequentialPenalty([inner, inner], [3])
    assert weights(outer, 6) == pytest.approx([0.5, 0.4, 0.3] * 2)
    assert inner.last_step == 0


def test_a_schedule_of_ones_own_needs_weight_at_alone():
    class Squares(PenaltySchedule):
        def weight_at(self, step):
            return float(step**2)

    assert weights(SequentialPenalty([ConstantPenalty(7), Squares()], [1]), 4) == [7, 0, 1, 4]
    with pytest.raises(NotImplementedError, match="PenaltySchedule must define weight_at"):
        _ = PenaltySchedule().weight


@pytest.mark.parametrize("schedule", schedules(), ids=repr)
def test_a_state_goes_on_where_it_was(schedule):
    fresh, whole = copy.deepcopy(schedule), weights(copy.deepcopy(schedule), 15)
    first = weights(schedule, 6)
    file = io.BytesIO()
    torch.save(schedule.state_dict(), file)
    file.seek(0)
    weights(schedule, 1)
    fresh.load_state_dict(torch.load(file, weights_only=True))
    assert first + weights(fresh, 9) == whole


def test_settings_are_those_of_the_constructor():
    state = LinearPenalty(0.5, total_steps=10).state_dict()
    longer = LinearPenalty(0.5, total_steps=20)
    longer.load_state_dict({**state, "last_step": 10})
    assert longer.weight == 0.25


@pytest.mark.parametrize(
    "state, message",
    [
        ({"last_epoch": 3}, "state_dict must have the keys last_step, got last_epoch"),
        ({}, "got none"),
        ({"last_step": -3}, r"state_dict\['last_step'\] must be at least 0, got -3"),
        ({"last_step": "3"}, r"state_dict\['last_step'\] must be 0 or the like, got '3'"),
    ],
)
def test_a_state_of_something_else(state, message):
    with pytest.raises(ValueError, match=message):
        ConstantPenalty(0.5).load_state_dict(state)


def test_it_stops_after_enough_healthy_observations_in_a_row():
    schedule = StopWhenHealthy(ConstantPenalty(0.5), patience=2)
    found = []
    for usage in (HEALTHY, DEAD, HEALTHY, LINEAR, HEALTHY, UNKNOWN, HEALTHY, HEALTHY, DEAD):
        schedule.step(usage)
        found.append(schedule.weight)
    assert found == [0.5] * 7 + [0.0, 0.0]
    assert schedule.last_step == 9


def test_it_restarts_if_asked():
    schedule = StopWhenHealthy(ConstantPenalty(0.5), patience=1, floor=0.1, restart=True)
    found = []
    for usage in (HEALTHY, DEAD, HEALTHY):
        schedule.observe(usage)
        found.append(schedule.weight)
    assert found == [0.1, 0.5, 0.1]
    assert schedule.last_step == 0


def test_the_floor_does_not_lift():
    schedule = StopWhenHealthy(LinearPenalty(0.4, total_steps=4), patience=1, floor=0.25)
    schedule.observe(HEALTHY)
    assert weights(schedule, 5) == pytest.approx([0.25, 0.25, 0.2, 0.1, 0.0])


def test_a_step_without_usage_leaves_the_observations():
    schedule = StopWhenHealthy(ConstantPenalty(0.5), patience=2)
    schedule.step(HEALTHY)
    schedule.step()
    assert schedule.weight == 0.5 and schedule.healthy == 1
    schedule.step(HEALTHY)
    assert schedule.stopped


def test_what_was_observed_is_saved():
    schedule = StopWhenHealthy(ConstantPenalty(0.5), patience=3)
    schedule.step(HEALTHY)
    schedule.step(HEALTHY)
    resumed = StopWhenHealthy(ConstantPenalty(0.5), patience=3)
    resumed.load_state_dict(schedule.state_dict())
    assert resumed.weight == 0.5
    resumed.step(HEALTHY)
    assert resumed.stopped and resumed.weight == 0 and resumed.last_step == 3
    again = StopWhenHealthy(ConstantPenalty(0.5))
    again.load_state_dict(resumed.state_dict())
    assert again.weight == 0


def test_it_is_fed_by_reports_and_metrics():
    """A linear unit, then none."""
    model = nn.Sequential(nn.ReLU())
    schedule = StopWhenHealthy(ConstantPenalty(0.5), patience=1)
    schedule.step(unit_usage(model, [torch.tensor([[1.0, -1.0], [2.0, 1.0]])]))
    assert not schedule.stopped
    schedule.step(unit_usage(model, [torch.tensor([[1.0, -1.0], [-2.0, 1.0]])]))
    assert schedule.stopped
    metric = jk.UnitUsage()
    schedule = StopWhenHealthy(ConstantPenalty(0.5), patience=1)
    with metric.watch(model):
        model(torch.tensor([[1.0, -1.0], [-2.0, 1.0]]))
    schedule.observe(metric.compute())
    assert schedule.stopped


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return jk.replace_relu(nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2), nn.ReLU()))


def test_a_bound_injection_follows():
    """Gradients are those of the explicit loss with the same schedule."""
    explicit = small_model()
    injected = copy.deepcopy(explicit)
    x = torch.randn(5, 3)
    injection = jk.inject_penalty(injected, 7.0, counts=jk.count_units_and_points(injected, x))
    driving, schedule = (StopWhenHealthy(LinearPenalty(0.4, total_steps=4), patience=1) for _ in range(2))
    assert driving.bind(injection) is injection
    for usage in (None, None, HEALTHY, None):
        assert injection.weight == driving.weight == schedule.weight
        for model in (explicit, injected):
            model.zero_grad()
        (explicit(x).sum() + schedule.weight * jk.penalty(explicit)).backward()
        injected(x).sum().backward()
        for own, other in zip(explicit.parameters(), injected.parameters(), strict=True):
            torch.testing.assert_close(own.grad, other.grad)
        driving.step(usage)
        schedule.step(usage)
    assert injection.weight == 0 and driving.stopped


def test_a_bound_injection_follows_a_loaded_state_by_its_factor():
    model = small_model()
    injection = jk.inject_penalty(model, 1.0, reduction="sum")
    schedule = LinearPenalty(0.4, total_steps=4)
    schedule.bind(injection, factor=0.5)
    assert injection.weight == 0.2
    schedule.load_state_dict({"last_step": 2})
    assert injection.weight == 0.1
    for twin in (copy.deepcopy(schedule), pickle.loads(pickle.dumps(schedule))):
        twin.step()  # drives nothing
        assert (twin.weight, injection.weight) == (pytest.approx(0.1), 0.1)
    with pytest.raises(TypeError, match="injection must be a PenaltyInjection, got Sequential"):
        schedule.bind(model)
    with pytest.raises(ValueError, match="factor must be finite and at least 0, got -1"):
        schedule.bind(injection, factor=-1)


@pytest.mark.parametrize(
    "error, message, make",
    [
        (ValueError, "peak must be finite and at least 0, got -1", lambda: ConstantPenalty(-1)),
        (ValueError, "peak must be finite", lambda: ConstantPenalty(math.nan)),
        (ValueError, "peak must be finite", lambda: ConstantPenalty(math.inf)),
        (TypeError, "peak must be a number, got str", lambda: ConstantPenalty("1")),
        (TypeError, "peak must be a number, got bool", lambda: ConstantPenalty(True)),
        (TypeError, "warmup_steps must be an int, got float", lambda: ConstantPenalty(1, warmup_steps=1.0)),
        (ValueError, "warmup_steps must be at least 0", lambda: ConstantPenalty(1, warmup_steps=-1)),
        (
            ValueError,
            "total_steps must be more than warmup_steps, 5, got 5",
            lambda: CosinePenalty(1, total_steps=5, warmup_steps=5),
        ),
        (ValueError, "final must be finite", lambda: LinearPenalty(1, total_steps=5, final=-0.1)),
        (TypeError, "schedules must be a PenaltySchedule, got int", lambda: SequentialPenalty([1], [])),
        (
            TypeError,
            "schedules must not be a StopWhenHealthy",
            lambda: SequentialPenalty([StopWhenHealthy(ConstantPenalty(1))], []),
        ),
        (
            ValueError,
            "milestones must be one fewer than schedules, 1, got 1",
            lambda: SequentialPenalty([ConstantPenalty(1)], [3]),
        ),
        (
            ValueError,
            r"milestones must be positive and increasing, got \[3, 3\]",
            lambda: SequentialPenalty([ConstantPenalty(1)] * 3, [3, 3]),
        ),
        (
            ValueError,
            "milestones must be positive and increasing",
            lambda: SequentialPenalty([ConstantPenalty(1)] * 2, [0]),
        ),
        (
            TypeError,
            "schedules must be a list, got ConstantPenalty",
            lambda: SequentialPenalty(ConstantPenalty(1), []),
        ),
        (
            TypeError,
            "milestones must be a list, got int",
            lambda: SequentialPenalty([ConstantPenalty(1)] * 2, 5),
        ),
        (
            TypeError,
            "restart must be a bool, got str",
            lambda: StopWhenHealthy(ConstantPenalty(1), restart="no"),
        ),
        (
            TypeError,
            "state_dict must be a mapping, got int",
            lambda: ConstantPenalty(1).load_state_dict(3),
        ),
        (ValueError, "patience must be at least 1", lambda: StopWhenHealthy(ConstantPenalty(1), patience=0)),
        (
            ValueError,
            r"max_dead_ratio must be in \[0, 1\], got 5",
            lambda: StopWhenHealthy(ConstantPenalty(1), max_dead_ratio=5),
        ),
        (
            TypeError,
            "usage must be a mapping .*, got float",
            lambda: StopWhenHealthy(ConstantPenalty(1)).step(0.1),
        ),
        (
            ValueError,
            "missing unit_linear_ratio",
            lambda: StopWhenHealthy(ConstantPenalty(1)).observe({"unit_dead_ratio": 0.1}),
        ),
    ],
)
def test_wrong_arguments(error, message, make):
    with pytest.raises(error, match=message):
        make()


def test_a_usage_that_is_refused_is_no_step():
    schedule = StopWhenHealthy(ConstantPenalty(1))
    with pytest.raises(ValueError):
        schedule.step({})
    assert schedule.last_step == 0
