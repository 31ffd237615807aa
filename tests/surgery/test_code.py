"""What a forward can reach: every path to a functional ReLU is found; forwards without are not traced."""

import functools
import types

import pytest
import torch
import torch.nn.functional as F
from surgery.models import quietly_replace
from torch import nn
from torch.nn.functional import relu as rectify

import jumpstart_kernels as jk
from jumpstart_kernels.surgery import sites
from jumpstart_kernels.surgery.activations import REPLACEABLE
from jumpstart_kernels.surgery.code import may_call

ACTIVATIONS = {"rectified": F.relu, "none": nn.Identity()}
PARTIAL = functools.partial(F.relu, inplace=False)
NAME = "relu"
helpers = types.ModuleType("helpers")
exec("import torch\ndef activate(x):\n    return torch.relu(x)", vars(helpers))


def activate(x):
    return x.relu()


PARTIAL_OF_FUNCTION = functools.partial(activate)


class Helper:
    """An object that is not a module."""

    function = "relu"

    def apply(self, x):
        return torch.relu(x)


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)


class Alias(Layer):
    def forward(self, x):
        return rectify(self.fc(x))


class InDictionary(Layer):
    def forward(self, x):
        return ACTIVATIONS["rectified"](self.fc(x))


class InList(Layer):
    def __init__(self):
        super().__init__()
        self.functions = [torch.tanh, F.relu]

    def forward(self, x):
        return self.functions[1](self.fc(x))


class Partial(Layer):
    def forward(self, x):
        return PARTIAL(self.fc(x))


class PartialAttribute(Layer):
    def __init__(self):
        super().__init__()
        self.act = functools.partial(torch.relu)

    def forward(self, x):
        return self.act(self.fc(x))


class Default(Layer):
    def run(self, x, function=F.relu):
        return function(self.fc(x))

    def forward(self, x):
        return self.run(x)


class Closure(Layer):
    def forward(self, x):
        def run(y):
            return activate(y)

        return run(self.fc(x))


class ByName(Layer):
    def forward(self, x):
        return getattr(F, "relu")(self.fc(x))  # noqa: B009


class ByNameElsewhere(Layer):
    def forward(self, x):
        return getattr(torch, NAME)(self.fc(x))


class ByNameOfObject(Layer):
    def __init__(self):
        super().__init__()
        self.helper = Helper()

    def forward(self, x):
        return getattr(F, self.helper.function)(self.fc(x))


class OtherModule(Layer):
    def forward(self, x):
        return helpers.activate(self.fc(x))


class OtherObject(Layer):
    def __init__(self):
        super().__init__()
        self.helper = Helper()

    def forward(self, x):
        return self.helper.apply(self.fc(x))


class StaticMethod(Layer):
    @staticmethod
    def run(x):
        return torch.relu(x)

    def forward(self, x):
        return self.run(self.fc(x))


class Property(Layer):
    @property
    def function(self):
        return F.relu

    def forward(self, x):
        return self.function(self.fc(x))


class Attending(Layer):
    def attend(self, x):
        return torch.relu(self.fc(x))


class MethodOfChild(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([Attending()])

    def forward(self, x):
        for layer in self.layers:
            x = layer.attend(x)
        return x


class Lambdas(Layer):
    def __init__(self):
        super().__init__()
        self.functions = {"rectified": [lambda x: torch.relu(x)]}

    def forward(self, x):
        return self.functions["rectified"][0](self.fc(x))


class PartialOfFunction(Layer):
    def forward(self, x):
        return PARTIAL_OF_FUNCTION(self.fc(x))


class Callable(Layer):
    """An object that is called like a function."""

    class Rectifier:
        def __call__(self, x):
            return F.relu(x)

    def __init__(self):
        super().__init__()
        self.act = self.Rectifier()

    def forward(self, x):
        return self.act(self.fc(x))


class ImportedInside(Layer):
    def forward(self, x):
        from torch.nn.functional import relu

        return relu(self.fc(x))


def make_class_with_an_empty_closure():
    class EmptyClosure(Layer):
        def forward(self, x):
            return torch.relu(self.fc(x)) if len(self._modules) else later

    if not EmptyClosure:
        later = None
    return EmptyClosure


class Constants(Layer):
    """Constants of every kind before the call."""

    def forward(self, x, sizes=()):
        sizes = sizes or (1,)
        return torch.relu(self.fc(x)) if sizes != () else x


class Inherited(Alias):
    def forward(self, x):
        return super().forward(x)


class Unbound(Layer):
    def forward(self, x):
        return torch.Tensor.relu(self.fc(x))


WAYS = [
    Alias,
    InDictionary,
    InList,
    Partial,
    PartialAttribute,
    Default,
    Closure,
    ByName,
    ByNameElsewhere,
    ByNameOfObject,
    OtherModule,
    OtherObject,
    StaticMethod,
    Property,
    MethodOfChild,
    Callable,
    Constants,
    make_class_with_an_empty_closure(),
    ImportedInside,
    Inherited,
    Lambdas,
    PartialOfFunction,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_every_way_to_a_functional_relu_is_found(way):
    torch.manual_seed(0)
    model, x = way(), torch.randn(5, 4)
    expected = model(x)
    assert may_call(model, (REPLACEABLE["relu"],))
    assert [site.reason for site in jk.find_relu(model)] == [""]
    assert torch.equal(quietly_replace(model)(x), expected)
    assert jk.penalty(model).isfinite()


class Made(Layer):
    def forward(self, x):
        return nn.ReLU()(self.fc(x))


class Unregistered(Layer):
    def __init__(self):
        super().__init__()
        self.functions = [nn.ReLU()]

    def forward(self, x):
        return self.functions[0](self.fc(x))


class UntraceableByName(Layer):
    def __init__(self):
        super().__init__()
        self.act = "relu"

    def forward(self, x):
        return getattr(F, self.act)(self.fc(x) if len(x) else x)


@torch.jit.script
def scripted(x):
    return torch.relu(x)


class Scripted(Layer):
    def forward(self, x):
        return scripted(self.fc(x))


HIDDEN = [Unbound, Made, Unregistered, UntraceableByName, Scripted]


@pytest.mark.parametrize("way", HIDDEN, ids=lambda way: way.__name__)
def test_what_does_not_trace_is_found_too(way):
    (site,) = jk.find_relu(way())
    assert (site.kind, site.unit_dim) == ("call", None) and "torch.fx cannot trace its forward" in site.reason


class Block(nn.Module):
    """The typical model: modules, and a name looked up on ``self``."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.relu = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU()

    def forward(self, x):
        shortcut = getattr(self, "shortcut", None)
        y = self.relu(self.norm(self.conv(x)))
        return x + y if shortcut is None else shortcut(x) + y


def test_what_has_no_functional_relu_is_not_traced(monkeypatch):
    def fail(*_):
        raise AssertionError("a module without a functional ReLU is traced")

    monkeypatch.setattr(sites, "trace_forward", fail)
    quietly_replace(nn.Sequential(Block(), Block()))
    with pytest.raises(AssertionError, match="is traced"):
        quietly_replace(Alias())
