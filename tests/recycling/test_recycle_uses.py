"""recycle on models that are watched, replaced, compiled."""

import copy
import dataclasses

import pytest
import torch
from recycling.recorded import kill, record
from recycling.recycle_models import IMAGES, Functional, X, alive, close, mlp

import jumpstart_kernels as jk

FIELDS = ("unit_status", "dormancy", "unit_mean")


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
