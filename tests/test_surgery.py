"""replace_relu, restore_relu and find_relu: what they find, what they leave alone, and the way back."""

import copy
import inspect
import logging
import pickle
import random
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from jumpstart_kernels import JumpstartReLU, penalty
from jumpstart_kernels.records import unwind
from jumpstart_kernels.surgery import Site, find_relu, replace_relu, restore_relu


class FunctionalCNN(nn.Module):
    """The classic: every ReLU a call, dropout by ``self.training``."""

    def __init__(self, dropout=0.5):
        super().__init__()
        self.dropout = dropout
        self.conv1 = nn.Conv2d(1, 4, 3)
        self.conv2 = nn.Conv2d(4, 4, 3)
        self.fc1 = nn.Linear(64, 16)
        self.fc2 = nn.Linear(16, 3)
        self.unused = nn.Parameter(torch.ones(2))
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x, mask=None, *, shift=False):
        x = F.relu(self.conv1(x))
        x = torch.relu(self.conv2(x))
        n, c, h, w = x.shape
        x = F.dropout(x.view(n, c * h * w), self.dropout, training=self.training)
        x = F.relu(self.fc1(x) * self.scale, inplace=True)
        x = (x - 0.1).relu_()
        if mask is not None:
            x = x * mask.relu()
        if shift:
            x = x + 1
        return self.fc2(x)


class ModularCNN(FunctionalCNN):
    """The same with modules."""

    def __init__(self):
        super().__init__()
        self.relus = nn.ModuleList(nn.ReLU() for _ in range(4))

    def forward(self, x):
        x = self.relus[0](self.conv1(x))
        x = self.relus[1](self.conv2(x)).flatten(1)
        x = F.dropout(x, self.dropout, training=self.training)
        x = self.relus[2](self.fc1(x) * self.scale)
        return self.fc2(self.relus[3](x - 0.1))


class Sizes(nn.Sequential):
    """A Sequential with a forward of its own."""

    def forward(self, x):
        for layer in self:
            x = F.relu(layer(x))
        return x


class Tracked(nn.Sequential):
    """A Sequential with attributes of its own."""

    def __init__(self, *layers):
        super().__init__(*layers)
        self.note = "kept"


class Activation(nn.Module):
    """Functions as attributes, in place and not, between other attributes."""

    def __init__(self):
        super().__init__()
        self.first = 1
        self.act = F.relu
        self.second = 2
        self.fc = nn.Linear(4, 4)
        self.act_ = torch.relu_
        self.third = 3

    def forward(self, x):
        return self.act_(self.act(self.fc(x)) - 0.1)


class SharpReLU(nn.ReLU):
    def forward(self, x):
        return super().forward(x) * 2


class _One(nn.Module):
    """A linear layer and one call."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)


class DataDependent(_One):
    def forward(self, x):
        x = self.fc(x)
        return F.relu(x) if x.sum() > 0 else x


class Helper(_One):
    """The call is in a method of a method, with a relu of its own that is none of PyTorch's."""

    def forward(self, x):
        return self.outer(x)

    def outer(self, x):
        return (lambda y: torch.relu(y) if y.sum() > 0 else y)(self.fc(x))


class AsksType(_One):
    def forward(self, x):
        x = F.relu(self.fc(x))
        return x if isinstance(x, Tensor) else -x


class AsksGrad(_One):
    def forward(self, x):
        return F.relu(self.fc(x)) if torch.is_grad_enabled() else self.fc(x)


class Counts(_One):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return F.relu(self.fc(x))


class Appends(_One):
    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, x):
        self.seen.append(x)
        return F.relu(self.fc(x))


class DropsLayer(_One):
    def forward(self, x):
        return F.relu(self.fc(x)) if random.random() < 2 else x


class Noisy(_One):
    def forward(self, x):
        return F.relu(self.fc(x) + torch.randn(4))


class Positions(_One):
    def forward(self, x):
        return F.relu(self.fc(x) + torch.arange(4))


class Frozen(_One):
    def forward(self, x):
        with torch.no_grad():
            x = self.fc(x)
        return F.relu(x)


class Precise(_One):
    def forward(self, x):
        with torch.autocast("cpu", enabled=False):
            return F.relu(self.fc(x))


class Checkpointed(_One):
    def forward(self, x):
        return checkpoint(lambda y: F.relu(self.fc(y)), x, use_reentrant=False)


class Hooked(_One):
    """Its forward is on the instance, as some libraries wrap it."""

    def __init__(self):
        super().__init__()
        inner = self.forward
        self.forward = lambda x: inner(x)

    def forward(self, x):
        return F.relu(self.fc(x))


UNTRACEABLE = {
    DataDependent: "torch.fx cannot trace its forward (TraceError",
    Helper: "torch.fx cannot trace its forward (TraceError",
    AsksType: "isinstance()",
    AsksGrad: "is_grad_enabled()",
    Counts: "changes attributes: calls",
    Appends: "changes attributes: seen",
    DropsLayer: "random numbers",
    Noisy: "random numbers",
    Positions: "creates a tensor",
    Frozen: "sets no_grad",
    Precise: "sets no_grad",
    Checkpointed: "sets no_grad",
    Hooked: "attribute of the instance",
}


def quietly_replace(model, **options):
    """Replace with every warning an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return replace_relu(model, **options)


def fingerprint(model):
    """All that a round trip must bring back: objects by identity, in their order."""
    return [
        (name, type(module), [(key, id(value)) for key, value in vars(module).items()], list(module._modules))
        for name, module in model.named_modules(remove_duplicate=False)
    ], repr(model)


def build(model_class, *args):
    torch.manual_seed(0)
    return model_class(*args)


def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(inplace=True))


def transformer():
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)


def nested():
    return nn.Sequential(
        Activation(), Tracked(nn.Linear(4, 4), nn.ReLU()), Sizes(nn.Linear(4, 4), nn.Linear(4, 4))
    )


MODELS = {
    "mlp": (mlp, (6, 4), {}),
    "functional": (FunctionalCNN, (6, 1, 8, 8), {}),
    "transformer": (transformer, (6, 5, 8), {"unit_dim": -1}),
    "nested": (nested, (6, 4), {}),
    "relu": (nn.ReLU, (6, 4), {}),
}


@pytest.fixture(params=MODELS.values(), ids=MODELS)
def case(request):
    """A model, an input and the options it is replaced with."""
    model, shape, options = request.param
    return build(model), torch.randn(shape, generator=torch.Generator().manual_seed(1)), options


def run(model, x, *args, **kwargs):
    torch.manual_seed(2)
    return model(x.clone(), *args, **kwargs)


def test_round_trip_is_exact(case):
    model, x, options = case
    handle = next(iter(model.modules())).register_forward_hook(lambda *_: None)
    before, state = fingerprint(model), {name: value.clone() for name, value in model.state_dict().items()}
    expected = [run(model.train(mode), x) for mode in (False, True)]
    replaced = quietly_replace(model, **options)
    assert replaced is model
    assert list(model.state_dict()) == list(state)
    assert any(type(module) is JumpstartReLU for module in model.modules())
    for mode, output in zip((False, True), expected, strict=True):
        assert torch.equal(run(model.train(mode), x), output)
    assert penalty(model).isfinite()
    assert restore_relu(model) is model
    assert fingerprint(model) == before
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    for mode, output in zip((False, True), expected, strict=True):
        assert torch.equal(run(model.train(mode), x), output)
    assert restore_relu(model) is model and fingerprint(model) == before
    handle.remove()
    assert not next(iter(model.modules()))._forward_hooks


def test_copies_and_pickles(case):
    model, x, options = case
    expected = run(model, x)
    quietly_replace(model, **options)
    model(x.clone())
    copies = copy.deepcopy(model), pickle.loads(pickle.dumps(model))
    penalty(model)
    for other in copies:
        with pytest.raises(RuntimeError, match="nothing|has recorded"):
            penalty(other)  # it has no records of the original
        assert torch.equal(run(other, x), expected)
        assert penalty(other).isfinite()
        with pytest.raises(RuntimeError):
            penalty(model)  # nor the original any of the copy
        restored = restore_relu(other)
        assert not any(isinstance(module, JumpstartReLU) for module in restored.modules())
        assert repr(restored) == repr(restore_relu(copy.deepcopy(model)))
        assert torch.equal(run(restored, x), expected)


def test_state_dict_both_ways():
    plain, replaced = build(FunctionalCNN), quietly_replace(FunctionalCNN())
    x = torch.randn(4, 1, 8, 8)
    replaced.load_state_dict(plain.state_dict())
    assert torch.equal(run(replaced, x), run(plain, x))
    fresh = FunctionalCNN()
    fresh.load_state_dict(replaced.state_dict())
    assert torch.equal(run(fresh, x), run(plain, x))


def test_shared_module_is_shared_after():
    relu = nn.ReLU(inplace=True)
    model = nn.Sequential(nn.Linear(4, 4), relu, nn.Sequential(nn.Linear(4, 4), relu))
    model.listed = [relu]  # references that are no submodules too
    quietly_replace(model, margin=0.5)
    assert model[1] is model[2][1] is model.listed[0]
    assert type(relu) is JumpstartReLU and relu.inplace and relu.margin == 0.5
    model(torch.randn(3, 4))
    assert len(list(unwind(relu._records))) == 2


def test_hooks_and_attributes_stay():
    relu, seen = nn.ReLU(), []
    relu.note = "mine"
    handle = relu.register_forward_hook(lambda *_: seen.append(1))
    model = quietly_replace(nn.Sequential(nn.Linear(4, 4), relu)).eval()
    model(torch.zeros(2, 4))
    assert seen == [1] and model[1].note == "mine" and not model[1].training
    handle.remove()
    model(torch.zeros(2, 4))
    assert seen == [1]


def test_sites_of_functional_model():
    model = build(FunctionalCNN)
    before = fingerprint(model)
    assert find_relu(model) == [Site("", "call", "")] * 4
    assert fingerprint(model) == before
    quietly_replace(model)
    names = [name for name, module in model.named_modules() if isinstance(module, JumpstartReLU)]
    assert names == [f"jumpstart_relu_{i}" for i in range(4)]
    assert [model.get_submodule(name).inplace for name in names] == [False, False, True, True]
    assert find_relu(model) == []
    assert type(model) is FunctionalCNN and "unused" in dict(model.named_parameters())


def test_dropout_follows_the_mode():
    model, plain, x = build(FunctionalCNN), build(FunctionalCNN), torch.randn(4, 1, 8, 8)
    quietly_replace(model.eval())
    for mode in (True, False, True):
        assert torch.equal(run(model.train(mode), x), run(plain.train(mode), x))
    torch.manual_seed(0)
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


def test_other_arguments_are_followed():
    model, plain, x = build(FunctionalCNN), build(FunctionalCNN), torch.randn(4, 1, 8, 8)
    quietly_replace(model)
    mask = torch.randn(4, 16)
    for args, kwargs in [((mask,), {}), ((None,), {"shift": True}), ((), {"mask": mask}), ((), {})]:
        assert torch.equal(run(model, x, *args, **kwargs), run(plain, x, *args, **kwargs))
    assert inspect.signature(model.forward) == inspect.signature(plain.forward)
    assert isinstance(model.jumpstart_relu_4, JumpstartReLU)  # of the call that needs a mask
    restore_relu(model)
    assert [name for name, _ in model.named_children()] == [name for name, _ in plain.named_children()]


def test_arguments_that_do_not_trace_warn():
    class Repeats(_One):
        def forward(self, x, times=1):
            for _ in range(times):
                x = F.relu(self.fc(x))
            return x

    model, plain = build(Repeats), build(Repeats)
    quietly_replace(model)
    x = torch.randn(3, 4)
    assert torch.equal(model(x), plain(x))
    with pytest.warns(UserWarning, match="a Repeats is called in a way"):
        output = model(x, 2)
    assert torch.equal(output, plain(x, 2))


def test_gradients_equal_those_of_modules():
    x = torch.randn(6, 1, 8, 8)
    gradients = []
    for model_class in (FunctionalCNN, ModularCNN):
        model = quietly_replace(build(model_class))
        loss = run(model, x).square().mean() + 0.5 * penalty(model)
        loss.backward()
        gradients.append({name: value.grad for name, value in model.named_parameters()})
    functional, modular = gradients
    assert functional["unused"] is None
    for name in functional.keys() - {"unused"}:
        assert functional[name].any() and torch.equal(functional[name], modular[name])


def test_transformer_layer():
    model = quietly_replace(build(transformer), unit_dim=-1)
    assert type(model.layers[0].activation) is JumpstartReLU
    x = torch.randn(3, 5, 8)
    model(x)
    assert [record.units for layer in model.layers for record in unwind(layer.activation._records)] == [
        16,
        16,
    ]
    assert restore_relu(model).layers[0].activation is F.relu


@pytest.mark.parametrize("model_class", UNTRACEABLE, ids=lambda model_class: model_class.__name__)
def test_untraceable_is_reported_and_works(model_class):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), build(model_class))
    plain = copy.deepcopy(model)
    before = fingerprint(model)
    states = random.getstate(), torch.get_rng_state()
    sites = find_relu(model)
    assert fingerprint(model) == before  # tracing left nothing behind
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])
    assert "isinstance" not in globals()
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
    class Branches(_One):
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
        "replaced 5 ReLUs: 1 x 0.act (attribute), 1 x 0.act_ (attribute), 1 x 1.1 (module), 2 x 2 (call)"
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
        ({"skip": [3]}, TypeError, "skip takes names of modules, module types and modules, got 3"),
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


def test_restore_of_own_jumpstart_relu():
    model = nn.Sequential(nn.Linear(4, 4), JumpstartReLU(inplace=True, margin=2.0))
    model(torch.randn(2, 4))
    relu = restore_relu(model)[1]
    assert type(relu) is nn.ReLU and relu.inplace
    assert list(vars(relu)) == list(vars(nn.ReLU()))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compile(backend):
    torch._dynamo.reset()
    # Without dropout: its random numbers differ by backend.
    model, x = quietly_replace(build(FunctionalCNN, 0.0)), torch.randn(6, 1, 8, 8)
    other = pickle.loads(pickle.dumps(model)) if backend == "aot_eager" else model  # has no traces yet
    compiled = torch.compile(other, fullgraph=True, backend=backend)
    gradients = []
    for run_model, owner in ((model, model), (compiled, other)):
        owner.zero_grad()
        (run_model(x).square().mean() + penalty(owner)).backward()
        gradients.append(owner.conv1.weight.grad.clone())
    torch.testing.assert_close(*gradients)
    other.eval()
    torch.testing.assert_close(compiled(x), model.eval()(x))
    restore_relu(other.train())
    compiled(x)
    with pytest.raises(RuntimeError, match="has no JumpstartReLU"):
        penalty(other)


def test_attribute_that_the_class_has_too_is_found_as_a_call():
    class Overridden(_One):
        act = staticmethod(torch.sigmoid)

        def __init__(self):
            super().__init__()
            self.act = F.relu

        def forward(self, x):
            return self.act(self.fc(x))

    model, x = build(Overridden), torch.randn(3, 4)
    expected = model(x)
    assert find_relu(model) == [Site("", "call", "")]
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


def test_export_of_a_replaced_model():
    model, x = quietly_replace(build(FunctionalCNN)).eval(), torch.randn(2, 1, 8, 8)
    exported = torch.export.export(model, (x,)).module()
    torch.testing.assert_close(exported(x), model(x))


def test_inside_ddp():
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(build(Sizes, nn.Linear(4, 4)))
        assert quietly_replace(model) is model
        (model(torch.randn(3, 4)).sum() * 0 + penalty(model)).backward()
        assert model.module[0].weight.grad.any()
    finally:
        torch.distributed.destroy_process_group()


def test_inside_a_compiled_wrapper():
    model = torch.compile(build(FunctionalCNN), backend="eager")
    assert quietly_replace(model) is model
    model(torch.randn(2, 1, 8, 8))
    assert penalty(model).isfinite()


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
