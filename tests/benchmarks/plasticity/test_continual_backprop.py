"""Continual backpropagation against its definition for one network."""

import torch

from benchmarks.plasticity import continual_backprop
from benchmarks.plasticity.continual_backprop import ContinualBackprop
from benchmarks.plasticity.networks import Networks, Shape
from benchmarks.plasticity.optimizers import SGD

SHAPE, DECAY = Shape(5, 3, 2, 6), 0.9
STEPS, SAMPLES, MATURITY, FRESH = 20, 16, 3, 0.25


def single(networks, k, inputs, rate):
    """The utilities and weights of one network after passes with no gradient; which units were replaced."""
    weights = [weight[k].detach().clone() for weight in networks.weights]
    biases = [bias[k, :, 0].detach().clone() for bias in networks.biases]
    utility, mean, age = (torch.zeros(SHAPE.depth, SHAPE.width, dtype=torch.float64) for _ in range(3))
    due, replaced = [0.0] * SHAPE.depth, []
    for step, x in enumerate(inputs):
        h, features = x[k], []
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            h = (weight @ h + bias[:, None]).clamp(min=0)
            features.append(h)
        age += 1
        for layer, h in enumerate(features):
            outgoing = weights[layer + 1].abs().sum(0)
            mean[layer] = DECAY * mean[layer] + (1 - DECAY) * h.mean(1)
            utility[layer] = DECAY * utility[layer] + (1 - DECAY) * h.abs().mean(1) * outgoing
        for layer in range(SHAPE.depth):
            mature = [unit for unit in range(SHAPE.width) if age[layer, unit] > MATURITY]
            due[layer] += rate * len(mature)
            if due[layer] < 1:
                continue
            due[layer] -= 1
            corrected = utility / (1 - DECAY**age)
            worst = min(mature, key=lambda unit, values=corrected[layer]: values[unit])
            replaced.append((step, layer, worst))
            average = mean[layer, worst] / (1 - DECAY ** age[layer, worst])
            biases[layer + 1] += weights[layer + 1][:, worst] * average
            weights[layer][worst] = FRESH
            biases[layer][worst] = 0
            weights[layer + 1][:, worst] = 0
            utility[layer, worst] = mean[layer, worst] = age[layer, worst] = 0
    return weights, biases, utility, replaced


def test_a_stack_replaces_the_units_that_each_network_would(monkeypatch):
    monkeypatch.setattr(continual_backprop, "DECAY", DECAY)
    monkeypatch.setattr(continual_backprop, "MATURITY", MATURITY)
    networks, rates = Networks(SHAPE, (0, 1, 2), dtype=torch.float64), (0.05, 0.0, 0.02)
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(STEPS, 3, SHAPE.inputs, SAMPLES, generator=generator, dtype=torch.float64)
    wanted = [single(networks, k, inputs, rate) for k, rate in enumerate(rates)]
    kept = ContinualBackprop(networks, rates, SGD(networks, (0.1,) * 3))
    kept.draw = lambda layer, *size: torch.full(size, FRESH, dtype=torch.float64)
    for x in inputs:
        kept.maintain(networks.run(x), lambda x=x: x)

    assert [len(replaced) for *_, replaced in wanted] == [len(wanted[0][3]), 0, len(wanted[2][3])]
    assert len(wanted[0][3]) > len(wanted[2][3]) > 0
    for k, (weights, biases, utility, _) in enumerate(wanted):
        torch.testing.assert_close(kept.utilities[k], utility)
        for layer, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            torch.testing.assert_close(networks.weights[layer][k], weight)
            torch.testing.assert_close(networks.biases[layer][k, :, 0], bias)


def test_moving_the_mean_keeps_the_mean_of_what_follows(monkeypatch):
    """Of the second layer, but for the unit that is itself replaced."""
    monkeypatch.setattr(continual_backprop, "MATURITY", 0)
    networks = Networks(SHAPE, (0,), dtype=torch.float64)
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(1, SHAPE.inputs, SAMPLES, generator=generator, dtype=torch.float64)
    before = networks.run(x).pre_activations[1].mean(2)
    kept = ContinualBackprop(networks, (0.2,), SGD(networks, (0.1,)))  # 1.2 units of 6 are due
    kept.draw = lambda layer, *size: torch.full(size, FRESH, dtype=torch.float64)
    kept.maintain(networks.run(x), lambda x=x: x)

    same = ~(networks.weights[1] == FRESH).any(2)
    assert same.sum() == SHAPE.width - 1
    torch.testing.assert_close(networks.run(x).pre_activations[1].mean(2)[same], before[same])
