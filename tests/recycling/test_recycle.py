"""What recycle does to weights and output, case by case."""

import copy

import pytest
import torch
import torch.nn.functional as F
from recycling.recorded import kill, record, same, snapshot, trained
from recycling.recycle_models import (
    IMAGES,
    Cat,
    Dense,
    Shared,
    X,
    alive,
    close,
    conv_net,
    mlp,
    other_norms,
    transposed,
)
from torch import nn

import jumpstart_kernels as jk


def test_by_hand():
    model = nn.Sequential(nn.Linear(1, 3), nn.ReLU(), nn.Linear(3, 1)).double()
    with torch.no_grad():
        model[0].weight[:] = torch.tensor([[1.0], [1.0], [0.0]])
        model[0].bias[:] = torch.tensor([0.0, -9.0, 0.25])
        model[2].weight[:] = torch.tensor([[2.0, 3.0, 4.0]])
        model[2].bias[:] = 1.0
    x = torch.tensor([[4.0], [8.0]], dtype=torch.float64)
    usage = record(model, x)  # means 6, 0, 0.25; scores 2.88, 0, 0.12
    before = copy.deepcopy(model)
    report = jk.recycle(
        model, None, usage, tau=0.12, initialize=lambda new: nn.init.constant_(new.weight, 7.0)
    )
    assert report.recycled["1"].tolist() == report.by_layer["0"].tolist() == [1, 2]
    assert model[0].weight.flatten().tolist() == [1, 7, 7]
    assert model[0].bias[0] == 0 and model[0].bias[1] != -9 and model[0].bias[2] != 0.25
    assert model[2].weight.tolist() == [[2, 0, 0]]
    assert model[2].bias.tolist() == [1 + 4 * 0.25]
    assert torch.equal(model(x), before(x))
    assert (report.total, report.unchanged, report.on_average, report.changed) == (2, 1, 1, 0)


# The model, its input, and by layer or norm whose bias kills: units, activations, layers that read, columns.
SILENT = {
    "linear": (mlp, X, {"0": ([1, 4], "1", "0"), "2": ([0], "3", "2")}, {"2": [1, 4], "4": [0]}),
    "conv": (
        conv_net,
        IMAGES,
        {"1": ([2], "2", "0"), "4": ([0, 3], "5", "4")},
        {"4": [2], "8": [0, 1, 2, 3, 12, 13, 14, 15]},
    ),
    "cat": (
        Cat,
        X,
        {"a": ([1], "relu_a", "a"), "b": ([0, 4], "relu_b", "b")},
        {"c": [1, 3, 7, 9], "d": [0, 4]},
    ),
    "shared": (Shared, X, {"a": ([5], "relu", "a"), "b": ([2], "relu#2", "b")}, {"b": [5], "c": [2]}),
    "transposed": (transposed, IMAGES, {"0": ([2], "1", "0"), "2": ([1], "3", "2")}, {"4": [1]}),
    "norms": (other_norms, IMAGES, {"1": ([2], "2", "0"), "4": ([3], "5", "3")}, {"3": [2], "6": [3]}),
}


@pytest.mark.parametrize("status", ["dead", "dormant"])
@pytest.mark.parametrize("name", SILENT)
def test_silent_units(name, status):
    build, x, planted, columns = SILENT[name]
    torch.manual_seed(0)
    model = alive(build()).train()
    model(x)  # statistics of its own
    for killed, (units, _, _) in planted.items():
        kill(model.get_submodule(killed), units)
    model.train()
    usage = record(model, x)
    given = copy.deepcopy(model).eval()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    report = jk.recycle(
        model,
        optimizer,
        usage,
        status=status,
        tau=0,
        example_inputs=x,
        generator=torch.Generator().manual_seed(3),
    )
    assert model.training
    assert {name: u.tolist() for name, u in report.recycled.items() if len(u)} == {
        activation: units for units, activation, _ in planted.values()
    }
    assert {name: u.tolist() for name, u in report.by_layer.items()} == {
        layer: units for units, _, layer in planted.values()
    }
    assert report.unchanged == report.total == sum(len(units) for units, _, _ in planted.values())
    fresh = {layer: units for units, _, layer in planted.values()}
    for layer, zero in columns.items():
        weight = model.get_submodule(layer).weight
        live = [i for i in range(len(weight)) if i not in fresh.get(layer, [])]
        assert not weight[live][:, zero].any()
        assert weight[:, [i for i in range(weight.shape[1]) if i not in zero]].all()
    close(model.eval()(x), given(x))
    again = record(model, x)
    for units, activation, _ in planted.values():
        assert all(again.dormancy[activation][unit] > 0 for unit in units)


def test_all_that_is_not_recycled_stays():
    model = alive(conv_net())
    model.train()(IMAGES)
    kill(model[1], [2])
    model[1].weight.data.fill_(2)
    before = copy.deepcopy(model.state_dict())
    jk.recycle(model, None, record(model, IMAGES), status="dead")
    after = model.state_dict()
    new = {"0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var", "4.weight"}
    for name, tensor in before.items():
        mask = torch.zeros(tensor.shape, dtype=torch.bool)
        if name in new:
            mask[(slice(None), 2) if name == "4.weight" else 2] = True
        assert torch.equal(tensor[~mask], after[name][~mask]), name
        assert not mask.any() or bool((tensor[mask] != after[name][mask]).any()), name
    assert [float(after[f"1.{name}"][2]) for name in ("weight", "bias", "running_mean", "running_var")] == [
        *(1, 0, 0, 1)
    ]


def test_dense():
    """A unit behind two activations is recycled if it is dead at both."""
    torch.manual_seed(0)
    model = alive(Dense())
    model(IMAGES)
    kill(model.norm_a, [3])
    usage = record(model, IMAGES)
    report = jk.recycle(model, None, usage, tau=0)
    assert report.total == 0 and "pass example_inputs" in next(iter(report.left["relu_a"]))
    report = jk.recycle(model, None, usage, tau=0, example_inputs=IMAGES)
    assert report.total == 0 and report.left["relu_a"] == {"they are not so behind relu_b": 1}
    kill(model.norm_b, [3, 7])
    given = copy.deepcopy(model).eval()
    report = jk.recycle(model, None, record(model, IMAGES), tau=0, example_inputs=IMAGES)
    assert {name: units.tolist() for name, units in report.by_layer.items()} == {"a": [1], "b": [1]}
    assert {name: units.tolist() for name, units in report.recycled.items()} == {
        "relu_a": [3],
        "relu_b": [3, 7],
    }
    close(model.eval()(IMAGES), given(IMAGES))


def test_rows_between_recycled_units_are_fresh():
    model = mlp()
    kill(model[0], slice(None))
    kill(model[2], slice(None))
    given = copy.deepcopy(model)
    report = jk.recycle(model, None, record(model, X))
    assert report.total == 11
    assert model[2].weight.all() and not model[4].weight.any()
    close(model(X), given(X))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(X).square().sum().backward()
        optimizer.step()
    assert model[0].weight.grad.any()


def test_the_count_falls_and_the_unit_is_used():
    torch.manual_seed(0)
    model = mlp()
    kill(model[0], [0, 1, 2], by=30)
    optimizer = trained(model, X)
    usage = record(model, X)
    target = torch.randn(64, 3, dtype=torch.float64)
    assert int(usage.dormant(0.1)["1"].sum()) == 3
    report = jk.recycle(model, optimizer, usage)
    assert report.recycled["1"].tolist() == [0, 1, 2]
    for step in range(300):
        optimizer.zero_grad()
        F.mse_loss(model(X), target).backward()
        if step == 0:
            assert (model[2].weight.grad[:, [0, 1, 2]].abs().amax(0) > 0).all()
            assert not model[0].weight.grad[[0, 1, 2]].any()
        if step == 1:
            assert (model[0].weight.grad[[0, 1, 2]].abs().amax(1) > 0).all()
        optimizer.step()
    assert int(record(model, X).dormant(0.1)["1"].sum()) == 0
    before = F.mse_loss(model(X), target)
    with torch.no_grad():
        model[2].weight[:, [0, 1, 2]] = 0
    assert F.mse_loss(model(X), target) > before * 1.01


def test_sequences():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 3)).double()
    x = X.view(8, 8, 4)
    kill(model[0], [2])
    given = copy.deepcopy(model)
    report = jk.recycle(model, None, record(model, x))
    assert report.recycled["1"].tolist() == [2] and report.unchanged == 1
    close(model(x), given(x))


def test_nothing_to_recycle():
    model = mlp()
    optimizer = trained(model, X)
    before = snapshot(model, optimizer)
    report = jk.recycle(model, optimizer, record(model, X), tau=0)
    assert report.total == 0 and same(snapshot(model, optimizer), before)


def test_the_report():
    model = mlp()
    kill(model[0], [1, 2])
    model[2].weight.requires_grad_(False)
    report = jk.recycle(model, None, record(model, X), tau=0)
    assert str(report).splitlines() == [
        "layer  units  found  recycled  left",
        "1          6      2         0     2",
        "3          5      0         0     0",
        "left in 1: 2, 2.weight is frozen",
        "dormant at τ = 0; recycled: 0; output unchanged by 0, mean kept of 0, changed by 0",
    ]
    assert report.units == {"1": 6, "3": 5} and report.found == {"1": 2, "3": 0}
