"""recycle on networks drawn at random: whatever it recycles, the output is as before, and trains."""

import copy
import random

import pytest
import torch
import torch.nn.functional as F
from pruning.test_prune_random import Trunk
from recycling.recorded import kill, record
from surgery.test_link_relu_random import Drawn
from torch import nn

from jumpstart_kernels import recycle, replace_relu


def plant(model, generator):
    """Kill a third of the units by the biases of layers and norms, where they have some."""
    for module in model.modules():
        if getattr(module, "bias", None) is not None and not isinstance(module, nn.Linear):
            killed = torch.rand(len(module.bias), generator=generator) < 0.3
            kill(module, killed, by=40)


def check(model, x, seed, tau):
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    given, usage = copy.deepcopy(model).eval(), record(model, x)
    report = recycle(model, optimizer, usage, tau=tau, example_inputs=x, generator=generator)
    masks = usage.dormant(tau)
    for layer, units in report.recycled.items():
        assert bool(masks[layer][units].all())
        assert len(units) + sum(report.left[layer].values()) == int(masks[layer].sum())
    for layer, units in report.by_layer.items():
        now, before = (each.get_submodule(layer).weight for each in (model, given))
        dim = int(isinstance(model.get_submodule(layer), nn.ConvTranspose2d))
        changed = (now != before).transpose(0, dim).flatten(1)
        assert bool(changed[units].all())
    assert report.unchanged + report.on_average + report.changed == report.total
    if report.unchanged == report.total:
        with torch.no_grad():
            torch.testing.assert_close(model.eval()(x), given(x), rtol=1e-9, atol=1e-9)
    elif tau == 0:
        assert report.changed and not report.on_average
    model.train()
    try:
        model(x).square().sum().backward()
    except RuntimeError:  # it overwrites what its own backward needs
        return report
    optimizer.step()
    return report


def draw(seed):
    """A network with dead units, and its input; None for one that calls no ReLU."""
    torch.manual_seed(seed)
    model = Drawn(seed).double()
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) / 2
    model = replace_relu(model)
    x = torch.randn(16, 2, 4, 4, dtype=torch.float64)
    plant(model, torch.Generator().manual_seed(seed))
    return (model, x) if record(model, x).dormancy else None


@pytest.mark.parametrize(("seed", "tau"), [*((i, 0) for i in range(24)), *((i, 0.3) for i in range(24, 32))])
def test_drawn(seed, tau):
    drawn = draw(seed)
    if drawn is None:
        pytest.skip("it calls no ReLU")
    check(*drawn, seed, tau)


@pytest.mark.parametrize("seed", range(16))
def test_trunks(seed):
    torch.manual_seed(seed)
    model, x = Trunk(seed).double(), torch.randn(80, 4, dtype=torch.float64)
    model = replace_relu(model)
    for module in [model.first, *model.layers]:
        kill(module, torch.rand(6) < 0.3)
    check(model, x, seed, 0)


class Blocks(nn.Module):
    """Convolutions with activations of all kinds, each of which reads one tensor or two of before."""

    def __init__(self, seed):
        super().__init__()
        draw = random.Random(seed)
        self.blocks, self.sources, widths = nn.ModuleList(), [], [2]
        for _ in range(draw.randint(2, 5)):
            last = len(widths) - 1
            sources = [last] if draw.random() < 0.6 else [last, draw.randrange(len(widths))]
            width, before = draw.choice([3, 4, 6]), sum(widths[i] for i in sources)
            self.blocks.append(self.draw_block(draw, before, width))
            self.sources.append(sources)
            widths.append(width)
        self.fc1, self.relu, self.fc2 = nn.Linear(4 * widths[-1], 5), nn.ReLU(), nn.Linear(5, 3)

    def draw_block(self, draw, inputs, outputs):
        normed, bias = draw.random() < 0.5, draw.random() < 0.7
        kind = draw.choice([nn.Conv2d, nn.Conv2d, nn.ConvTranspose2d])
        size = draw.choice([1, 3])
        layers = [kind(inputs, outputs, size, padding=size // 2, bias=bias or not normed)]
        if normed:
            layers.append(draw.choice([nn.BatchNorm2d(outputs), nn.InstanceNorm2d(outputs, affine=True)]))
        layers.append(draw.choice([nn.ReLU(), nn.ReLU(inplace=True), nn.GELU(), nn.SiLU()]))
        behind = [nn.MaxPool2d(3, 1, 1), nn.AvgPool2d(3, 1, 1), nn.Dropout(0.1), nn.BatchNorm2d(outputs)]
        if draw.random() < 0.4:
            layers.append(draw.choice(behind))
        return nn.Sequential(*layers)

    def forward(self, x):
        values = [x]
        for block, sources in zip(self.blocks, self.sources, strict=True):
            values.append(block(torch.cat([values[i] for i in sources], 1)))
        x = F.adaptive_avg_pool2d(values[-1], 2)
        return self.fc2(self.relu(self.fc1(x.flatten(1))))


@pytest.mark.parametrize("seed", range(40))
def test_blocks(seed):
    torch.manual_seed(seed)
    model, x = Blocks(seed).double(), torch.randn(16, 2, 4, 4, dtype=torch.float64)
    model(x)
    for block in model.blocks:
        last = [module for module in block[:2] if getattr(module, "bias", None) is not None][-1]
        kill(last, [0])
    kill(model.fc1, [2])
    report = check(model, x, seed, 0)
    assert report.total > len(model.blocks)
    assert not any(report.left.values())
