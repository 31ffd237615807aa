"""``benchmarks/plasticity``: what is trained in a stack is what is trained alone, in float64."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import jumpstart_kernels as jk
from benchmarks.plasticity import upkeep
from benchmarks.plasticity.networks import Networks, Shape
from benchmarks.plasticity.optimizers import OPTIMIZERS
from benchmarks.plasticity.techniques import TECHNIQUES
from benchmarks.plasticity.training import losses_of

SHAPE, SEEDS, RATES, LAMS = Shape(5, 3, 3, 8), (0, 1, 0), (0.05, 0.01, 0.02), (0.5, 0.0, 2.0)
STEPS, SAMPLES = 12, 16


class Linked(nn.Module):
    def __init__(self, relu):
        super().__init__()
        self.relu = relu

    def forward(self, z):
        return torch.cat([self.relu(z), F.relu(-z)], dim=1)


def alone(networks, k):
    """The k-th network as a module, with equal parameters."""
    layers = []
    for layer, (weight, bias) in enumerate(zip(networks.weights, networks.biases, strict=True)):
        linear = nn.Linear(weight.shape[2], weight.shape[1], dtype=torch.float64)
        with torch.no_grad():
            linear.weight.copy_(weight[k])
            linear.bias.copy_(bias[k, :, 0])
        layers.append(linear)
        if layer < networks.shape.depth:
            if networks.normalized:
                layers.append(nn.LayerNorm(networks.units, dtype=torch.float64))
            relu = jk.JumpstartReLU()
            layers.append(Linked(relu) if networks.linked else relu)
    return nn.Sequential(*layers)


def vector_of(module):
    """Its parameters in the order of the stack."""
    linear = [m for m in module if isinstance(m, nn.Linear)]
    norms = [m for m in module if isinstance(m, nn.LayerNorm)]
    parts = [m.weight for m in linear] + [m.bias for m in linear]
    parts += [m.weight for m in norms] + [m.bias for m in norms]
    return torch.cat([part.detach().flatten() for part in parts])


def batches():
    generator = torch.Generator().manual_seed(3)
    for _ in range(STEPS):
        x = torch.randn(len(SEEDS), SHAPE.inputs, SAMPLES, generator=generator, dtype=torch.float64)
        yield x, torch.randint(SHAPE.outputs, (len(SEEDS), SAMPLES), generator=generator)


def train_stack(name, optimizer, strengths=(0.0, 0.0, 0.0), lams=LAMS, prepare=lambda kept: None):
    technique = TECHNIQUES[name]
    networks = Networks(SHAPE, SEEDS, technique.linked, technique.normalized, torch.float64)
    modules = [alone(networks, k) for k in range(len(SEEDS))]
    update = OPTIMIZERS[optimizer](networks, RATES, technique.upkeep.replaces)
    kept = technique.upkeep(networks, strengths, update)
    prepare(kept)
    for x, y in batches():
        done = networks.run(x, penalized=True)
        losses = losses_of(done.output, y, False) + torch.tensor(lams, dtype=torch.float64) * done.penalty
        gradient = networks.gradient(losses)
        with torch.no_grad():
            kept.adjust(gradient)
            update.step(gradient)
            kept.maintain(done, lambda x=x: x)
    return networks, modules


def train_alone(modules, optimizer, lams, change=lambda k, module, step, x, optimizer: None, loss=None):
    makers = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}
    optimizers = [makers[optimizer](m.parameters(), lr=r) for m, r in zip(modules, RATES, strict=True)]
    initial = copy.deepcopy(modules)
    for step, (x, y) in enumerate(batches()):
        for k, module in enumerate(modules):
            value = F.cross_entropy(module(x[k].T), y[k]) + lams[k] * jk.penalty(module)
            if loss is not None:
                value = value + loss(k, module, initial[k])
            optimizers[k].zero_grad()
            value.backward()
            optimizers[k].step()
            change(k, module, step, x[k].T, optimizers[k])


def check(networks, modules):
    for k, module in enumerate(modules):
        torch.testing.assert_close(networks.vector[k], vector_of(module), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ("backprop", "linked", "layer_norm"))
def test_a_stack_trains_as_its_networks_do_alone(name, optimizer):
    """With the penalty of ``jk.penalty``, each at its own learning rate and λ."""
    networks, modules = train_stack(name, optimizer)
    train_alone(modules, optimizer, LAMS)
    check(networks, modules)


def test_the_penalty_and_its_gradient_are_those_of_single_networks():
    networks = Networks(SHAPE, SEEDS, dtype=torch.float64)
    x, _ = next(batches())
    done = networks.run(x, penalized=True)
    penalty = done.penalty
    gradient = networks.gradient(penalty + 0 * done.output.sum((1, 2)))
    for k in range(len(SEEDS)):
        module = alone(networks, k)
        module(x[k].T)
        value = jk.penalty(module)
        torch.testing.assert_close(penalty[k], value)
        value.backward()
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
        torch.testing.assert_close(gradient[k], vector_of(module))


def decay(strengths, towards_initial):
    def loss(k, module, initial):
        pairs = zip(module.parameters(), initial.parameters(), strict=True)
        return strengths[k] / 2 * sum((p - towards_initial * q.detach()).square().sum() for p, q in pairs)

    return loss


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ("l2", "l2_init"))
def test_decay_is_a_term_of_the_loss(name, optimizer):
    strengths = (0.1, 0.0, 0.01)
    networks, modules = train_stack(name, optimizer, strengths)
    train_alone(modules, optimizer, LAMS, loss=decay(strengths, name == "l2_init"))
    check(networks, modules)


def test_shrink_and_perturb_moves_weights_towards_given_ones(monkeypatch):
    strengths = (0.1, 0.0, 0.5)
    monkeypatch.setattr(upkeep, "PERTURBED_EVERY", 4)
    fresh = [torch.randn(size, dtype=torch.float64) for size in ((8, 5), (8, 8), (8, 8), (3, 8))]

    def prepare(kept):
        kept.draw = lambda layer, *size: fresh[layer].expand(size)

    def change(k, module, step, x, optimizer):
        if (step + 1) % 4 == 0:
            with torch.no_grad():
                for layer, weight in zip([m for m in module if isinstance(m, nn.Linear)], fresh, strict=True):
                    layer.weight.copy_((1 - strengths[k]) * layer.weight + strengths[k] * weight)
                    layer.bias.mul_(1 - strengths[k])

    networks, modules = train_stack("shrink_and_perturb", "adam", strengths, prepare=prepare)
    train_alone(modules, "adam", LAMS, change)
    check(networks, modules)


def test_redo_replaces_dormant_units_and_forgets_their_moments(monkeypatch):
    thresholds = (0.3, 0.0, 0.6)
    monkeypatch.setattr(upkeep, "RECYCLED_EVERY", 5)
    replaced = []

    def prepare(kept):
        kept.draw = lambda layer, *size: torch.full(size, 0.25, dtype=torch.float64)

    def change(k, module, step, x, optimizer):
        """Everything of a replaced unit starts anew: moments are zero, and one step of Adam is its first."""
        if (step + 1) % 5:
            return
        linear = [m for m in module if isinstance(m, nn.Linear)]
        masks = []
        with torch.no_grad():
            h = x
            for layer in linear[:-1]:
                h = F.relu(layer(h))
                means = h.mean(0)
                masks.append(means / means.mean() <= thresholds[k])
            for place, mask in enumerate(masks):
                replaced.append(int(mask.sum()))
                linear[place].weight[mask] = 0.25
                linear[place].bias[mask] = 0
                linear[place + 1].weight[:, mask] = 0

    networks, modules = train_stack("redo", "sgd", thresholds, prepare=prepare)
    train_alone(modules, "sgd", LAMS, change)
    assert sum(replaced) > 5
    check(networks, modules)


def test_a_replaced_unit_starts_adam_at_step_zero():
    networks = Networks(SHAPE, SEEDS, dtype=torch.float64)
    update = OPTIMIZERS["adam"](networks, RATES, forgets=True)
    generator = torch.Generator().manual_seed(0)
    gradients = torch.randn(6, *networks.vector.shape, generator=generator, dtype=torch.float64)
    for gradient in gradients[:3]:
        update.step(gradient)
    index = (torch.tensor([1]), torch.tensor([4]))  # unit 4 of network 1
    update.forget(1, index)
    before = networks.vector.clone()
    for gradient in gradients[3:]:
        update.step(gradient)

    weights = nn.Parameter(networks.views(before, [p.shape for p in networks.parameters])[1][index].clone())
    optimizer = torch.optim.Adam([weights], lr=RATES[1])
    for gradient in gradients[3:]:
        weights.grad = networks.views(gradient, [p.shape for p in networks.parameters])[1][index]
        optimizer.step()
    torch.testing.assert_close(networks.weights[1][index], weights)
