"""The table of activations that replace_relu can replace, with a row added for one that has an argument."""

import copy
import functools
import logging
import pickle

import pytest
import torch
import torch.nn.functional as F
from surgery.models import build, fingerprint, mlp, nested, quietly_replace
from torch import nn

from jumpstart_kernels import JumpstartReLU, penalty
from jumpstart_kernels.nn.activation import JumpstartActivation
from jumpstart_kernels.surgery import Site, find_relu, replace_relu, restore_relu
from jumpstart_kernels.surgery.activations import REPLACEABLE, Replaceable
from jumpstart_kernels.surgery.code import may_call


class JumpstartELU(JumpstartActivation, nn.ELU):
    """Computes a ReLU, whatever alpha is: that is an ELU whose alpha is 0."""

    activation, plain, parameter_name = "relu", nn.ELU, "alpha"

    def __init__(self, alpha=1.0, inplace=False, **options):
        if alpha < 0:
            raise ValueError(f"alpha must not be negative, got {alpha}")
        nn.ELU.__init__(self, alpha, inplace)
        self._set_options(
            **{"unit_dim": 1, "points": "sample", "margin": 1.0, "tie_breaking": "single", **options}
        )


@pytest.fixture
def elu(monkeypatch):
    row = Replaceable.by(JumpstartELU)._replace(name="elu")
    monkeypatch.setitem(REPLACEABLE, "elu", row)
    return row


class SharpELU(nn.ELU):
    def forward(self, x):
        return super().forward(x) * 2


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)


class Calls(Layer):
    """Every way to give alpha, and a ReLU between."""

    def forward(self, x, mask=None):
        x = F.elu(self.fc(x), 0.0) - 0.1
        x = torch.relu(F.elu(input=x + 0.2, inplace=True, alpha=0) - 0.1)
        x = F.elu_(x - 0.1, 0.0) + torch.ops.aten.elu(self.fc(x), 0.0)
        if mask is not None:
            x = x * F.elu(mask, alpha=0.0)
        return torch.ops.aten.elu_.default(self.fc(x), 0.0) + x


class Modules(nn.Sequential):
    def __init__(self):
        shared = nn.ELU(0.0, inplace=True)
        super().__init__(nn.Linear(4, 4), shared, Calls(), nn.ReLU(), nn.Linear(4, 4), shared)


def names_by_type(model, kind):
    return [name for name, module in model.named_modules() if type(module) is kind]


def test_names_of_relu():
    aten = torch.ops.aten
    plain = dict.fromkeys([F.relu, torch.relu, aten.relu, aten.relu.default], False)
    assert REPLACEABLE["relu"].functions == {
        **plain,
        **dict.fromkeys([torch.relu_, aten.relu_, aten.relu_.default], True),
    }
    assert REPLACEABLE["relu"].methods == {"relu": False, "relu_": True}


def test_names_of_an_activation_without_methods(elu):
    aten = torch.ops.aten
    plain = dict.fromkeys([F.elu, aten.elu, aten.elu.default], False)
    assert elu.functions == {**plain, **dict.fromkeys([F.elu_, aten.elu_, aten.elu_.default], True)}
    assert elu.methods == {}


@pytest.mark.parametrize("function", [find_relu, replace_relu])
@pytest.mark.parametrize(
    ("activations", "error", "text"),
    [
        ("relu", TypeError, "activations must be a list or tuple of names, got 'relu'"),
        (None, TypeError, "activations must be a list or tuple of names, got None"),
        ([F.relu], TypeError, "activations takes names, of 'relu'.*, got <function"),
        ([nn.ReLU], TypeError, "activations takes names, of 'relu'.*, got <class"),
        (["relu", "rely"], ValueError, "activations must be of 'relu'.*, got 'rely'"),
        ((), ValueError, r"activations must name at least one of 'relu'.*, got \(\)"),
    ],
)
def test_errors_leave_the_model_alone(function, activations, error, text):
    model = nested()
    before = fingerprint(model)
    with pytest.raises(error, match=text):
        function(model, activations=activations)
    assert fingerprint(model) == before


def test_others_are_found_only_if_asked_for(elu, caplog):
    model = Modules()
    relus = [Site("2", "call", "", -1), Site("3", "module", "", -1)]
    elus = [Site("1", "module", "", -1), *[Site("2", "call", "", -1)] * 5]
    assert find_relu(model) == find_relu(model, activations=["relu"] * 2) == relus
    assert find_relu(model, activations=["elu"]) == elus
    assert find_relu(model, activations=("elu", "relu")) == [*elus, *relus]
    with caplog.at_level(logging.INFO, "jumpstart_kernels"):
        quietly_replace(model, activations=iter(["elu", "relu"]))
    assert caplog.messages == [
        "replaced 8 ELUs and ReLUs: 1 x 1 (module, unit_dim -1), 6 x 2 (call, unit_dim -1), "
        "1 x 3 (module, unit_dim -1)"
    ]
    assert find_relu(model, activations=["elu", "relu"]) == []


def test_nothing_found_warns(elu):
    with pytest.warns(UserWarning, match="found no ReLU in the model"):
        replace_relu(nn.Sequential(nn.ELU()))
    model = quietly_replace(mlp())
    with pytest.warns(UserWarning, match="found no ELU in the model"):
        replace_relu(model, activations=["elu"])
    with pytest.warns(UserWarning, match="found no ReLU or ELU in the model"):
        replace_relu(nn.Linear(2, 2), activations=["relu", "elu"])
    quietly_replace(model, activations=["elu", "relu"])


@pytest.mark.parametrize("activations", [["relu"], ["elu"], ["elu", "relu"]])
def test_round_trip_is_exact(elu, activations):
    model, x, mask = build(Modules), torch.randn(5, 4), torch.randn(5, 4)
    before, expected = fingerprint(model), model(x)
    plain = copy.deepcopy(model)
    quietly_replace(model, activations=activations)
    assert names_by_type(model, JumpstartReLU) == (
        ["2.jumpstart_relu_0", "3"] if "relu" in activations else []
    )
    elus = ["1", *(f"2.jumpstart_elu_{i}" for i in range(5))]
    assert names_by_type(model, JumpstartELU) == (elus if "elu" in activations else [])
    for other in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other(x), expected)
        assert penalty(other).isfinite()
        # Another trace, by the copy's own activations. It adds a layer for the mask.
        assert torch.equal(other[2](x, mask), plain[2](x, mask))
        kinds = names_by_type(other, JumpstartELU), names_by_type(other, JumpstartReLU)
        assert [len(names) for names in kinds] == [7 * ("elu" in activations), 2 * ("relu" in activations)]
        restored = restore_relu(other)
        assert repr(restored) == repr(plain) and torch.equal(restored(x), expected)
    assert fingerprint(model) == before


def test_arguments_reach_the_layer(elu):
    class Alphas(Layer):
        def __init__(self):
            super().__init__()
            self.alpha = 0.5

        def forward(self, x):
            x = F.elu(F.elu(self.fc(x)), self.alpha, True)
            return F.elu(input=torch.ops.aten.elu(x, alpha=2), alpha=3.0) + F.elu_(x)

    model = quietly_replace(nn.Sequential(nn.ELU(0.25), Alphas()), activations=["elu"], margin=2.0)
    layers = [module for module in model.modules() if isinstance(module, JumpstartELU)]
    arguments = [(layer.alpha, layer.inplace) for layer in layers]
    assert arguments == [(0.25, False), (1.0, False), (0.5, True), (2, False), (3.0, False), (1.0, True)]
    assert {layer.margin for layer in layers} == {2.0}
    assert restore_relu(model)[0].alpha == 0.25 and type(model[0]) is nn.ELU


def test_computed_arguments_are_untraceable(elu):
    class Computed(Layer):
        def forward(self, x):
            return F.elu(torch.relu(self.fc(x)), self.fc.bias.sum())

    model = Computed()
    (site,) = find_relu(model, activations=["elu", "relu"])
    assert site == Site("", "call", "its forward computes the argument alpha of a ELU")
    assert find_relu(model) == [Site("", "call", "", -1)]


def test_arguments_that_the_layer_refuses_are_reported(elu):
    class Negative(Layer):
        def forward(self, x):
            return F.elu(self.fc(x), -1.0)

    model = nn.Sequential(nn.ELU(-0.5), nn.ELU(), Negative())
    with pytest.warns(UserWarning, match=r"  0 \(module\): alpha must not.*\n  2 \(call\): alpha must not"):
        replace_relu(model, activations=["elu"])
    assert [type(module) for module in model] == [nn.ELU, JumpstartELU, Negative]


def test_own_layer_becomes_the_plain_module(elu):
    (plain,) = restore_relu(nn.Sequential(JumpstartELU(0.5, inplace=True, margin=2.0)))
    assert type(plain) is nn.ELU and (plain.alpha, plain.inplace) == (0.5, True)
    assert list(vars(plain)) == list(vars(nn.ELU()))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_irreplaceable_modules_are_reported_only_if_asked_for(elu):
    scripted = torch.jit.script(nn.Sequential(nn.Linear(4, 4), nn.ELU()))
    model = nn.ModuleList([SharpELU(), nn.RNN(4, 4, nonlinearity="relu"), scripted])
    reasons = [site.reason for site in find_relu(model, activations=["elu"])]
    assert reasons == [
        "SharpELU is a subclass of nn.ELU: it may do something else",
        "it is TorchScript: replace before scripting or tracing",
    ]
    assert [site.reason for site in find_relu(model)] == ["the ReLU of an RNN is inside its kernel"]


class Attribute(Layer):
    """Its calls give the function an argument, which a submodule would not take."""

    def __init__(self):
        super().__init__()
        self.act = F.elu

    def forward(self, x):
        return self.act(self.fc(x), 0.0)


def test_attributes_with_arguments_are_calls_in_a_forward_of_ones_own(elu):
    transformer = nn.TransformerEncoderLayer(4, 2, 8, activation=F.elu, dropout=0.0, batch_first=True)
    model, x = nn.Sequential(build(Attribute), transformer), torch.randn(3, 5, 4)
    before, expected = fingerprint(model), model[0](x)
    assert find_relu(model) == []
    assert find_relu(model, activations=["elu"]) == [
        Site("0", "call", "", -1),
        Site("1.activation", "attribute", "", -1),
    ]
    quietly_replace(model, activations=["elu"])
    assert torch.equal(model[0](x), expected)
    assert (model[0].act, type(transformer.activation)) == (F.elu, JumpstartELU)
    assert model[0].jumpstart_elu_0.alpha == 0.0
    model(x)
    assert penalty(model).isfinite()
    assert fingerprint(restore_relu(model)) == before


class ByName(Layer):
    def forward(self, x):
        return getattr(F, "elu")(self.fc(x))  # noqa: B009


class Made(Layer):
    def forward(self, x):
        return nn.ELU()(self.fc(x))


class Partial(Layer):
    def __init__(self):
        super().__init__()
        self.act = functools.partial(F.elu, alpha=0.5)

    def forward(self, x):
        return self.act(self.fc(x))


class Unregistered(Layer):
    def __init__(self):
        super().__init__()
        self.functions = [nn.ELU()]

    def forward(self, x):
        return self.functions[0](self.fc(x))


@pytest.mark.parametrize("way", [ByName, Made, Partial, Unregistered], ids=lambda way: way.__name__)
def test_what_a_forward_can_call_is_by_activation(elu, way):
    model = way()
    assert may_call(model, (elu,)) and not may_call(model, (REPLACEABLE["relu"],))
    (site,) = find_relu(model, activations=["elu"])
    assert bool(site.reason) == (way in (Made, Unregistered))
    if way is Partial:
        assert quietly_replace(model, activations=["elu"]).jumpstart_elu_0.alpha == 0.5


class CallsBoth(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x):
        return F.leaky_relu(self.second(F.relu(self.first(x))), 0.2)


@pytest.mark.parametrize("names", (("relu", "leaky_relu"), ("leaky_relu", "relu")))
def test_a_forward_replaced_for_one_activation_says_that_it_has_others(names):
    model = quietly_replace(CallsBoth(), activations=names[:1])
    (site,) = find_relu(model, activations=names)
    assert f"replaced already, for {names[0]} and not for {names[1]}" in site.reason
    with pytest.warns(UserWarning, match="restore_relu"):
        replace_relu(model, activations=names[1:])
    assert find_relu(model, activations=names[:1]) == []
    assert len(find_relu(restore_relu(model), activations=names)) == 2


def test_a_changed_option_stays_with_its_call():
    model = quietly_replace(CallsBoth(), activations=("relu", "leaky_relu"))
    model.jumpstart_leaky_relu_0.negative_slope = 0.9
    x = torch.randn(3, 4)
    expected = F.leaky_relu(model.second(F.relu(model.first(x))), 0.9)
    for same in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(same(x), expected) and torch.equal(same(x=x), expected)
        assert [name for name, _ in same.named_children()][2:] == [
            "jumpstart_relu_0",
            "jumpstart_leaky_relu_0",
        ]


@pytest.mark.parametrize("names", ([["relu"]], [7], "relu", []))
def test_wrong_names_are_told(names):
    with pytest.raises((TypeError, ValueError), match="activations"):
        replace_relu(CallsBoth(), activations=names)
