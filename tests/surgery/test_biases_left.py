"""Biases that stay where they are, each for its reason: the model is right in any case."""

import logging
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from fused_bias import draw, results, with_and_without
from surgery.models import quietly_replace
from surgery.test_biases import Modules, names_of
from torch import nn
from torch.nn.utils import parametrize, prune, spectral_norm, weight_norm

from jumpstart_kernels import JumpstartReLU
from jumpstart_kernels.surgery import replace_relu


class Pair(nn.Module):
    """A layer and an activation; subclasses call them."""

    def __init__(self):
        super().__init__()
        self.fc, self.relu = nn.Linear(4, 4), nn.ReLU()

    def forward(self, x):
        return self.relu(self.fc(x))


class TwoConsumers(Pair):
    def forward(self, x):
        x = self.fc(x)
        return self.relu(x) + x


class Returned(Pair):
    def forward(self, x, raw=False):
        x = self.fc(x)
        return x if raw else self.relu(x)


class ReturnedInEval(Pair):
    def forward(self, x):
        x = self.fc(x)
        return self.relu(x) if self.training else (self.relu(x), x)[0]


class ByFlag(Pair):
    def __init__(self):
        super().__init__()
        self.raw = False

    def forward(self, x):
        x = self.fc(x)
        return x if self.raw else self.relu(x)


class ByArgument(Pair):
    def forward(self, x, residual=None):
        x = self.fc(x)
        return self.relu(x) if residual is None else self.relu(x + residual)


class SharedActivation(Pair):
    def forward(self, x):
        return self.relu(self.fc(x)) + self.relu(x)


class SharedLayer(Pair):
    def forward(self, x):
        return self.fc(self.relu(self.fc(x)))


class Between(Pair):
    def forward(self, x):
        return self.relu(self.fc(x) * 2)


class InPlace(Pair):
    def forward(self, x):
        x = self.fc(x)
        x += 1
        return self.relu(x)


class DataDependent(Pair):
    def forward(self, x):
        return self.relu(self.fc(x)) if x.sum() > 100 else self.relu(self.fc(x)) * 2


class ManyArguments(Pair):
    def forward(self, x, *others):
        return self.relu(self.fc(x))


class Functional(Pair):
    def forward(self, x):
        x = self.fc(x)
        return F.relu(x) + self.relu(x)


class Outside(nn.Module):
    """Calls a layer of a block of its own, in a way that names it."""

    def __init__(self):
        super().__init__()
        self.block = Pair()

    def forward(self, x):
        return self.block(x) + self.block.fc(x)


class Indexed(nn.Module):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(4, 4), nn.ReLU())

    def forward(self, x):
        return self.features(x) + self.features[0](x)


class Sliced(Indexed):
    def forward(self, x):
        return self.features(x) + self.features[:1](x)


class Looped(Indexed):
    def forward(self, x):
        found = []
        for layer in self.features:
            x = layer(x)
            found.append(x)
        return sum(found)


class HookedSequence(Indexed):
    """A hook on a sequence sees what its last layer returns."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(4, 4))
        self.features.register_forward_hook(lambda *_: None)
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.features(x))


class LastOfASequence(Indexed):
    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Linear(4, 4))
        self.relu = nn.ReLU()

    def forward(self, x):
        return self.relu(self.features(x)) + self.features[0](x)


class FirstOfASequence(LastOfASequence):
    def __init__(self):
        super().__init__()
        self.relu = nn.Sequential(nn.ReLU(), nn.Linear(4, 4))

    def forward(self, x):
        return self.relu(self.features(x)) + self.relu[0](x)


class Traversed(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = Pair()

    def forward(self, x):
        if x.sum() > 100:
            return x
        layer = next(module for module in self.modules() if isinstance(module, nn.Linear))
        return self.block(x) + layer(x)


LEFT = {
    TwoConsumers: "its output is used elsewhere",
    Returned: "its output is used elsewhere",
    ReturnedInEval: None,
    ByFlag: "cannot be followed",
    ByArgument: "its output is used elsewhere",
    SharedActivation: "its activation is also called elsewhere",
    SharedLayer: "its output is used elsewhere",
    Between: "",
    InPlace: "",
    DataDependent: "cannot be followed",
    ManyArguments: "any number of arguments",
    Functional: "its output is used elsewhere",
    Outside: "calls it, too",
    Indexed: "calls it, too",
    Sliced: "cannot be followed",
    Looped: "calls it, too",
    HookedSequence: "it has hooks",
    LastOfASequence: "calls it, too",
    FirstOfASequence: "calls it, too",
    Traversed: "cannot be followed",
}


@pytest.mark.parametrize("kind", LEFT)
def test_forwards(kind, caplog):
    caplog.set_level(logging.WARNING, "jumpstart_kernels")
    torch.manual_seed(0)
    model, without = with_and_without(kind(), unit_dim=-1)
    reason = LEFT[kind]
    if reason is None:
        assert names_of(model) == ["fc"]
    else:
        assert not names_of(model)
        assert reason in caplog.text and bool(caplog.text) == bool(reason)
    x = draw(5, 4)
    torch.testing.assert_close(*(results(each, x) for each in (model, without)))
    if kind is ByArgument:
        assert torch.equal(model(x, x), without(x, x))
    if kind is Returned:
        assert torch.equal(model(x, True), without(x, True))


def hooked(model):
    model[0].register_forward_hook(lambda *_: None)


def hooked_before(model):
    model[0].register_forward_pre_hook(lambda *_: None)


def hooked_activation(model):
    model[1].register_forward_pre_hook(lambda *_: None)


def wrapped(model):
    model[0].forward = partial(nn.Linear.forward, model[0])


def subclassed(model):
    model[0].__class__ = type("Adapter", (nn.Linear,), {})


def without_bias(model):
    model[0].bias = None


def shared(model):
    model.append(model[0])


def shared_activation(model):
    model.append(model[1])


def doubled(model):
    parametrize.register_parametrization(model[0], "weight", nn.Identity())


def own(model):
    model[1] = JumpstartReLU(unit_dim=-1)


CHANGES = {
    hooked: "it has hooks",
    hooked_before: "it has hooks",
    hooked_activation: "its activation has hooks",
    wrapped: "set by other code",
    subclassed: "",
    without_bias: "",
    shared: "it is shared",
    shared_activation: "its activation is shared",
    doubled: "",
    own: "",
    lambda model: prune.l1_unstructured(model[0], "weight", 2): "it has hooks",
    lambda model: prune.l1_unstructured(model[0], "bias", 2): "",
    lambda model: spectral_norm(model[0]): "it has hooks",
    lambda model: weight_norm(model[0]): "it has hooks",
}


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("change", CHANGES)
def test_layers(change, caplog):
    caplog.set_level(logging.WARNING, "jumpstart_kernels")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4))
    change(model)
    model = replace_relu(model, fuse_bias=True)
    assert not names_of(model)
    reason = CHANGES[change]
    assert reason in caplog.text and bool(caplog.text) == bool(reason)


def test_unit_dim(caplog):
    caplog.set_level(logging.WARNING, "jumpstart_kernels")
    assert not names_of(replace_relu(Modules(), fuse_bias=True, unit_dim=1))
    assert "unit_dim of its activation is 1, not -3" in caplog.text
    assert names_of(replace_relu(Modules(), fuse_bias=True, unit_dim=-3)) == ["conv1", "convs.0", "convs.1"]


def test_skip():
    assert names_of(quietly_replace(Modules(), fuse_bias=True, skip=["conv1", "relus.a"])) == [
        "convs.1",
        "head.1",
    ]


def test_batch_norm_keeps_the_bias():
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU())
    assert not names_of(replace_relu(model, fuse_bias=True))
