"""What find_relu and replace_relu find, what they report as left unchanged, and their errors."""

import copy
import logging
import random
import sys

import pytest
import torch
import torch.nn.functional as F
from surgery.models import (
    UNTRACEABLE,
    FunctionalCNN,
    OneLayer,
    SharpReLU,
    Sizes,
    build,
    fingerprint,
    mlp,
    nested,
    quietly_replace,
    run,
)
from torch import Tensor, nn

from jumpstart_kernels import JumpstartReLU, penalty
from jumpstart_kernels.nn.records import unwind
from jumpstart_kernels.surgery import Site, find_relu, replace_relu, restore_relu


def test_sites_of_functional_model():
    model = build(FunctionalCNN)
    before = fingerprint(model)
    assert find_relu(model) == [Site("", "call", "", unit_dim) for unit_dim in (-3, -3, -1, -1)]
    assert fingerprint(model) == before
    quietly_replace(model)
    names = [name for name, module in model.named_modules() if isinstance(module, JumpstartReLU)]
    assert names == [f"jumpstart_relu_{i}" for i in range(4)]
    assert [model.get_submodule(name).inplace for name in names] == [False, False, True, True]
    assert find_relu(model) == []
    assert type(model) is FunctionalCNN and "unused" in dict(model.named_parameters())


@pytest.mark.parametrize("model_class", UNTRACEABLE, ids=lambda model_class: model_class.__name__)
def test_untraceable_is_reported_and_works(model_class):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), build(model_class))
    plain = copy.deepcopy(model)
    before = fingerprint(model)
    states = random.getstate(), torch.get_rng_state()
    sites = find_relu(model)
    assert fingerprint(model) == before  # tracing left nothing behind
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])
    assert "isinstance" not in vars(sys.modules[model_class.__module__])
    assert [(site.name, site.kind) for site in sites] == [("1", "module"), ("2", "call")]
    assert UNTRACEABLE[model_class] in sites[1].reason
    with pytest.warns(UserWarning) as caught:
        replace_relu(model)
    assert len(caught) == 1 and "2 (call): " in str(caught[0].message)
    assert UNTRACEABLE[model_class] in str(caught[0].message)
    assert caught[0].filename == __file__
    assert type(model[1]) is JumpstartReLU and len(list(model[2].children())) == 1
    x = torch.randn(5, 4)
    assert torch.equal(run(copy.deepcopy(model), x), run(plain, x))
    assert fingerprint(restore_relu(model)) == before


def test_untraceable_without_relu_is_not_reported():
    class Branches(OneLayer):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU()

        def forward(self, x):
            x = self.relu(self.fc(x))
            return x if x.sum() > 0 else -x

    model = quietly_replace(Branches())
    assert type(model.relu) is JumpstartReLU


@pytest.mark.parametrize("kind", [SharpReLU, nn.RNN, nn.RNNCell, torch.jit.script])
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_irreplaceable_modules_are_reported(kind):
    if kind is torch.jit.script:
        module, reason = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ReLU())), "TorchScript"
    elif kind is SharpReLU:
        module, reason = SharpReLU(), "subclass of nn.ReLU"
    else:
        module, reason = kind(4, 4, nonlinearity="relu"), "inside its kernel"
    model = nn.ModuleDict({"odd": module, "plain": nn.ReLU()})
    with pytest.warns(UserWarning, match=rf"could not replace\n  odd \(module\): .*{reason}"):
        replace_relu(model)
    assert type(model["plain"]) is JumpstartReLU
    assert model["odd"] is module and not any(type(m) is JumpstartReLU for m in module.modules())


def test_tanh_rnn_and_scripted_linear_are_not_reported():
    quietly_replace(nn.ModuleList([nn.RNN(4, 4), nn.RNNCell(4, 4), nn.ReLU()]))


def test_says_what_it_replaced(caplog):
    with caplog.at_level(logging.INFO, "jumpstart_kernels"):
        replace_relu(nested())
    assert caplog.messages == [
        "replaced 5 ReLUs: 1 x 0.act (attribute, unit_dim -1), 1 x 0.act_ (attribute, unit_dim -1), "
        "1 x 1.1 (module, unit_dim -1), 2 x 2 (call, unit_dim -1)"
    ]


def test_nothing_found_warns():
    with pytest.warns(UserWarning, match="found no ReLU in the model"):
        replace_relu(nn.Linear(2, 2))
    model = quietly_replace(mlp())
    assert quietly_replace(model, margin=3.0)[1].margin == 1.0  # replaced before: left as it is


@pytest.mark.parametrize("by", ["name", "type", "module"])
def test_skip(by):
    model = nested()
    before = fingerprint(model[2])
    entry = {"name": "2", "type": Sizes, "module": model[2]}[by]
    quietly_replace(model, skip=[entry, "1.1"])
    assert fingerprint(model[2]) == before
    assert type(model[1][1]) is nn.ReLU
    assert type(model[0].act) is JumpstartReLU


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"skip": ["nope"]}, ValueError, "no module of the model matches 'nope'"),
        ({"skip": [nn.Conv2d]}, ValueError, "matches the type Conv2d"),
        ({"skip": [nn.ReLU()]}, ValueError, "matches this ReLU module"),
        ({"skip": "1"}, TypeError, "skip must be a list or tuple"),
        ({"skip": [3]}, TypeError, "skip must contain names of modules, module types or modules, got 3"),
        ({"margins": 1.0}, TypeError, "unknown option 'margins': replace_relu takes skip, unit_dim, points"),
        ({"inplace": True}, TypeError, "unknown option 'inplace'"),
        ({"margin": -1.0}, ValueError, "margin must be"),
        ({"points": "pixel"}, ValueError, "points must be one of"),
        ({"unit_dim": 1.0}, TypeError, "unit_dim must be an int"),
    ],
)
def test_errors_leave_the_model_alone(arguments, error, text):
    model = nested()
    before = fingerprint(model)
    with pytest.raises(error, match=text):
        replace_relu(model, **arguments)
    assert fingerprint(model) == before


def test_failure_half_way_leaves_the_model_alone(monkeypatch):
    from jumpstart_kernels.surgery import forward

    def fail(*_):
        raise KeyboardInterrupt

    model = nested()
    before = fingerprint(model)
    monkeypatch.setattr(forward.fx, "GraphModule", fail)
    with pytest.raises(KeyboardInterrupt):
        replace_relu(model)
    assert fingerprint(model) == before


@pytest.mark.parametrize("function", [replace_relu, restore_relu, find_relu])
def test_model_must_be_a_module(function):
    with pytest.raises(TypeError, match="model must be a torch.nn.Module, got function"):
        function(F.relu)


def test_attribute_that_the_class_has_too_is_found_as_a_call():
    class Overridden(OneLayer):
        act = staticmethod(torch.sigmoid)

        def __init__(self):
            super().__init__()
            self.act = F.relu

        def forward(self, x):
            return self.act(self.fc(x))

    model, x = build(Overridden), torch.randn(3, 4)
    expected = model(x)
    assert find_relu(model) == [Site("", "call", "", -1)]
    assert torch.equal(quietly_replace(model)(x), expected)
    assert penalty(model).isfinite() and restore_relu(model).act is F.relu


def test_inlined_child_forward_is_recorded():
    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Sizes(nn.Linear(4, 4))

        def forward(self, x):
            return torch.relu(self.inner.forward(x) - 0.1)

    model, x = build(Outer), torch.randn(3, 4)
    expected = model(x)
    for replaced in (quietly_replace(model), copy.deepcopy(model)):
        assert torch.equal(replaced(x), expected)
        assert (
            sum(len(list(unwind(m._records))) for m in replaced.modules() if isinstance(m, JumpstartReLU))
            == 2
        )


class AtenReLU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.aten.relu(self.linear(x)) + torch.ops.aten.relu.default(-self.linear(x))


def test_calls_of_aten_operators_are_replaced():
    model = AtenReLU()
    x = torch.randn(5, 3)
    expected = model(x)
    assert torch.equal(replace_relu(model)(x), expected)
    assert penalty(model) > 0
    assert len([module for module in model.modules() if isinstance(module, JumpstartReLU)]) == 2
