"""Usage reports written by hand from recorded activations, units planted dead, and what a caller sees."""

import copy
from collections import Counter

import torch
from torch import nn

from jumpstart_kernels.nn import JumpstartLeakyReLU, JumpstartReLU
from jumpstart_kernels.usage.report import UsageReport

ACTIVATIONS = (nn.ReLU, nn.LeakyReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.ELU, JumpstartReLU, JumpstartLeakyReLU)


def record(model, *batches, activations=ACTIVATIONS):
    """A report over batches in eval(): the definition of dormancy, of the mean output, and of dead units."""
    seen, calls, handles = {}, Counter(), []

    def attach(name, module):
        def observe(module, args, output):
            calls[name] += 1
            key = name if calls[name] == 1 else f"{name}#{calls[name]}"
            seen.setdefault(key, []).append((inputs.pop(), output.detach().clone()))

        inputs = []
        handles.append(module.register_forward_pre_hook(lambda _, x: inputs.append(x[0].detach().clone())))
        handles.append(module.register_forward_hook(observe))

    for name, module in model.named_modules():
        if isinstance(module, activations):
            attach(name, module)
    training = model.training
    with torch.no_grad():
        for x in batches:
            calls.clear()
            model.eval()(x)
    model.train(training)
    for handle in handles:
        handle.remove()
    z, outputs = (
        {name: _by_unit([pair[i] for pair in pairs]) for name, pairs in seen.items()} for i in (0, 1)
    )
    scores = {name: y.abs().mean(1) for name, y in outputs.items()}
    return UsageReport(
        ratios={},
        layers={},
        unit_status={name: (1 - 2 * (x.amax(1) <= 0).long()).to(torch.int8) for name, x in z.items()},
        point_status=torch.empty(0),
        point_layers=(),
        nan_units=0,
        unit_max={},
        unit_min={},
        dormancy={name: s / s.mean() if bool(s.any()) else s for name, s in scores.items()},
        unit_mean={name: y.mean(1) for name, y in outputs.items()},
    )


def _by_unit(tensors):
    """``[C, rows]``, float64: units are in dimension 1 behind convolutions, else in the last one."""
    rows = [x.transpose(0, 1).flatten(1) if x.dim() > 3 else x.reshape(-1, x.shape[-1]).T for x in tensors]
    return torch.cat(rows, 1).double()


@torch.no_grad()
def kill(layer, units, by=1e3):
    """Make the bias of units, of a layer or norm, so low that a ReLU behind it never passes anything."""
    layer.bias[units] = -by


def snapshot(model, *optimizers):
    """All bits that a caller sees of a model and optimizers."""
    states = [copy.deepcopy(each.state_dict()) for each in optimizers]
    gradients = {n: None if p.grad is None else p.grad.clone() for n, p in model.named_parameters()}
    flags = [(name, module.training, dict(module._forward_hooks)) for name, module in model.named_modules()]
    return copy.deepcopy(model.state_dict()), gradients, states, flags, torch.get_rng_state()


def same(one, other):
    """Whether two snapshots are equal to the bit."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def trained(model, x, optimizer_class=torch.optim.Adam, steps=3, **options):
    """An optimizer of a model with a state, after a few steps."""
    optimizer = optimizer_class(model.parameters(), **{"lr": 1e-3, **options})
    for _ in range(steps):
        optimizer.zero_grad()
        model.train()(x).square().mean().backward()
        optimizer.step()
    return optimizer
