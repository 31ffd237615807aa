"""``benchmarks/paper/stack.py``: what is trained in a stack is what is trained alone."""

import itertools

import pytest
import torch
import torch.nn.functional as F

import jumpstart_kernels as jk
from benchmarks.paper.networks import TECHNIQUES, Rectangle, Shape
from benchmarks.paper.optimizer import StackedAdam
from benchmarks.paper.stack import Stack, convolve
from benchmarks.paper.stack_training import take_step, unit_shares
from jumpstart_kernels.penalties.reduction import REDUCTIONS, TERMS
from jumpstart_kernels.usage.loader import unit_usage

RATES, LAMS, MAX_NORMS, DECAYS = (0.01, 0.001, 0.01), (0.0, 0.1, 1.0), (None, 0.05, 0.5), (0.1, 0.0, 0.01)
STEPS, SAMPLES, DEPTH = 10, 17, 5


def make(image, technique, classes=3):
    """Three networks in float64, their stack, and inputs ``[3, SAMPLES, 2]`` or ``[3, SAMPLES, 2, 4, 4]``."""
    torch.manual_seed(0)
    networks = [Rectangle(Shape(DEPTH, 4, 2, classes, image), technique).double() for _ in RATES]
    x = torch.randn(3, SAMPLES, 2, *([4, 4] if image else []), dtype=torch.float64)
    return networks, Stack(networks), x, torch.randint(classes, (3, SAMPLES))


def train_alone(network, x, y, rate, lam, max_norm=None, decay=0.0, **options):
    """At a rate that falls linearly, if there are options of the penalty."""
    optimizer = torch.optim.Adam(network.parameters(), lr=rate, weight_decay=decay)
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = rate * (1 - step / STEPS) if options else rate
        loss = F.cross_entropy(network(x), y)
        if network.technique == "jumpstart":
            loss = loss + lam * jk.penalty(network, **options)
        optimizer.zero_grad()
        loss.backward()
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(network.parameters(), max_norm)
        optimizer.step()


@pytest.mark.parametrize("image", (False, True), ids=("table", "image"))
@pytest.mark.parametrize("technique", TECHNIQUES)
def test_a_stack_trains_as_its_networks_do_alone(technique, image):
    """Ten steps of Adam, each network at its own rate and λ; in float64, to rounding."""
    networks, stack, x, y = make(image, technique)
    for network, *options in zip(networks, x, y, RATES, LAMS, strict=True):
        train_alone(network, *options)
    optimizer = StackedAdam(stack, RATES)
    for _ in range(STEPS):
        take_step(stack, optimizer, stack.arrange(x), y, torch.tensor(LAMS, dtype=torch.float64))

    for depth in range(DEPTH):
        kinds = {"weight": stack.weights, "bias": stack.biases}
        if technique == "batch_norm":
            del kinds["bias"]  # its gradient is zero but for rounding, which Adam takes for a direction
        for kind, parameters in kinds.items():
            alone = torch.stack([getattr(network.layers[depth], kind) for network in networks])
            torch.testing.assert_close(parameters[depth].view_as(alone), alone, rtol=1e-9, atol=1e-11)
    stack.eval()
    logits, penalty = stack(stack.arrange(x))
    assert penalty is None
    alone = torch.stack([network.eval()(part).T for network, part in zip(networks, x, strict=True)])
    torch.testing.assert_close(logits, alone, rtol=1e-6, atol=1e-8)  # BatchNorm divides by small deviations


@pytest.mark.parametrize(
    ("image", "technique", "reduction", "terms"),
    [
        *((False, "jumpstart", *names) for names in itertools.product(REDUCTIONS, TERMS)),
        *((True, "jumpstart", reduction, "full") for reduction in REDUCTIONS),
        *((image, name, "balanced", "full") for image in (False, True) for name in ("plain", "batch_norm")),
    ],
)
def test_rates_gradients_and_penalties_are_those_of_one_network(image, technique, reduction, terms):
    networks, _, x, y = make(image, technique)
    for network, *options in zip(networks, x, y, RATES, LAMS, MAX_NORMS, DECAYS, strict=True):
        train_alone(network, *options, reduction=reduction, terms=terms)
    beside, _, _, _ = make(image, technique)
    stack = Stack(beside, [(reduction, terms)] * len(beside))
    optimizer = StackedAdam(stack, RATES, MAX_NORMS, DECAYS)
    lams = torch.tensor(LAMS, dtype=torch.float64)
    for step in range(STEPS):
        factors = torch.full_like(lams, 1 - step / STEPS)
        take_step(stack, optimizer, stack.arrange(x), y, lams, factors)
    for depth in range(DEPTH):
        alone = torch.stack([network.layers[depth].weight for network in networks])
        torch.testing.assert_close(stack.weights[depth].view_as(alone), alone, rtol=1e-9, atol=1e-11)


def test_gradients_whose_squares_overflow_are_clipped():
    networks, _, _, _ = make(False, "plain")
    stack = Stack([network.float() for network in networks])
    optimizer = StackedAdam(stack, RATES, [1.0] * 3)
    optimizer.gradient.fill_(1e30)
    optimizer.clip_gradients(optimizer.limits)
    norms = [optimizer.gradient[optimizer.owner == k].norm() for k in range(3)]
    torch.testing.assert_close(torch.stack(norms), torch.ones(3))


def test_a_healthy_layer_has_a_gradient_of_zero_under_the_norm():
    networks, _, x, y = make(False, "jumpstart")
    stack = Stack(networks, [("norm", "full")] * 3)
    _, _ = stack(stack.arrange(x))
    healthy = torch.tensor([5.0, -5.0], dtype=torch.float64).view(2, 1, 1).expand(2, 3, 4)
    healthy = healthy.reshape(2, 12).requires_grad_()
    penalty = stack.penalty([F.pad(healthy, (0, 1))] * DEPTH, [F.pad(healthy, (4, 0))] * DEPTH)
    penalty.sum().backward()
    assert penalty.max() < 1e-100 and torch.equal(healthy.grad, torch.zeros_like(healthy))


@pytest.mark.parametrize("image", (False, True), ids=("table", "image"))
def test_the_penalty_is_the_packages(image):
    networks, stack, x, _ = make(image, "jumpstart")
    logits, penalty = stack(stack.arrange(x))
    for k, network in enumerate(networks):
        torch.testing.assert_close(logits[k], network(x[k]).T)
        torch.testing.assert_close(penalty[k], jk.penalty(network))


@pytest.mark.parametrize("image", (False, True), ids=("table", "image"))
def test_shares_of_units_are_those_of_unit_usage(image):
    networks, stack, x, _ = make(image, "jumpstart")
    dead, linear = unit_shares(stack, stack.arrange(x))
    assert stack.training
    for k, network in enumerate(networks):
        report = unit_usage(network, [x[k]])
        assert dead[k].item() == pytest.approx(report.ratios["unit_dead_ratio"])
        assert linear[k].item() == pytest.approx(report.ratios["unit_linear_ratio"])
    assert dead.sum() > 0 and linear.sum() > 0


@pytest.mark.parametrize(
    "others",
    [
        [],
        [Rectangle(Shape(2, 4, 2, 3), "plain"), Rectangle(Shape(2, 4, 2, 3), "gelu")],
        [Rectangle(Shape(2, 4, 2, 3), "plain"), Rectangle(Shape(3, 4, 2, 3), "plain")],
    ],
    ids=("none", "techniques", "shapes"),
)
def test_networks_of_a_stack_are_alike(others):
    with pytest.raises(ValueError, match="one shape and one technique"):
        Stack(others)


@pytest.mark.parametrize(("count", "width"), [(4, 2), (6, 2), (6, 4), (3, 4), (4, 8), (2, 16), (3, 3)])
def test_networks_that_share_a_group_convolve_as_alone(count, width):
    torch.manual_seed(0)
    x = torch.randn(5, count * width, 6, 6, dtype=torch.float64)
    weight = torch.randn(count * width, width, 3, 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(count * width, dtype=torch.float64)
    outputs = [convolve(x, weight, bias, count), F.conv2d(x, weight, bias, padding=1, groups=count)]
    torch.testing.assert_close(*outputs)
    towards = torch.randn_like(outputs[0])
    torch.testing.assert_close(*(torch.autograd.grad(output, weight, towards) for output in outputs))


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="initialization must be one of 'pytorch', .* got 'zero'"):
        Rectangle(Shape(2, 4, 2, 3), "plain", "zero")
    with pytest.raises(ValueError, match="technique must be one of 'plain', .* got 'dropout'"):
        Rectangle(Shape(2, 4, 2, 3), "dropout")
