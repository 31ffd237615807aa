"""What recycle leaves, with the reason, and what it refuses before anything changes."""

import copy
import dataclasses

import pytest
import torch
import torch.nn.functional as F
from recycling.recorded import kill, record, same, snapshot, trained
from torch import nn
from torch.nn.utils import parametrizations, prune

import jumpstart_kernels as jk

X = torch.randn(64, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


class Between(nn.Module):
    """A layer whose unit is dead, and what is done with its units."""

    def __init__(self, change, layers=(), activation=None):
        super().__init__()
        self.a, self.relu, self.b = nn.Linear(4, 6), activation or nn.ReLU(), nn.Linear(6, 3)
        self.layers = nn.ModuleList(layers)
        self.change = change

    def forward(self, x):
        return self.change(self, x)


def plain(m, x):
    return m.b(m.relu(m.a(x)))


def tied(m):
    m.layers.append(nn.Linear(4, 6))
    m.layers[0].weight = m.a.weight


def frozen(name):
    return lambda m: m.get_parameter(name).requires_grad_(False)


# What the forward does, more layers, what is done to the model, and the reason.
LEFT = {
    "residual": (
        lambda m, x: m.b(m.relu(m.a(x) + m.layers[0](x))),
        [nn.Linear(4, 6)],
        None,
        "add joins them with those of layers.0",
    ),
    "residual behind": (
        lambda m, x: m.b(m.relu(m.a(x)) + m.layers[0](x)),
        [nn.Linear(4, 6)],
        None,
        "add joins them with those of layers.0",
    ),
    "around the activation": (
        lambda m, x: m.b(m.relu(y := m.a(x)) + y),
        [],
        None,
        "b reads them where they have passed no activation of the report",
    ),
    "read before": (
        lambda m, x: (y := m.a(x), m.b(m.relu(y)) + m.layers[0](y))[1],
        [nn.Linear(6, 3)],
        None,
        "layers.0 reads them where they have passed no activation of the report",
    ),
    "another activation": (
        lambda m, x: (y := m.a(x), m.b(m.relu(y)) + m.layers[0](F.relu(-y)))[1],
        [nn.Linear(6, 3)],
        None,
        "layers.0 reads them where they have passed no activation of the report",
    ),
    "sliced": (
        lambda m, x: (y := m.relu(m.a(x)), m.b(y) + y[:, :3])[1],
        [],
        None,
        "getitem is no call that it can follow",
    ),
    "output": (lambda m, x: m.relu(m.a(x)), [], None, "the model returns them"),
    "layer norm": (
        lambda m, x: m.b(m.relu(m.layers[0](m.a(x)))),
        [nn.LayerNorm(6)],
        lambda m: m.layers[0].bias.data[1].sub_(1e3),
        "layers.0 (LayerNorm) may mix them with others",
    ),
    "layer norm behind": (
        lambda m, x: m.b(m.layers[0](m.relu(m.a(x)))),
        [nn.LayerNorm(6)],
        None,
        "layers.0 (LayerNorm) may mix them with others",
    ),
    "group norm": (
        lambda m, x: m.b(m.relu(m.layers[0](m.a(x)))),
        [nn.GroupNorm(2, 6)],
        lambda m: m.layers[0].bias.data[1].sub_(1e3),
        "layers.0 (GroupNorm) normalizes them together with others",
    ),
    "softmax": (
        lambda m, x: m.b(m.relu(m.a(x)).softmax(1)),
        [],
        None,
        "softmax is no call that it can follow",
    ),
    "a scale of a constant": (
        lambda m, x: m.b(m.relu(m.a(x)) + 0.5),
        [],
        None,
        "it does not know what is left of their mean where b reads it",
    ),
    "called twice": (
        lambda m, x: m.b(m.relu(m.a(x))) + m.b(F.relu(m.a(-x))),
        [],
        None,
        "a is called several times",
    ),
    "tied": (plain, [], tied, "a: its parameters are used elsewhere, too"),
    "parametrized reader": (
        plain,
        [],
        lambda m: parametrizations.weight_norm(m.b),
        "b (ParametrizedLinear) may mix them with others",
    ),
    "masked": (
        plain,
        [],
        lambda m: prune.random_unstructured(m.b, "weight", 0.5),
        "b: it has masks of torch.nn.utils.prune, which must be removed first",
    ),
    "hooked": (plain, [], lambda m: m.a.register_forward_hook(lambda *_: None), "a: it has hooks"),
    "frozen weight": (plain, [], frozen("a.weight"), "a.weight is frozen"),
    "frozen bias": (plain, [], frozen("a.bias"), "a.bias is frozen"),
    "frozen reader": (plain, [], frozen("b.weight"), "b.weight is frozen"),
    "no reader": (
        lambda m, x: (m.relu(m.a(x)).detach(), m.layers[0](x))[1],
        [nn.Linear(4, 3)],
        None,
        "no layer reads them",
    ),
    "unknown reader": (
        lambda m, x: m.relu(m.a(x)) @ m.b.weight.T,
        [],
        None,
        "matmul is no call that it can follow",
    ),
}


@pytest.mark.parametrize("name", LEFT)
def test_left(name):
    change, layers, prepare, reason = LEFT[name]
    torch.manual_seed(0)
    model = Between(change, copy.deepcopy(layers)).double()
    nn.init.uniform_(model.a.bias, 1, 2)
    kill(model.a, [1])
    if prepare is not None:
        prepare(model)
    usage = record(model, X)
    assert bool(usage.dormant(0)["relu"][1])
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad])
    before = snapshot(model, optimizer)
    report = jk.recycle(model, optimizer, usage, tau=0)
    assert same(snapshot(model, optimizer), before)
    assert report.total == 0 and report.found["relu"] >= 1
    assert list(report.left["relu"]) == [reason]


def test_parametrized_producer():
    model = Between(plain).double()
    kill(model.a, [1])
    parametrizations.spectral_norm(model.a)
    report = jk.recycle(model, None, record(model, X), tau=0)
    assert report.total == 0
    assert list(report.left["relu"]) == ["they pass a (ParametrizedLinear)"]


@pytest.mark.parametrize("groups", [2, 6])
def test_groups(groups):
    x = torch.randn(8, 2, 6, 6, dtype=torch.float64)
    model = nn.Sequential(
        *(nn.Conv2d(2, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=groups), nn.ReLU(), nn.Conv2d(6, 2, 1))
    ).double()
    kill(model[0], [1])
    kill(model[2], [2])
    report = jk.recycle(model, None, record(model, x), tau=0)
    assert report.total == 0
    assert {str(reasons) for reasons in map(list, report.left.values())} == {
        "['it is read by 2 has groups']",
        "['2 has groups']",
    }


def test_linked():
    model = nn.Sequential(
        nn.Linear(4, 3), jk.LinkedReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)
    ).double()
    kill(model[0], [1])
    usage = record(model, X, activations=(jk.LinkedReLU, nn.ReLU))
    report = jk.recycle(model, None, usage, tau=0)
    assert "0" not in report.by_layer and list(report.left["1"]) == ["they are linked"]


def test_dead_is_not_silent():
    model = nn.Sequential(nn.Linear(4, 6), nn.LeakyReLU(), nn.Linear(6, 3)).double()
    kill(model[0], [1])
    report = jk.recycle(model, None, record(model, X), status="dead")
    assert report.left["1"] == {"a dead unit of LeakyReLU is not constant: status='dormant'": 1}


def test_two_producers_of_a_set_are_left():
    """Even where all of them are dead: they would share their rows' zeros, but not their sum's reader."""
    model = Between(lambda m, x: m.b(m.relu(m.a(x) + m.layers[0](x))), [nn.Linear(4, 6)]).double()
    kill(model.a, [1])
    kill(model.layers[0], [1])
    assert jk.recycle(model, None, record(model, X), tau=0).total == 0


class Modes(nn.Module):
    """Returns its units if asked to, or in training."""

    def __init__(self, how):
        super().__init__()
        self.a, self.relu, self.b, self.how = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3), how

    def forward(self, x, features=False):
        x = self.relu(self.a(x))
        if features if self.how == "flag" else self.training:
            return self.b(x), x
        return self.b(x)


@pytest.mark.parametrize("how", ["flag", "mode"])
def test_other_calls_count(how):
    model = Modes(how).double()
    kill(model.a, [1])
    report = jk.recycle(model, None, record(model, X), tau=0)
    assert list(report.left["relu"]) == ["the model returns them"]


def usage_without(model, **changes):
    return dataclasses.replace(record(model, X), **changes)


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.relu, self.b = nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)

    def forward(self, x):
        return self.b(self.relu(self.a(x))) if x.sum() > 0 else self.b(self.relu(self.a(-x)))


REFUSED = {
    "model": (lambda m: {"model": 3}, TypeError, "model"),
    "optimizer": (lambda m: {"optimizer": "adam"}, TypeError, "optimizer must be a torch.optim.Optimizer"),
    "other optimizer": (
        lambda m: {"optimizer": torch.optim.SGD(nn.Linear(2, 2).parameters(), 0.1)},
        ValueError,
        "optimizer must hold parameters of model",
    ),
    "lbfgs": (lambda m: {"optimizer": torch.optim.LBFGS(m.parameters())}, ValueError, "LBFGS"),
    "usage": (lambda m: {"usage": {"relu": 1}}, TypeError, "usage must be a UsageReport"),
    "no scores": (lambda m: {"usage": usage_without(m, dormancy={})}, ValueError, "no dormancy scores"),
    "no means": (
        lambda m: {"usage": usage_without(m, unit_mean={})},
        ValueError,
        "usage must have unit_mean of '1'",
    ),
    "other model": (
        lambda m: {"usage": usage_without(m, dormancy={"relu9": torch.zeros(6)}, unit_mean={"relu9": 0})},
        ValueError,
        "usage must be of model, which has no layer 'relu9'",
    ),
    "tau": (lambda m: {"tau": -1}, ValueError, "tau must be"),
    "tau of a wrong type": (lambda m: {"tau": "0.1"}, TypeError, "tau must be"),
    "status": (lambda m: {"status": "linear"}, ValueError, "status must be one of 'dormant', 'dead'"),
    "keep_mean": (lambda m: {"keep_mean": 1}, TypeError, "keep_mean must be a bool"),
    "optimizer_state": (lambda m: {"optimizer_state": "keep"}, ValueError, "optimizer_state must be one of"),
    "initialize": (lambda m: {"initialize": "he"}, TypeError, "initialize must be callable"),
    "a bad initialize": (
        lambda m: {"initialize": lambda new: new.weight.fill_(torch.nan)},
        ValueError,
        "initialize must give finite weights",
    ),
    "generator": (lambda m: {"generator": 3}, TypeError, "generator must be a torch.Generator"),
    "meta": (lambda m: {"model": copy.deepcopy(m).to("meta"), "optimizer": None}, ValueError, "meta device"),
    "example_inputs": (
        lambda m: {"example_inputs": torch.randn(2, 7)},
        ValueError,
        "example_inputs do not run",
    ),
    "wrapped inside": (
        lambda m: {"model": nn.Sequential(nn.DataParallel(m)), "optimizer": None},
        ValueError,
        "the module '0' is a DataParallel",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    change, error, message = REFUSED[name]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).double()
    kill(model[0], [1])
    optimizer = trained(model, X)
    arguments = {"model": model, "optimizer": optimizer, "usage": record(model, X), **change(model)}
    before = snapshot(model, optimizer)
    with pytest.raises(error, match=message):
        jk.recycle(**arguments)
    after = snapshot(model, optimizer)
    assert same(after[:4], before[:4])


def test_untraceable():
    model = Branching().double()
    kill(model.a, [1])
    with pytest.raises(ValueError, match="model cannot be traced: .*; example_inputs may tell"):
        jk.recycle(model, None, record(model, X))


def test_sharded():
    class FullyShardedDataParallel(nn.Sequential):
        """As PyTorch's is named, which needs processes."""

    model = nn.Sequential(FullyShardedDataParallel(nn.Linear(4, 6), nn.ReLU()), nn.Linear(6, 3)).double()
    with pytest.raises(ValueError, match=r"model is sharded \(FSDP, tensor parallelism\)"):
        jk.recycle(model, None, record(model, X))


class Routes(nn.Module):
    """What the last layer, or the norm, reads depends on the mode."""

    def __init__(self, norm: bool) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 2)
        self.act, self.other = nn.ReLU(), nn.ReLU()
        self.norm = nn.BatchNorm1d(6) if norm else nn.Identity()

    def forward(self, x):
        x = self.act(self.first(x))
        if self.training:
            x = self.other(self.second(x))
        return self.last(self.norm(x))


@pytest.mark.parametrize("norm", [False, True])
def test_a_layer_that_reads_others_in_another_mode(norm):
    torch.manual_seed(0)
    model = Routes(norm).double()
    kill(model.first, [2])
    kill(model.second, [5])
    x = torch.randn(40, 3, dtype=torch.float64)
    with jk.watch(model, every=1, window=1, samples=0) as watch:
        model(x)
        outputs = model.eval()(x)
        report = jk.recycle(model, None, watch, tau=0.0)
    assert torch.equal(model(x), outputs)
    assert report.total == 0 and "in another mode or call" in str(report)
