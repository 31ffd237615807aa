"""Linked models in use: trained, copied, pickled, compiled; drawn anew and with widths over √2."""

import copy
import math
import pickle

import pytest
import torch
from surgery.link_models import (
    MODELS,
    Branches,
    Functional,
    Residual,
    build,
    conv_net,
    count_linked,
    depthwise,
    grouped,
    mlp,
    outputs,
    quietly_link,
)
from torch import nn

import jumpstart_kernels as jk
from jumpstart_kernels import link_relu


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("make", [mlp, Functional, Residual])
def test_trains_with_the_penalty(make):
    shape = (6, 4) if make is mlp else (6, 2, 6, 6)
    model, x = build(make, shape)
    link_relu(model, jumpstart=True)
    optimizer = torch.optim.SGD(model.parameters(), 0.001)
    target = torch.randn(6, 3, dtype=torch.float64)
    losses = []
    for _ in range(20):
        loss = (model(x) - target).square().mean() + 0.1 * jk.penalty(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert sum(value.numel() for value in model.state_dict().values()) == sum(
        value.numel() for value in copy.deepcopy(model).state_dict().values()
    )


@pytest.mark.parametrize("make", [conv_net, depthwise, Functional, Residual, Branches])
@pytest.mark.parametrize("way", ["deepcopy", "pickle", "state_dict"])
def test_copies(make, way):
    model, x = build(make, (3, 2, 8, 8) if make is not Functional else (3, 2, 6, 6))
    link_relu(model)
    expected = outputs(model, x)
    if way == "deepcopy":
        other = copy.deepcopy(model)
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(model))
    else:
        other = link_relu(build(make, ())[0], weights="fresh")
        other.load_state_dict(model.state_dict())
    for parameter in model.parameters():
        parameter.data.zero_()
    found = outputs(other, x)
    assert all(torch.equal(one, each) for one, each in zip(found, expected, strict=True))


@pytest.mark.parametrize("make", [Functional, Residual, depthwise])
def test_compiles_in_one_graph(make):
    model, x = build(make, (3, 2, 6, 6))
    link_relu(model)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for training in (True, False):
        expected = copy.deepcopy(model).train(training)(x)
        torch.testing.assert_close(compiled.train(training)(x), expected, rtol=1e-10, atol=1e-10)


def test_fresh_weights_are_drawn_by_the_layers():
    model, _ = build(conv_net, (3, 2, 8, 8))
    first = model[0].weight
    torch.manual_seed(3)
    link_relu(model, weights="fresh")
    torch.manual_seed(3)
    expected = [nn.Conv2d(8, 6, 3, bias=False), nn.Linear(48, 5), nn.Linear(10, 3)]
    for found, layer in zip((model[4], model[8], model[10]), expected, strict=True):
        assert found.weight.shape == layer.weight.shape
        bound = layer.weight.abs().max()
        assert found.weight.abs().max() < 1.2 * bound and not (found.weight == 0).any()
    assert model[0].weight is first


@pytest.mark.parametrize("name", MODELS)
def test_keeps_the_number_of_parameters(name):
    make, shape, *_ = MODELS[name]
    model, x = build(make, shape)
    plain = copy.deepcopy(model)
    quietly_link(model, weights="fresh", keep_parameters=True)
    assert [each.shape for each in outputs(model, x)] == [each.shape for each in outputs(plain, x)]
    assert list(model.state_dict()) == list(plain.state_dict())
    assert all(each.isfinite().all() for each in outputs(model, x))
    assert count_linked(model) == MODELS[name][2]


def test_widths_over_the_root_of_two():
    model = nn.Sequential(
        nn.Linear(20, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(),
        nn.Linear(100, 10),
    )  # fmt: skip
    before = count(model)
    link_relu(model, weights="fresh", keep_parameters=True)
    assert [model[i].weight.shape for i in (0, 2, 4, 6)] == [(71, 20), (71, 142), (71, 142), (10, 142)]
    assert math.isclose(count(model), before, rel_tol=0.02)


def test_widths_of_groups_and_shortcuts():
    model, x = build(grouped, (3, 2, 6, 6))
    link_relu(model, weights="fresh", keep_parameters=True)
    assert [model[i].weight.shape[:2] for i in (0, 2, 4)] == [(3, 2), (6, 2), (3, 12)]
    model, x = build(depthwise, (3, 2, 6, 6))
    link_relu(model, weights="fresh", keep_parameters=True)
    assert (model[2].groups, model[2].in_channels, model[2].out_channels) == (4, 8, 4)
    model, x = build(Residual, (3, 2, 8, 8))
    link_relu(model, weights="fresh", keep_parameters=True)
    widths = [model.stem[0].out_channels, *(block.conv2.out_channels for block in model.blocks)]
    assert widths == [3, 3, 4, 4] and model.fc.weight.shape == (3, 8)


def test_other_surgery_behind_it():
    """replace_relu takes what is left; restore_relu leaves what is linked."""
    model = nn.Sequential(Functional(), nn.Linear(3, 4), nn.ReLU(), nn.LayerNorm(4)).double()
    x = torch.randn(3, 2, 6, 6, dtype=torch.float64)
    plain = copy.deepcopy(model)
    quietly_link(model)
    assert count_linked(model) == 2
    jk.replace_relu(model)
    assert type(model[2]) is jk.JumpstartReLU
    found, expected = outputs(jk.restore_relu(model), x), outputs(plain, x)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    assert type(model[2]) is nn.ReLU and count_linked(model) == 2


def test_graph_module():
    """Its forward is not changed, since its copies would not have that."""
    for make in (conv_net, Residual):
        model, x = build(make, (3, 2, 8, 8))
        plain, traced = copy.deepcopy(model.eval()), torch.fx.symbolic_trace(model)
        quietly_link(traced)
        assert count_linked(traced) == (3 if make is conv_net else 2)
        torch.testing.assert_close(outputs(traced, x)[1:], outputs(plain, x)[1:], rtol=1e-10, atol=1e-10)


def test_channels_last_is_kept():
    model = conv_net().to(memory_format=torch.channels_last)
    link_relu(model)
    assert model[4].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "squeezenet1_1", "mnasnet0_5", "densenet121"])
def test_torchvision(name):
    models = pytest.importorskip("torchvision.models")
    model, x = build(getattr(models, name), (2, 3, 64, 64))
    plain = copy.deepcopy(model.eval())
    quietly_link(model)
    with torch.no_grad():
        torch.testing.assert_close(model(x), plain(x), rtol=1e-9, atol=1e-9)


def test_width_of_a_depthwise_layer_behind_a_concatenation():
    class Concatenated(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(2, 4, 1), nn.Conv2d(2, 8, 1)
            self.depthwise, self.out = nn.Conv2d(12, 12, 3, groups=12), nn.Conv2d(12, 3, 1)

        def forward(self, x):
            x = torch.cat([self.one(x).relu(), self.two(x).relu()], 1)
            return self.out(self.depthwise(x).relu())

    model, x = build(Concatenated, (3, 2, 6, 6))
    link_relu(model, weights="fresh", keep_parameters=True)
    assert model.depthwise.groups == model.depthwise.out_channels == 12
    assert outputs(model, x)[0].shape == (3, 3, 4, 4)
