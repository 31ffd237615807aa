"""What recycle does to weights and output, case by case."""

import copy
import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from recycling.recorded import kill, record, same, snapshot, trained
from torch import nn

import jumpstart_kernels as jk

X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
IMAGES = torch.randn(32, 2, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
FIELDS = ("unit_status", "dormancy", "unit_mean")


def close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def alive(model):
    """With weights by which no unit is dormant, before some are made so."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            nn.init.normal_(module.weight, 0, module.weight[0].numel() ** -0.5)
            if module.bias is not None:
                nn.init.uniform_(module.bias, 0.5, 1)
    return model.double()


def mlp(activation=nn.ReLU):
    torch.manual_seed(0)
    return alive(nn.Sequential(nn.Linear(4, 6), activation(), nn.Linear(6, 5), activation(), nn.Linear(5, 3)))


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


class Cat(nn.Module):
    """Two layers whose units are concatenated, one of them twice, for two readers."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 3), nn.Linear(4, 5)
        self.relu_a, self.relu_b = nn.ReLU(), nn.ReLU()
        self.c, self.d = nn.Linear(11, 3), nn.Linear(5, 3)

    def forward(self, x):
        a, b = self.relu_a(self.a(x)), self.relu_b(self.b(x))
        return self.c(torch.cat([a, b, a], 1)) + self.d(b)


class Shared(nn.Module):
    """One activation, called twice."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.relu = nn.Linear(4, 6), nn.Linear(6, 5), nn.Linear(5, 3), nn.ReLU()

    def forward(self, x):
        return self.c(self.relu(self.b(self.relu(self.a(x)))))


class Dense(nn.Module):
    """Units that two norms and activations see, alone and among others."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(6, 4, 3, padding=1, bias=False)
        self.norm_a, self.norm_b = nn.BatchNorm2d(6), nn.BatchNorm2d(10)
        self.relu_a, self.relu_b = nn.ReLU(), nn.ReLU()
        self.fc = nn.Linear(10, 3)

    def forward(self, x):
        x = torch.cat([x, self.a(x)], 1)
        x = torch.cat([x, self.b(self.relu_a(self.norm_a(x)))], 1)
        return self.fc(self.relu_b(self.norm_b(x)).mean((2, 3)))


def conv_net():
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 5, 3),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Flatten(),
        nn.Linear(20, 4),
        nn.ReLU(),
        nn.Linear(4, 3),
    )


def transposed():
    return nn.Sequential(
        *(
            nn.ConvTranspose2d(2, 6, 3),
            nn.ReLU(),
            nn.ConvTranspose2d(6, 4, 2, 2),
            nn.ReLU(),
            nn.Conv2d(4, 3, 1),
        ),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


def other_norms():
    return nn.Sequential(
        *(nn.Conv2d(2, 6, 3), nn.InstanceNorm2d(6, affine=True), nn.ReLU(), nn.Conv2d(6, 4, 3)),
        *(nn.GroupNorm(4, 4), nn.ReLU(), nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )


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


@pytest.mark.parametrize(
    "activation", [nn.GELU, nn.SiLU, nn.Tanh, nn.ELU, nn.LeakyReLU, jk.JumpstartLeakyReLU]
)
def test_the_mean_is_kept(activation):
    """Of a unit that is constant nothing is lost; of others the mean output of the reader is as before."""
    model = mlp(activation)
    with torch.no_grad():
        model[0].weight[2] = 0
        model[0].bias[2] = 0.01
        model[0].weight[4] *= 1e-3
        model[0].bias[4] = -0.02
    usage = record(model, X)
    before = model[:3](X)
    report = jk.recycle(model, None, usage, tau=0.1)
    assert report.recycled["1"].tolist() == [2, 4]
    assert (report.unchanged, report.on_average, report.changed) == (0, 2, 0)
    close(model[:3](X).mean(0), before.mean(0))
    assert not torch.allclose(model[:3](X), before)


def test_means_of_several_layers():
    """A layer that reads units of two others, those of one twice, gets the sum of all their means."""
    torch.manual_seed(0)
    model = alive(Cat())
    with torch.no_grad():
        for layer, unit, constant in ((model.a, 1, 0.02), (model.b, 0, 0.03), (model.b, 3, 0.05)):
            layer.weight[unit], layer.bias[unit] = 0, constant
    given = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters())
    model(X).square().sum().backward()
    optimizer.step()
    model.load_state_dict(given.state_dict())
    squares = optimizer.state[model.c.weight]["exp_avg_sq"].clone()
    report = jk.recycle(model, optimizer, record(model, X), example_inputs=X)
    assert {name: units.tolist() for name, units in report.by_layer.items()} == {"a": [1], "b": [0, 3]}
    close(model(X), given(X))
    fresh = [1, 3, 6, 9]
    live = [i for i in range(11) if i not in fresh]
    after = optimizer.state[model.c.weight]["exp_avg_sq"]
    assert torch.equal(after[:, live], squares[:, live])
    close(after[:, fresh], squares[:, live].mean(1, keepdim=True).expand(3, 4))


def test_without_keep_mean():
    model = mlp()
    with torch.no_grad():
        model[0].weight[2] = 0
        model[0].bias[2] = 0.01
    bias = model[2].bias.clone()
    report = jk.recycle(model, None, record(model, X), keep_mean=False)
    assert report.changed == 1 and torch.equal(model[2].bias, bias)


@pytest.mark.parametrize("kind", ["reader pads", "no bias", "norm behind", "transposed"])
def test_means_that_a_reader_cannot_take_exactly(kind):
    torch.manual_seed(0)
    reader = {
        "reader pads": [nn.Conv2d(4, 3, 3, padding=1)],
        "no bias": [nn.Conv2d(4, 3, 3, bias=False)],
        "norm behind": [nn.Conv2d(4, 3, 3, bias=False), nn.BatchNorm2d(3)],
        "transposed": [nn.ConvTranspose2d(4, 3, 3)],
    }[kind]
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), *reader).double()
    model(IMAGES)
    with torch.no_grad():
        model[0].weight[1] = 0
        model[0].bias[1] = 0.01
    given = copy.deepcopy(model).eval()
    report = jk.recycle(model, None, record(model, IMAGES))
    exact = kind == "norm behind"
    assert (report.on_average, report.changed) == ((1, 0) if exact else (0, 1))
    y, before = model.eval()(IMAGES), given(IMAGES)
    if kind == "reader pads":
        close(y[..., 1:-1, 1:-1], before[..., 1:-1, 1:-1])
    assert exact == torch.allclose(y, before, rtol=1e-12, atol=1e-12)


def test_a_norm_behind_the_activation():
    """It makes a constant of a dead unit, which is no zero, and goes into the bias."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.BatchNorm1d(6), nn.Linear(6, 3)).double()
    model(X)
    with torch.no_grad():
        model[2].bias.uniform_(1, 2)
    kill(model[0], [3])
    given = copy.deepcopy(model).eval()
    report = jk.recycle(model, None, record(model, X))
    assert report.unchanged == 1
    close(model.eval()(X), given(X))
    assert model[2].bias[3] == 0


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


def test_weights_are_drawn_as_pytorch_does():
    model = nn.Sequential(nn.Linear(400, 300), nn.ReLU(), nn.Linear(300, 2))
    kill(model[0], slice(None))
    with torch.no_grad():
        model[0].weight.fill_(5)
    jk.recycle(model, None, record(model, torch.randn(3, 400)))
    bound = 1 / math.sqrt(400)
    for drawn in (model[0].weight, model[0].bias):
        assert float(drawn.detach().abs().max()) < bound
        assert float(drawn.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.1)


def test_generators():
    model, others = mlp(), []
    kill(model[0], [1])
    usage = record(model, X)
    for seed in (0, 0, 1):
        other, state = copy.deepcopy(model), torch.get_rng_state()
        jk.recycle(other, None, usage, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(torch.get_rng_state(), state)
        others.append(other[0].weight)
    assert torch.equal(others[0], others[1]) and not torch.equal(others[1], others[2])
    drawn = []
    for _ in range(2):
        torch.manual_seed(3)
        jk.recycle(other := copy.deepcopy(model), None, usage)
        drawn.append((other[0].weight, torch.rand(1)))
    assert torch.equal(drawn[0][0], drawn[1][0]) and torch.equal(drawn[0][1], drawn[1][1])


def test_initialize():
    def orthogonal(layer):
        if isinstance(layer, nn.Linear):
            nn.init.orthogonal_(layer.weight)
            nn.init.zeros_(layer.bias)

    model = mlp().bfloat16()
    kill(model[0], slice(None))
    jk.recycle(model, None, record(model, X.bfloat16()), initialize=orthogonal)
    assert model[0].weight.dtype == torch.bfloat16 and not model[0].bias.any()
    close_to = torch.eye(4)
    torch.testing.assert_close(
        model[0].weight.float().T @ model[0].weight.float(), close_to, rtol=0, atol=0.02
    )


class Watcher:
    """As the watcher of a model."""

    def __init__(self, usage):
        self.usage, self.resets = usage, 0

    def report(self):
        return self.usage

    def reset(self):
        self.resets += 1


def test_a_watcher_is_reset():
    model = mlp()
    kill(model[0], [1])
    watcher = Watcher(record(model, X))
    assert jk.recycle(model, None, watcher).total == 1
    assert watcher.resets == 1
    with pytest.raises(ValueError, match="holds none"):
        jk.recycle(model, torch.optim.SGD(mlp().parameters(), 0.1), watcher)
    assert watcher.resets == 1


def test_the_package_may_watch_the_activations():
    """Hooks of other code keep units as they are, since they may change what passes."""
    model = mlp()
    kill(model[0], [1])
    usage = record(model, X)
    with jk.UnitUsage().watch(model):
        assert jk.recycle(model, None, usage).total == 1
    kill(model[0], [1])
    model[1].register_forward_hook(lambda m, a, y: None)
    report = jk.recycle(model, None, record(model, X))
    assert report.left["1"] == {"1 (ReLU) has hooks": 1}


@pytest.mark.parametrize("fuse_bias", [True, False])
def test_replaced(fuse_bias):
    """A bias that its activation adds is still the layer's."""
    torch.manual_seed(0)
    model = jk.replace_relu(mlp(), fuse_bias=fuse_bias)
    kill(model[0], [1])
    kill(model[2], [3])
    optimizer = torch.optim.Adam(model.parameters())
    given = copy.deepcopy(model).eval()
    report = jk.recycle(model, optimizer, record(model, X), status="dead")
    assert {name: u.tolist() for name, u in report.by_layer.items()} == {"0": [1], "2": [3]}
    close(model.eval()(X), given(X))
    close(model.train()(X), given(X))
    assert -1 < model[0].bias[1].item() < 1


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc1, self.fc2 = nn.Conv2d(2, 4, 3), nn.Linear(36, 5), nn.Linear(5, 3)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv(x)), 2)
        return self.fc2(F.relu(self.fc1(x.view(x.size(0), -1))))


def test_functional_calls_once_replaced():
    torch.manual_seed(0)
    model = jk.replace_relu(alive(Functional()))
    kill(model.conv, [1])
    model.fc1.bias.data.add_(3)
    kill(model.fc1, [2])
    given = copy.deepcopy(model).eval()
    report = jk.recycle(model, None, record(model, IMAGES))
    assert {name: u.tolist() for name, u in report.by_layer.items()} == {"conv": [1], "fc1": [2]}
    close(model.eval()(IMAGES), given(IMAGES))


def test_compiled():
    model = mlp()
    kill(model[0], [1])
    given = copy.deepcopy(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    compiled(X)
    usage = record(model, X)
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert jk.recycle(compiled, None, usage).total == 1
        close(compiled(X), given(X))
        assert not torch.equal(model[0].weight, given[0].weight)
        close(compiled(10 * X), model(10 * X))


def test_names_of_a_wrapper():
    model = mlp()
    kill(model[0], [1])
    compiled = torch.compile(model)
    usage = record(model, X)
    usage = dataclasses.replace(
        usage, **{field: {f"_orig_mod.{k}": v for k, v in getattr(usage, field).items()} for field in FIELDS}
    )
    assert jk.recycle(compiled, None, usage).recycled["_orig_mod.1"].tolist() == [1]


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
        "recycled: 0; output unchanged by 0, mean kept of 0, changed by 0",
    ]
    assert report.units == {"1": 6, "3": 5} and report.found == {"1": 2, "3": 0}
