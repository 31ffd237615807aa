"""Autocast, loss scaling and layers of several dtypes: statistics stay float32."""

import pytest
import torch
from torch import nn

import jumpstart_kernels as jk

DTYPES = (torch.bfloat16, torch.float16)


def make_model():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(True), nn.Flatten(), nn.Linear(96, 4)
    )
    return jk.replace_relu(model)


def make_input():
    return torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def pre_activations(model, x):
    """The input of each Jumpstart layer."""
    seen = []
    layers = [module for module in model if isinstance(module, jk.JumpstartReLU)]
    handles = [
        layer.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone())) for layer in layers
    ]
    output = model(x)
    for handle in handles:
        handle.remove()
    return output, seen


def definition(seen):
    """DESIGN: mean of all units' slack halves plus mean of all points', in float64."""
    units, points = [], []
    for x in seen:
        x = x.double()
        for dims, slacks in (((0, 2, 3), units), ((1, 2, 3), points)):
            slacks.append(((1 - x.amax(dims)).relu() + (1 + x.amin(dims)).relu()) / 2)
    return torch.cat(units).mean() + torch.cat(points).mean()


@pytest.mark.parametrize("dtype", DTYPES)
def test_penalty_under_autocast_is_float32_of_what_the_layers_see(target, dtype):
    device = target[1]
    model, x = make_model().to(device), make_input().to(device)
    with torch.autocast(device, dtype):
        output, seen = pre_activations(model, x)
        value = jk.penalty(model)
    assert output.dtype == dtype and [part.dtype for part in seen] == [dtype, dtype]
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), definition(seen), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", DTYPES)
def test_penalty_under_autocast_is_that_in_float32_to_rounding(target, dtype):
    device = target[1]
    model, x = make_model().to(device), make_input().to(device)
    with torch.autocast(device, dtype):
        _, rounded = pre_activations(model, x)
        value = jk.penalty(model)
    _, exact = pre_activations(model, x)
    expected = jk.penalty(model)
    # A slack differs by no more than its extremum does: the penalty, a mean, by no more than twice the worst.
    worst = max((a.double() - b).abs().max() for a, b in zip(rounded, exact, strict=True))
    assert worst < 0.1 and (value - expected).abs() <= 2 * worst


@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_under_autocast_is_that_of_the_definition(target, dtype):
    device = target[1]
    model, x = make_model().to(device), make_input().to(device)
    with torch.autocast(device, dtype):
        output, seen = pre_activations(model, x)
        loss = output.float().square().mean() + jk.penalty(model)
    loss.backward()
    grads = [parameter.grad.clone() for parameter in model.parameters()]
    plain = jk.restore_relu(model)
    plain.zero_grad()
    with torch.autocast(device, dtype):
        seen = []
        hooks = [
            m.register_forward_pre_hook(lambda _, args: seen.append(args[0].clone()))
            for m in (plain[1], plain[3])
        ]
        output = plain(x)
        for hook in hooks:
            hook.remove()
    (output.float().square().mean() + definition(seen)).backward()
    epsilon = torch.finfo(dtype).eps
    for grad, parameter in zip(grads, plain.parameters(), strict=True):
        # Ours rounds once where plain PyTorch rounds every summand: a few roundings of the largest.
        torch.testing.assert_close(
            grad, parameter.grad, rtol=0, atol=float(8 * epsilon * parameter.grad.abs().max())
        )


@pytest.mark.parametrize("dtype", DTYPES)
def test_loss_scale_scales_and_unscales(target, dtype):
    device = target[1]
    results = []
    for scale in (1.0, 1024.0):
        model, x = make_model().to(device), make_input().to(device)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        scaler = torch.amp.GradScaler(device, init_scale=scale)
        with torch.autocast(device, dtype):
            loss = model(x).float().square().mean() + jk.penalty(model)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        results.append([parameter.grad.clone() for parameter in model.parameters()])
        scaler.step(optimizer)
        scaler.update()
    for grad, expected in zip(*results, strict=True):
        # A power of two scales exactly, but for the smallest of float16.
        torch.testing.assert_close(grad, expected, rtol=1e-2, atol=float(1e-2 * expected.abs().max()))


def test_overflow_skips_the_step_and_training_goes_on():
    model, x = make_model(), make_input()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127)
    before = [parameter.clone() for parameter in model.parameters()]
    with torch.autocast("cpu", torch.float16):
        loss = 1e4 * model(x).float().square().mean() + jk.penalty(model)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert scaler.get_scale() < 2.0**127
    with torch.autocast("cpu", torch.float16):
        model(x)
    assert jk.penalty(model).isfinite()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("whole", (False, True), ids=("weights", "whole"))
def test_models_in_16_bits(target, dtype, whole):
    device = target[1]
    model, x = make_model().to(device, dtype), make_input().to(device, dtype)
    if not whole:
        model[2:].float()
        model.insert(2, Cast())
    value = (model(x).float().square().mean(), jk.penalty(model))
    assert value[1].dtype == torch.float32
    sum(value).backward()
    assert all(parameter.grad.dtype == parameter.dtype for parameter in model.parameters())


class Cast(nn.Module):
    def forward(self, x):
        return x.float()


@pytest.mark.parametrize("dtype", DTYPES)
def test_compiled_under_autocast(dtype):
    torch._dynamo.reset()
    model, x = make_model(), make_input()

    def step(model, x):
        with torch.autocast("cpu", dtype):
            return model(x).float().square().mean() + jk.penalty(model)

    expected = step(model, x)
    actual = torch.compile(step, backend="aot_eager", fullgraph=True)(model, x)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)
