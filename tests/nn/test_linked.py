"""The linked layers and functions, alone and with the penalty on their shared pre-activation."""

import copy
import math
import pickle

import pytest
import torch
import torch.nn.functional as F
from linked import ACTIVATIONS, define
from torch import nn
from torch.func import functional_call, grad, jacfwd, jacrev, vmap

import jumpstart_kernels as jk
from jumpstart_kernels import functional

LAYERS = {
    "linked_relu": (jk.LinkedReLU, jk.JumpstartLinkedReLU),
    "linked_prelu": (jk.LinkedPReLU, jk.JumpstartLinkedPReLU),
    "linked_selu": (jk.LinkedSELU, jk.JumpstartLinkedSELU),
    "linked_silu": (jk.LinkedSiLU, jk.JumpstartLinkedSiLU),
}


def make_input(*size, **options):
    return torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(**options)


def make_model(layer, **options):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(6, 5), layer(**options), nn.Linear(10, 4), layer(**options), nn.Linear(8, 3)
    ).double()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_layers_are_the_functions(target, activation):
    plain, jumpstart = LAYERS[activation]
    x = make_input(5, 4, 3, device=target[1])
    for layer, unit_dim in ((plain, 1), (plain, -1), (plain, 0), (jumpstart, 1), (jumpstart, -1)):
        module = layer(unit_dim=unit_dim).to(x)
        weight = module.weight.expand(2, x.shape[unit_dim]) if activation == "linked_prelu" else None
        expected = define(activation, x, weight, unit_dim)
        torch.testing.assert_close(module(x), expected, rtol=1e-13, atol=1e-13)
        torch.testing.assert_close(module.eval()(x), expected, rtol=1e-13, atol=1e-13)
        if layer is jumpstart:
            jk.clear_records(module)


def test_slopes_are_shared_or_per_unit(target):
    x = make_input(8, 3, 4, device=target[1], dtype=torch.float32)
    for count in (1, 3):
        layer = jk.LinkedPReLU(count, 0.1, device=target[1])
        assert layer.weight.shape == (2, count) and (layer.weight == 0.1).all()
        layer(x).square().sum().backward()
        weight = torch.full((2, 3), 0.1, device=target[1], requires_grad=True)
        define("linked_prelu", x, weight, 1).square().sum().backward()
        expected = weight.grad if count == 3 else weight.grad.sum(1, keepdim=True)
        torch.testing.assert_close(layer.weight.grad, expected)
    assert set(layer.state_dict()) == {"weight"} and not jk.LinkedSELU().state_dict()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("ties", ("single", "average"))
def test_penalty_is_that_of_the_shared_pre_activation(target, activation, ties):
    x = make_input(9, 4, device=target[1])
    x[:, 0], x[:, 1] = x[:, 0].abs(), -x[:, 1].abs()
    layer, alone = LAYERS[activation][1](tie_breaking=ties), jk.JumpstartReLU(tie_breaking=ties)
    layer.to(x)
    results = []
    for module in (layer, alone):
        leaf = x.clone().requires_grad_()
        module(leaf)
        value = jk.penalty(module, reduction="norm")
        results.append((value, *torch.autograd.grad(value, leaf)))
    assert all(torch.equal(*both) for both in zip(*results, strict=True)) and results[0][0] > 0


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_training_step_is_that_of_the_definition(target, activation):
    model = make_model(LAYERS[activation][1]).to(target[1])
    x = make_input(16, 6, device=target[1])
    loss = model(x).square().mean() + 0.3 * jk.penalty(model)
    found = torch.autograd.grad(loss, list(model.parameters()))

    penalties, value = [], x
    for module in model:
        if isinstance(module, nn.Linear):
            value = module(value)
        else:
            penalties.append(value)
            weight = module.weight.expand(2, value.shape[1]) if activation == "linked_prelu" else None
            value = define(activation, value, weight, 1)
    slacks = [[(F.relu(1 - z.amax(dim)) + F.relu(1 + z.amin(dim))) / 2 for z in penalties] for dim in (0, 1)]
    expected_loss = value.square().mean() + 0.3 * sum(torch.cat(axis).mean() for axis in slacks)
    torch.testing.assert_close(loss, expected_loss)
    expected = torch.autograd.grad(expected_loss, list(model.parameters()))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_usage_of_linked_layers_is_watched():
    model = make_model(jk.JumpstartLinkedReLU)
    usage = jk.unit_usage(model, [make_input(32, 6)])
    assert 0 <= usage["unit_nonlinear_ratio"] <= 1


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_transforms_are_those_of_the_definition(activation):
    for layer in LAYERS[activation]:
        model = make_model(layer)
        parameters = {name: p.detach() for name, p in model.named_parameters()}
        x = make_input(7, 6)

        def score(parameters, x, model=model):
            return functional_call(model, parameters, (x,)).sin().sum()

        gradients = grad(score)(parameters, x)
        jk.clear_records(model)
        expected = torch.autograd.grad(model(x).sin().sum(), list(model.parameters()))
        for one, other in zip(gradients.values(), expected, strict=True):
            torch.testing.assert_close(one, other)
        per_sample = vmap(grad(score), (None, 0))(parameters, x[:, None])
        for one, other in zip(per_sample.values(), expected, strict=True):
            torch.testing.assert_close(one.sum(0), other)

        def output(x, model=model, parameters=parameters):
            return functional_call(model, parameters, (x,))

        forward_mode, reverse_mode = jacfwd(output)(x), jacrev(output)(x)
        torch.testing.assert_close(forward_mode, reverse_mode)
        jk.clear_records(model)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_compiled_steps_equal_eager_ones(activation):
    torch._dynamo.reset()
    x = make_input(8, 6)
    results = []
    for compiled in (False, True):
        model = make_model(LAYERS[activation][1])

        def step(x, model=model):
            return model(x).square().mean() + jk.penalty(model)

        run = torch.compile(step, fullgraph=True, backend="aot_eager") if compiled else step
        loss = run(x)
        results.append((loss, *torch.autograd.grad(loss, list(model.parameters()))))
    for eager, other in zip(*results, strict=True):
        torch.testing.assert_close(eager, other)


def test_autocast_casts_slopes_as_prelu_does():
    model = nn.Sequential(nn.Linear(4, 3), jk.LinkedPReLU(3), nn.Linear(6, 2))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(make_input(5, 4, dtype=torch.float32)).float().sum()
    loss.backward()
    assert model[1].weight.grad.dtype == torch.float32 and model[1].weight.grad.any()
    with pytest.raises(TypeError, match="weight must have the dtype of x"):
        model[1](torch.ones(2, 3, dtype=torch.bfloat16))


def test_copies_pickles_and_names():
    for layers in LAYERS.values():
        for layer in layers:
            module = layer(unit_dim=-1)
            for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module)), copy.copy(module)):
                assert repr(other) == repr(module) and "unit_dim=-1" in repr(module)
                x = make_input(3, 4, dtype=torch.float32)
                assert torch.equal(other.eval()(x), module.eval()(x))
    assert "num_parameters=3" in repr(jk.JumpstartLinkedPReLU(3))


def test_layouts_are_those_of_cat():
    x = make_input(2, 3, 4, 5)
    for given in (x, x.contiguous(memory_format=torch.channels_last), x.transpose(2, 3), x[:, ::2]):
        output, expected = functional.linked_relu(given), torch.cat([given.relu(), (-given).relu()], 1)
        assert torch.equal(output, expected) and output.stride() == expected.stride()


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: functional.linked_relu([1.0]), TypeError, "x must be a torch.Tensor"),
        (lambda: functional.linked_relu(torch.ones(2, 3, dtype=torch.int64)), TypeError, "float32, float64"),
        (lambda: functional.linked_relu(torch.ones(2, 3), unit_dim=2), ValueError, "unit_dim must be in"),
        (
            lambda: functional.linked_relu(torch.ones(2, 3), unit_dim=1.0),
            TypeError,
            "unit_dim must be an int",
        ),
        (lambda: functional.linked_relu(torch.tensor(1.0)), ValueError, "x must have a unit dimension"),
        (lambda: functional.linked_prelu(torch.ones(2, 3), 0.1), TypeError, "weight must be a torch.Tensor"),
        (
            lambda: functional.linked_prelu(torch.ones(2, 3), torch.ones(3)),
            ValueError,
            "weight must have a slope",
        ),
        (
            lambda: functional.linked_prelu(torch.ones(2, 3), torch.ones(2, 3).double()),
            TypeError,
            "weight must have the dtype of x",
        ),
        (lambda: jk.LinkedReLU(unit_dim="1"), TypeError, "unit_dim must be an int"),
        (lambda: jk.LinkedPReLU(0), ValueError, "num_parameters must be at least 1"),
        (lambda: jk.LinkedPReLU(2.0), TypeError, "num_parameters must be an int"),
        (lambda: jk.LinkedPReLU(init="a"), TypeError, "init must be a number"),
        (lambda: jk.JumpstartLinkedReLU(margin=math.inf), ValueError, "margin must be finite"),
    ],
)
def test_errors_name_the_argument(call, error, message):
    with pytest.raises(error, match=message):
        call()
