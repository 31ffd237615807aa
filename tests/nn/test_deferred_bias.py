"""Layers whose bias the activation behind them adds: everything is as if they added it themselves."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from fused_bias import cnn, draw, fused, mlp, results, with_and_without
from torch import nn
from torch.nn.utils import parametrize, prune

import jumpstart_kernels as jk
from jumpstart_kernels.nn import deferred_bias
from jumpstart_kernels.surgery import replace_relu, restore_relu

MODELS = {
    "linear": (mlp, (7, 4), {}),
    "linear-inplace": (lambda: mlp(True), (7, 4), {}),
    "linear-3d": (mlp, (3, 7, 4), {"points": "position"}),
    "linear-average": (mlp, (7, 4), {"tie_breaking": "average"}),
    "conv1d": (lambda: nn.Sequential(nn.Conv1d(2, 3, 2, stride=2), nn.ReLU()), (3, 2, 9), {}),
    "conv2d": (cnn, (3, 2, 6, 6), {}),
    "conv2d-unbatched": (cnn, (2, 6, 6), {}),
    "conv2d-circular": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), nn.ReLU()),
        (3, 2, 6, 6),
        {"points": "position", "margin": 0.5},
    ),
    "conv3d": (lambda: nn.Sequential(nn.Conv3d(2, 3, 2), nn.ReLU()), (3, 2, 3, 4, 5), {}),
    "conv3d-unbatched": (lambda: nn.Sequential(nn.Conv3d(2, 3, 2), nn.ReLU()), (2, 3, 4, 5), {}),
}


@pytest.mark.parametrize("case", MODELS.values(), ids=MODELS)
def test_a_step(case):
    make, shape, options = case
    torch.manual_seed(0)
    model, without = with_and_without(make(), **options)
    assert fused(model)
    steps = []
    for each in (model, without):
        optimizer = torch.optim.SGD(each.parameters(), 0.01)
        steps.append([])
        for i in range(3):
            steps[-1] += results(each, draw(*shape) + i)
            optimizer.step()
    torch.testing.assert_close(*steps)
    first = next(module for module in model if isinstance(module, deferred_bias.DeferredBias))
    x = draw(*shape)
    torch.testing.assert_close(first(x), first.plain.forward(first, x) - _along(first))
    with torch.no_grad():  # training without grad
        torch.testing.assert_close(model(x.clone()), without(x.clone()))
    without.load_state_dict(model.state_dict())
    assert torch.equal(model.eval()(x.clone()), without.eval()(x.clone()))
    assert not fused(model)


def _along(layer):
    return layer.bias.view(-1, *[1] * (-1 - layer.unit_dim))


def test_float32_and_channels_last():
    torch.manual_seed(0)
    model, without = with_and_without(cnn())
    x = draw(3, 2, 6, 6, dtype=torch.float32).to(memory_format=torch.channels_last)
    model, without = model.float(), without.float()
    torch.testing.assert_close(results(model, x), results(without, x))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(dtype):
    torch.manual_seed(0)
    model, without = with_and_without(mlp())
    with torch.autocast("cpu", dtype):
        found, expected = (results(each.float(), draw(7, 4).float()) for each in (model, without))
    assert found[-1].dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.1)


def test_tensors_without_units():
    model, without = with_and_without(mlp())
    with pytest.warns(UserWarning, match="1-D"):
        torch.testing.assert_close(model(draw(4)), without(draw(4)))


@pytest.mark.parametrize("index", [0, 1])
def test_modes_of_parts(index):
    """The layer's own mode decides, whatever those of its activation and its model are."""
    pair = with_and_without(mlp())
    for model in pair:
        for training in (True, False):
            model.train(training)[index].train(not training)
    for model in pair:
        model[1 - index].eval()
    torch.testing.assert_close(*(model(draw(7, 4)) for model in pair))
    for model in pair:
        model.train()[index].eval()
    torch.testing.assert_close(*(results(model, draw(7, 4)) for model in pair))


def test_injection():
    torch.manual_seed(0)
    model, without = with_and_without(cnn())
    for each in (model, without):
        jk.inject_penalty(each, 0.5, reduction="sum")
    torch.testing.assert_close(
        *(results(each, draw(3, 2, 6, 6), None, lambda _: 0) for each in (model, without))
    )


@pytest.mark.parametrize("training", [True, False])
def test_watched_layers_see_the_bias(training):
    model, without = with_and_without(mlp())
    found = []
    for each in (model, without):
        metric = jk.UnitUsage()
        with metric.watch(each.train(training)):
            each(draw(7, 4))
        found.append(metric.report().unit_max)
    torch.testing.assert_close(*found)
    torch.testing.assert_close(jk.layer_extrema(model, draw(7, 4)), jk.layer_extrema(without, draw(7, 4)))


def test_no_record():
    model, _ = with_and_without(mlp())
    with jk.no_record(model):
        model(draw(7, 4)).sum().backward()
    assert model[0].bias.grad.any()
    with pytest.raises(RuntimeError, match="no JumpstartReLU layer"):
        jk.penalty(model)


def test_double_backward():
    found = []
    for model in with_and_without(mlp()):
        x = draw(7, 4).requires_grad_()
        output = model(x)
        loss = output.square().sum() + jk.penalty(model)
        gradients = torch.autograd.grad(loss, list(model.parameters()), create_graph=True)
        found.append(torch.autograd.grad(sum(each.square().sum() for each in gradients), [model[0].bias, x]))
    torch.testing.assert_close(*found)


def test_frozen_and_tied():
    pair = with_and_without(mlp())
    for model in pair:
        model[0].bias.requires_grad_(False)
        model[2].weight.requires_grad_(False)
        model[4].bias = nn.Parameter(draw(2))
        first = nn.Linear(6, 5).double()
        first.bias = model[2].bias
        model.append(nn.Linear(2, 6)).append(first)
        model[5].load_state_dict({"weight": draw(6, 2), "bias": draw(6)})
        first.load_state_dict({"weight": draw(5, 6), "bias": model[2].bias})
        model.double()
    assert fused(pair[0]) == ["0", "2"]
    found, expected = (results(model, draw(7, 4)) for model in pair)
    torch.testing.assert_close(found, expected)
    assert pair[0][0].bias.grad is None


def test_another_bias():
    pair = with_and_without(mlp())
    for model in pair:
        model[0].bias = nn.Parameter(draw(6))
        model[2].bias = None
        state = {name: value * 2 for name, value in model.state_dict().items()}
        model.load_state_dict(state, assign=True)
    torch.testing.assert_close(*(results(model, draw(7, 4)) for model in pair))


def test_computed_biases():
    pair = with_and_without(mlp())
    for model in pair:
        prune.l1_unstructured(model[0], "bias", amount=2)

        class Doubled(nn.Module):
            def forward(self, bias):
                return 2 * bias

        parametrize.register_parametrization(model[2], "bias", Doubled())
    assert fused(pair[0]) == ["0", "2"]
    torch.testing.assert_close(*(results(model, draw(7, 4)) for model in pair))
    restored = restore_relu(pair[0])  # a class was derived since
    torch.testing.assert_close(restored(draw(7, 4)), restore_relu(pair[1])(draw(7, 4)))


def test_state_dicts_are_interchangeable():
    model, plain = with_and_without(mlp())[0], mlp()
    plain.load_state_dict(model.state_dict())
    model.load_state_dict(mlp().state_dict())
    assert list(model.state_dict()) == list(plain.state_dict())


def test_copies_and_pickles():
    model, without = with_and_without(mlp())
    expected = results(without, draw(7, 4))
    for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert fused(copied) == ["0", "2"]
        assert copied[1]._bias_link.producer() is copied[0]
        torch.testing.assert_close(results(copied, draw(7, 4)), expected)
        assert [type(module) for module in restore_relu(copied)] == [type(module) for module in mlp()]


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_of_parts_do_without_the_link(make_copy):
    model, _ = with_and_without(mlp())
    x = draw(7, 4)
    layer, activation = make_copy(model[0]), make_copy(model[1])
    torch.testing.assert_close(layer(x), model.eval()[0](x))
    assert torch.equal(activation(layer(x)), layer(x).relu())
    assert fused(model.train()) == ["0", "2"]


def test_parts_that_outlive_their_model():
    model, without = with_and_without(mlp())
    layers = list(model)
    del model
    torch.testing.assert_close(nn.Sequential(*layers[:1])(draw(7, 4)), without[0](draw(7, 4)))
    torch.testing.assert_close(nn.Sequential(*layers)(draw(7, 4)), without(draw(7, 4)))


def test_a_dropped_model_is_freed_at_once():
    model, _ = with_and_without(mlp())
    references = [weakref.ref(module) for module in model.modules()]
    gc.disable()
    try:
        del model
        assert not any(reference() for reference in references)
    finally:
        gc.enable()


def test_exchanged_modules():
    """Whichever of the two is exchanged: no bias is lost, and none is added twice."""
    for exchanged in (0, 1):
        pair = with_and_without(mlp())
        other = (nn.Linear(4, 6).double(), nn.GELU())[exchanged]
        for model in pair:
            model[exchanged] = other
        assert fused(pair[0]) == ["2"]
        torch.testing.assert_close(*(results(model, draw(7, 4)) for model in pair))


def test_replicas_of_data_parallel():
    """The bias of the layer that was replicated is used; on another device it would be copied there."""
    model, without = with_and_without(mlp())
    replica = model._replicate_for_data_parallel()
    for name, child in model._modules.items():
        replica._modules[name] = part = child._replicate_for_data_parallel()
        for key, parameter in child._parameters.items():
            setattr(part, key, parameter * 1)
    torch.testing.assert_close(replica(draw(7, 4)), without(draw(7, 4)))


def test_auto_follows_the_table(monkeypatch):
    monkeypatch.setattr(deferred_bias, "MEASURED_FASTER", frozenset({("cuda", nn.Linear)}))
    model = replace_relu(mlp())
    assert isinstance(model[0], deferred_bias.DeferredBiasLinear)  # it may be moved to a GPU
    assert not fused(model)
    assert fused(model.to("meta")) == []
    expected = mlp().double()
    model = replace_relu(mlp()).double()
    model.load_state_dict(expected.state_dict())
    torch.testing.assert_close(model(draw(7, 4)), expected(draw(7, 4)))
    monkeypatch.setattr(deferred_bias, "MEASURED_FASTER", frozenset({("cpu", nn.Linear)}))
    assert fused(model) == ["0", "2"]
    torch._dynamo.reset()
    for each in (model, torch.compile(model, fullgraph=True, backend="aot_eager")):
        torch.testing.assert_close(each(draw(7, 4)), expected(draw(7, 4)))
