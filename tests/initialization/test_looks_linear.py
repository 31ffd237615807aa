"""looks_linear_: the network starts as a linear function whose layers keep what they read."""

import copy

import pytest
import torch
from initialization.networks import LINEAR, double, resnet
from torch import nn

import jumpstart_kernels as jk
from benchmarks.models import build_mlp, pre_activations


@pytest.mark.parametrize("name", LINEAR)
def test_is_linear(name):
    model, x = double(*LINEAR[name])
    report = jk.looks_linear_(model, x if name == "with input" else None)
    assert report.is_linear and not report.notes, report
    y = torch.randn_like(x)
    with torch.no_grad():
        found, expected = model(0.7 * x - 1.3 * y), 0.7 * model(x) - 1.3 * model(y)
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", LINEAR)
def test_names_parameters_and_layout_stay(name):
    model, _ = double(*LINEAR[name])
    if name.startswith("resnet"):
        model.to(memory_format=torch.channels_last)
    before = {key: (id(each), each.dtype, each.stride()) for key, each in model.named_parameters()}
    keys = list(model.state_dict())
    jk.looks_linear_(model)
    assert list(model.state_dict()) == keys
    assert {key: (id(each), each.dtype, each.stride()) for key, each in model.named_parameters()} == before


def test_the_weight_of_a_hidden_layer():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)).double()
    jk.looks_linear_(model)
    first, hidden, last = (model[i].weight.detach() for i in (0, 2, 4))
    torch.testing.assert_close(first[:4] @ first[:4].T, torch.eye(4, dtype=torch.float64))
    assert torch.equal(first[4:], -first[:4])
    v = hidden[:3, :4]
    torch.testing.assert_close(v @ v.T, torch.eye(3, dtype=torch.float64))
    assert torch.equal(hidden, torch.cat([torch.cat([v, -v], 1), torch.cat([-v, v], 1)]))
    assert torch.equal(last[:, 3:], -last[:, :3])
    assert not any(layer.bias.any() for layer in model[::2])


@pytest.mark.parametrize("widths", [(32, 16), (16, 48), (24, 24)], ids=["narrower", "wider", "equal"])
@pytest.mark.parametrize("kind", ["linear", "center", "patch"])
def test_layers_keep_the_mean_square(widths, kind):
    """Of isotropic input, in the first layer and behind pairs, in expectation and so for every row alone."""
    layer = {
        "linear": lambda i, o: nn.Linear(i, o),
        "center": lambda i, o: nn.Conv2d(i, o, 3, padding=1),
        "patch": lambda i, o: nn.Conv2d(i, o, 3, stride=2, padding=1),
    }[kind]
    inputs, outputs = widths
    model = nn.Sequential(layer(inputs, outputs), nn.ReLU(), layer(outputs, inputs), nn.ReLU()).double()
    jk.looks_linear_(model)
    first, second = (each.weight.detach().flatten(1) for each in (model[0], model[2]))
    assert torch.allclose(first.square().sum(1).mean(), torch.tensor(1.0).double())
    assert torch.allclose(second.square().sum(1).mean(), torch.tensor(2.0).double())  # [V, −V]
    x = torch.randn(
        4000 if kind == "linear" else 60, inputs, *(() if kind == "linear" else (12, 12))
    ).double()
    z = model[0](x)
    inner = (..., slice(1, -1), slice(1, -1)) if z.dim() > 2 else ...  # the border reads zeros
    assert abs(z[inner].square().mean() - 1) < 0.05
    assert abs(model[2](z.relu())[inner].square().mean() / z[inner].square().mean() - 1) < 0.25


def test_angles_are_kept():
    model, x = double(lambda: build_mlp(32, 4, units=64, depth=50), (32,))
    jk.looks_linear_(model)
    cosines = lambda x: nn.functional.cosine_similarity(x[:, None], x[None], dim=-1)  # noqa: E731
    _, seen = pre_activations(model, x)
    assert len(seen) == 50
    for z in seen:
        torch.testing.assert_close(cosines(z), cosines(x))


def test_no_unit_is_dead_or_linear():
    model = resnet(batch_norm=False, skips=False)
    jk.looks_linear_(model)
    report = jk.unit_usage(model.eval(), [torch.randn(32, 3, 32, 32)])
    assert report["unit_nonlinear_ratio"] == 1
    assert report["point_nonlinear_ratio"] == 1


@pytest.mark.parametrize("name", ["mlp of 50 layers", "resnet50 without skips"])
def test_gradients_are_as_large_everywhere(name):
    model, x = double(*LINEAR[name])
    jk.looks_linear_(model)
    output, seen = pre_activations(model, x)
    for each in seen:
        each.retain_grad()
    nn.functional.cross_entropy(output, torch.arange(len(x)) % 5).backward()
    gradients = torch.stack([each.grad.norm() for each in seen])
    # Halving the positions of an image takes part of a gradient with it.
    assert gradients.max() / gradients.min() < (1.5 if name.startswith("mlp") else 6)
    weights = torch.stack([each.grad.norm() for each in model.parameters() if each.dim() > 1])
    assert weights.max() / weights.min() < (10 if name.startswith("mlp") else 40)


def test_trains():
    torch.manual_seed(0)
    model = build_mlp(8, 2, units=16, depth=50)
    x = torch.randn(256, 8)
    labels = (x[:, 0] * x[:, 1] > 0).long()  # no linear function tells
    jk.looks_linear_(model)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    for _ in range(150):
        loss = nn.functional.cross_entropy(model(x), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.3


@pytest.mark.parametrize("fuse_bias", [False, True])
@pytest.mark.parametrize("name", ["mlp of 50 layers", "functional"])
def test_before_or_after_replace_relu(name, fuse_bias):
    before, x = double(*LINEAR[name])
    after = copy.deepcopy(before)
    reports = [jk.looks_linear_(before, generator=torch.Generator().manual_seed(3))]
    jk.replace_relu(before, fuse_bias=fuse_bias)
    jk.replace_relu(after, fuse_bias=fuse_bias)
    reports.append(jk.looks_linear_(after, generator=torch.Generator().manual_seed(3)))
    assert reports[0] == reports[1]
    assert before.state_dict().keys() == after.state_dict().keys()
    for one, other in zip(before.parameters(), after.parameters(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(before(x), after(x))


def test_is_deterministic():
    model, _ = double(*LINEAR["functional"])
    state = torch.get_rng_state()
    jk.looks_linear_(model, generator=torch.Generator().manual_seed(1))
    assert torch.equal(torch.get_rng_state(), state)
    first = [each.clone() for each in model.parameters()]
    jk.looks_linear_(model, generator=torch.Generator().manual_seed(1))
    assert all(map(torch.equal, first, model.parameters()))
    jk.looks_linear_(model)
    assert not torch.equal(first[0], next(model.parameters()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_is_drawn_in_float_and_rounded(dtype):
    exact, rounded = (build_mlp(6, 3, units=8, depth=3).to(each) for each in (torch.float32, dtype))
    for model in (exact, rounded):
        jk.looks_linear_(model, generator=torch.Generator().manual_seed(1))
    for one, other in zip(exact.parameters(), rounded.parameters(), strict=True):
        assert other.dtype == dtype
        assert torch.equal(one.to(dtype), other)
