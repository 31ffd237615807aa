"""Replaced models compute the same results, copy and pickle; restore_relu undoes it."""

import copy
import inspect
import pickle

import pytest
import torch
import torch.nn.functional as F
from surgery.models import (
    FunctionalCNN,
    ModularCNN,
    OneLayer,
    build,
    fingerprint,
    quietly_replace,
    run,
    transformer,
)
from torch import nn

from jumpstart_kernels import JumpstartReLU, penalty
from jumpstart_kernels.nn.records import unwind
from jumpstart_kernels.surgery import restore_relu


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
    class Repeats(OneLayer):
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


def test_restore_of_own_jumpstart_relu():
    model = nn.Sequential(nn.Linear(4, 4), JumpstartReLU(inplace=True, margin=2.0))
    model(torch.randn(2, 4))
    relu = restore_relu(model)[1]
    assert type(relu) is nn.ReLU and relu.inplace
    assert list(vars(relu)) == list(vars(nn.ReLU()))
