"""What link_relu leaves as it is, and says why; errors, after which a model is as before."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from surgery.link_models import (
    Block,
    Functional,
    Residual,
    build,
    conv_net,
    count_linked,
    mlp,
    outputs,
    quietly_link,
)
from surgery.models import UNTRACEABLE
from surgery.models import build as build_plain
from torch import nn

from jumpstart_kernels import LinkedReLU, link_relu
from jumpstart_kernels.surgery.linking import link


def state(model):
    """Everything that must not change: modules and their attributes by identity, and values."""
    modules = [
        (name, type(module), [(key, id(value)) for key, value in vars(module).items()])
        for name, module in model.named_modules(remove_duplicate=False)
    ]
    tensors = model.state_dict(keep_vars=True)
    values = [tensor.detach().clone() for tensor in tensors.values() if not nn.parameter.is_lazy(tensor)]
    return modules, [(name, id(tensor)) for name, tensor in tensors.items()], values


def assert_unchanged(model, before):
    modules, tensors, values = state(model)
    assert (modules, tensors) == before[:2]
    assert all(torch.equal(one, other) for one, other in zip(values, before[2], strict=True))


def left_by(model, **options):
    """The report of what is left."""
    with pytest.warns(UserWarning, match="link_relu has left") as caught:
        link_relu(model, **options)
    assert len(caught) == 1 and caught[0].filename == __file__
    return str(caught[0].message)


class Then(nn.Module):
    """A linear layer, a ReLU and what a test puts behind it."""

    def __init__(self, behind=None):
        super().__init__()
        self.fc, self.relu, self.last = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)
        self.behind = behind
        self.bias = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return self.last(self.behind(self.relu(self.fc(x))))


class Sharp(nn.Linear):
    def forward(self, x):
        return super().forward(x) * 2


class Tied(Then):
    def __init__(self):
        super().__init__(nn.Identity())
        self.last.weight = self.fc.weight


class Reads(Then):
    """Reads the matrix itself."""

    def forward(self, x):
        return F.linear(self.last(self.relu(self.fc(x))), self.last.weight)


class Twice(Then):
    """Calls a layer on linked units and on others."""

    def forward(self, x):
        return self.last(self.relu(self.fc(x))) + self.last(x)


class Sums(Then):
    def forward(self, x):
        return self.relu(self.fc(x)).sum(-1)


class Adds(Then):
    def forward(self, x):
        return self.last(self.relu(self.fc(x)) + self.bias)


class Overwrites(Then):
    """What a ReLU in place overwrites is read behind it, by a view."""

    def forward(self, x):
        x = self.fc(x)
        seen = x.view(-1, 4)
        return self.last(F.relu(x, inplace=True)) + seen


class First(Then):
    def forward(self, x):
        return self.last(self.relu(x))


class Writes(Then):
    """Adds in place to what others read."""

    def forward(self, x):
        y = self.relu(self.fc(x))
        y += x
        return self.last(y) + self.relu(self.fc(y))


def hooked(model):
    model.last.register_forward_hook(lambda *_: None)
    return model


def weight_normed(model):
    nn.utils.parametrizations.weight_norm(model.last)
    return model


LEFT = {
    "softmax": (lambda: Then(nn.Softmax(-1)), "Softmax.* is no layer that it can widen or pass"),
    "layer_norm": (lambda: Then(nn.LayerNorm(4)), "LayerNorm.* is no layer that it can widen or pass"),
    "attention": (lambda: Then(nn.TransformerEncoderLayer(4, 2, 8, 0.0)), "is no layer that it can widen"),
    "subclass": (lambda: Then(Sharp(4, 4)), "no call that it can follow|forward"),
    "tied": (Tied, "its parameters are used elsewhere, too"),
    "reads": (Reads, "its parameters are used elsewhere, too"),
    "twice": (Twice, "it is called on linked units and on others"),
    "sums": (Sums, "sum is over"),
    "adds": (Adds, "it meets what it does not know"),
    "overwrites": (Overwrites, "what it overwrites is read behind it"),
    "first": (First, "does not see which layer before it determines its units"),
    "hooked": (lambda: hooked(Then(nn.Identity())), "it has hooks"),
    "weight_norm": (
        lambda: weight_normed(Then(nn.Identity())),
        "Parametrized.* is no layer",
    ),
    "nothing": (lambda: nn.Sequential(nn.Linear(4, 4), nn.ReLU()), "the model returns it"),
}


@pytest.mark.parametrize("name", LEFT)
def test_leaves_what_it_cannot_follow(name):
    make, reason = LEFT[name]
    model = build_plain(make)
    before = state(model)
    message = left_by(model)
    assert "relu (module)" in message or "1 (module)" in message or "(call 0)" in message
    with pytest.warns(UserWarning, match=reason):
        link_relu(model)
    assert_unchanged(model, before)
    assert count_linked(model) == 0


@pytest.mark.parametrize("model_class", UNTRACEABLE, ids=lambda each: each.__name__)
def test_untraceable_model_is_as_before(model_class):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), build_plain(model_class))
    before = state(model)
    with pytest.warns(UserWarning, match="link_relu has changed nothing") as caught:
        link_relu(model)
    assert len(caught) == 1 and caught[0].filename == __file__
    assert_unchanged(model, before)


def test_transformer_is_reported_and_works():
    layer = nn.TransformerEncoderLayer(8, 2, 16, 0.0)
    model = nn.Sequential(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False))
    before = state(model)
    assert "0.layers.0.activation (attribute): what follows it is inside PyTorch's" in left_by(model)
    assert_unchanged(model, before)


def test_feed_forward_on_the_last_dimension():
    """Of a transformer's own making: the units are the last dimension of [N, T, C]."""
    model, x = build(lambda: nn.Sequential(nn.LayerNorm(4), *mlp()), (2, 5, 4))
    plain = copy.deepcopy(model)
    link_relu(model)
    assert model[2].unit_dim == -1 and count_linked(model) == 2
    torch.testing.assert_close(outputs(model, x), outputs(plain, x), rtol=1e-10, atol=1e-10)


def test_writing_in_place_to_a_linked_tensor():
    model, x = build(Writes, (3, 4))
    plain = copy.deepcopy(model)
    quietly_link(model)
    torch.testing.assert_close(outputs(model, x), outputs(plain, x), rtol=1e-10, atol=1e-10)


def test_relu_that_no_call_reaches_is_reported():
    class Unused(Functional):
        def __init__(self):
            super().__init__()
            self.unused = nn.ReLU()

    model, _ = build(Unused, (3, 2, 6, 6))
    assert "unused (module): the traces of the model do not call it" in left_by(model)
    assert count_linked(model) == 2


def test_lazy_layers_are_left():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.LazyLinear(3))
    assert "1 (module)" in left_by(model)
    model(torch.ones(2, 4))
    link_relu(model)
    assert model[2].weight.shape == (3, 8)


@pytest.mark.parametrize("by", ["name", "type", "module"])
def test_skip(by):
    model, x = build(Residual, (3, 2, 8, 8))
    plain = copy.deepcopy(model)
    first = model.blocks[0]
    skip = {"name": "blocks.0", "type": Block, "module": first}[by]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        link_relu(model, skip=[skip])
    assert type(first.relu) is nn.ReLU and first.conv1.weight.shape == (4, 4, 3, 3)
    assert count_linked(model) == (0 if by == "type" else 2)
    torch.testing.assert_close(outputs(model, x), outputs(plain, x), rtol=1e-10, atol=1e-10)


ERRORS = {
    "model": ({"model": 3}, TypeError, "model must be a torch.nn.Module"),
    "activation": ({"activation": "gelu"}, ValueError, "activation must be of 'relu'"),
    "activation_type": ({"activation": nn.ReLU}, TypeError, "activation must be a string"),
    "weights": ({"weights": "zero"}, ValueError, "weights must be of 'equivalent', 'fresh'"),
    "keep": ({"keep_parameters": 1}, TypeError, "keep_parameters must be a bool"),
    "keep_equivalent": ({"keep_parameters": True}, ValueError, 'pass weights="fresh"'),
    "jumpstart": ({"jumpstart": "yes"}, TypeError, "jumpstart must be True, False or None"),
    "option": ({"jumpstart": True, "lam": 1}, TypeError, "unknown option 'lam'"),
    "options_of_none": ({"margin": 1.0}, TypeError, "options of new Jumpstart layers"),
    "margin": ({"jumpstart": True, "margin": -1.0}, ValueError, "margin"),
    "skip": ({"skip": ["nothing"]}, ValueError, "no module of the model matches 'nothing'"),
    "skip_type": ({"skip": "0"}, TypeError, "skip must be a list"),
    "example": ({"example_inputs": torch.ones(2, 9)}, ValueError, "example_inputs do not run"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_change_nothing(name):
    options, kind, message = ERRORS[name]
    model = build_plain(mlp)
    before = state(model)
    with pytest.raises(kind, match=message):
        link_relu(**{"model": model, **options})
    assert_unchanged(model, before)


def test_wrapped_model_is_refused():
    with pytest.raises(ValueError, match="is a DataParallel: pass the model in it"):
        link_relu(nn.DataParallel(mlp()))
    with pytest.raises(ValueError, match="the module 'inner' is a OptimizedModule"):
        link_relu(nn.ModuleDict({"inner": torch.compile(mlp())}))


@pytest.mark.parametrize("make", [conv_net, Functional, Residual])
def test_failure_on_the_way_changes_nothing(make, monkeypatch):
    model, _ = build(make, (3, 2, 8, 8))
    before = state(model)
    calls = []

    def fails(*args):
        calls.append(args)
        if len(calls) == 2:
            raise MemoryError("no room")
        return widen(*args)

    widen = link.widen
    monkeypatch.setattr(link, "widen", fails)
    with pytest.raises(MemoryError):
        link_relu(model)
    assert_unchanged(model, before)


def test_call_that_was_not_traced_is_refused():
    class Options(Functional):
        def forward(self, x, mask=None, *, shift=False, name="a"):
            x = super().forward(x)
            x = x if mask is None else x * mask
            return x + 1 if shift else x

    model, x = build(Options, (3, 2, 6, 6))
    plain = copy.deepcopy(model)
    link_relu(model)
    for args, options in (((x,), {}), ((x, x[:, 0, 0, :3]), {}), ((x,), {"shift": True, "mask": None})):
        torch.testing.assert_close(model(*args, **options), plain(*args, **options), rtol=1e-10, atol=1e-10)
    with pytest.raises(RuntimeError, match="not for a call with such arguments"):
        model(x, name="b")


def test_forward_that_has_changed_since_is_refused():
    model, x = build(Functional, (3, 2, 6, 6))
    link_relu(model)
    model.fc2 = nn.Sequential(nn.Linear(12, 3)).double()
    other = copy.deepcopy(model)
    type(other).forward, forward = (lambda self, x: self.fc1(x)), type(other).forward
    try:
        with pytest.raises(RuntimeError, match="makes other calls than when"):
            other(x)
    finally:
        type(other).forward = forward


def test_one_layer_is_linked_and_another_left():
    model = nn.Sequential(
        nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.LayerNorm(4), nn.Linear(4, 2)
    )
    assert "3 (module): no layer behind it can be widened" in left_by(model)
    assert type(model[1]) is LinkedReLU and type(model[3]) is nn.ReLU


def test_norm_over_positions_is_told_by_example_inputs():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.BatchNorm1d(5), nn.Linear(5, 2))
    left_by(model, example_inputs=torch.ones(3, 5, 4))
    link_relu(model, example_inputs=torch.ones(3, 4))
    assert model[2].num_features == 10


def test_adding_in_place_is_traced_as_such():
    """What is added in place to a tensor is also seen by those who hold it under another name."""

    class Aliased(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.last = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            x = self.first(x)
            kept = x
            x += self.second(F.relu(x))
            return self.last(F.relu(kept)) + x

    model, x = build(Aliased, (3, 4))
    plain = copy.deepcopy(model)
    link_relu(model)
    assert count_linked(model) == 2
    torch.testing.assert_close(outputs(model, x), outputs(plain, x), rtol=1e-10, atol=1e-10)
