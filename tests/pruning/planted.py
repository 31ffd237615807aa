"""Redundancy planted in the models of prune_models.py, data for them, and what a caller sees of a model."""

import copy

import torch
from torch import nn

from jumpstart_kernels.nn import LinkedReLU


def build(case, seed=None):
    """A model in float64 with statistics of its own."""
    torch.manual_seed(case.seed if seed is None else seed)
    model = case.build().double()
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.5 if "var" in name else torch.randn_like(tensor) / 2)
    return model.train()


def batches(case, seed=0, sizes=(50, 50, 28)):
    generator = torch.Generator().manual_seed(seed)
    if not case.shape:
        return [torch.randint(200, (size, 5), generator=generator) for size in sizes]
    return [torch.randn(size, *case.shape, generator=generator, dtype=torch.float64) for size in sizes]


def _rows(layer):
    return layer.weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else layer.weight


@torch.no_grad()
def plant_copy(model, units, unit, of, scale=1.0):
    """Make a unit of a set the same as another one, times a number."""
    for name in (*units.layers, *units.inner):
        layer = model.get_submodule(name)
        factor = scale if name in units.layers else 1
        bias_factor = scale if getattr(layer, "groups", 1) > 1 else factor
        _rows(layer)[unit] = _rows(layer)[of] * factor
        if layer.bias is not None:
            layer.bias[unit] = layer.bias[of] * bias_factor
    for name, offset in units.norms:
        norm = model.get_submodule(name)
        for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias):
            tensor[offset + unit] = tensor[offset + of]
        norm.weight[offset + unit] *= scale
        norm.bias[offset + unit] *= scale


@torch.no_grad()
def plant_dead(model, units, unit):
    """Make a unit of a set negative whatever it sees, or 0 where it is linked."""
    is_linked = any(isinstance(module, LinkedReLU) for module in model.modules())
    for name, offset in units.norms:
        norm = model.get_submodule(name)
        norm.bias[offset + unit] = 0 if is_linked else -1e3
        norm.weight[offset + unit] *= not is_linked
    for name in units.layers + (() if units.norms else units.inner):
        layer = model.get_submodule(name)
        if layer.bias is None or is_linked:
            _rows(layer)[unit] = 0
        if layer.bias is not None:
            layer.bias[unit] = 0 if is_linked else -1e3


def plant(case, scale=1.7):
    """A model in each of whose sets unit 2 is dead, and unit 1 as unit 3 times a number."""
    model = build(case)
    for units in case.sets:
        plant_copy(model, units, 1, 3, scale)
        plant_dead(model, units, 2)
    return model


def found(report, case):
    """Of each set in turn, the dead units that are gone, and the pairs of those merged."""
    layers = {name: layer for layer in report.layers for name in layer.layers}
    sets = [layers[(units.layers + units.inner)[0]] for units in case.sets]
    return [(layer.dead, [{merge.unit, merge.into} for merge in layer.merges]) for layer in sets]


def snapshot(model):
    """All that a caller can see of a model."""
    return {
        "state": {name: tensor.clone() for name, tensor in model.state_dict().items()},
        "ids": [id(each) for each in (*model.parameters(), *model.buffers(), *model.modules())],
        "grads": [None if each.grad is None else each.grad.clone() for each in model.parameters()],
        "flags": [(type(each), each.training, copy.copy(vars(each)).keys()) for each in model.modules()],
        "requires": [each.requires_grad for each in model.parameters()],
        "random": torch.get_rng_state(),
    }


def same(one, other):
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other
