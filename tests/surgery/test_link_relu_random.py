"""link_relu on networks drawn at random: whatever it decides, the output is as before."""

import copy
import random
import warnings

import pytest
import torch
import torch.nn.functional as F
from surgery.link_models import count_linked, outputs
from torch import nn

from jumpstart_kernels import link_relu


class Drawn(nn.Module):
    """A program of steps over a growing list of tensors, each of which takes tensors of before."""

    def __init__(self, seed):
        super().__init__()
        self.draw = draw = random.Random(seed)
        self.layers = nn.ModuleList([nn.Conv2d(2, 4, 3, padding=1)])
        self.shared = nn.ReLU(inplace=draw.random() < 0.2)
        self.steps = []
        self.widths = [4]
        for _ in range(draw.randint(4, 14)):
            self.add_step()
        chosen = [
            len(self.widths) - 1,
            *(draw.randrange(len(self.widths)) for _ in range(draw.randint(0, 2))),
        ]
        self.steps.append(("cat", chosen, None))
        self.fc = nn.Linear(4 * sum(self.widths[i] for i in chosen), 3)
        del self.draw

    def add_step(self):
        draw = self.draw
        last = len(self.widths) - 1
        source = last if draw.random() < 0.7 else draw.randrange(max(0, last - 3), last + 1)
        width = self.widths[source]
        kind = draw.choice(
            ["layer"] * 4 + ["relu"] * 5 + ["norm", "pool", "add", "cat", "scale", "mix", "gate"]
        )
        arguments, layer = [source], None
        if kind == "layer":
            outputs = draw.choice([2, 4, 6])
            kinds = [nn.Conv2d(width, outputs, 1), nn.Conv2d(width, width, 3, padding=1, groups=width)]
            kinds += [nn.Conv2d(width, 2 * width, 1, groups=width), nn.ConvTranspose2d(width, outputs, 1)]
            if width % 2 == 0:
                kinds.append(nn.Conv2d(width, outputs, 3, padding=1, groups=2))
            layer = draw.choice(kinds)
            width = layer.out_channels
        elif kind == "relu":
            layer = draw.choice(["shared", "call", "call", "in place", nn.ReLU(), nn.ReLU()])
        elif kind == "norm":
            kinds = [nn.BatchNorm2d(width), nn.InstanceNorm2d(width, affine=True), nn.GroupNorm(1, width)]
            layer = draw.choice([*kinds, nn.GroupNorm(width, width)])
        elif kind == "pool":
            layer = draw.choice([nn.AvgPool2d(3, 1, 1), nn.MaxPool2d(3, 1, 1), nn.Identity()])
        elif kind == "add":
            alike = [i for i, other in enumerate(self.widths) if other == width]
            arguments.append(draw.choice(alike))
            layer = draw.choice(["add", "write", "mul"])
        elif kind == "cat":
            arguments.append(draw.randrange(len(self.widths)))
            width += self.widths[arguments[1]]
        if isinstance(layer, nn.Module):
            self.layers.append(layer)
            layer = len(self.layers) - 1
        self.steps.append((kind, arguments, layer))
        self.widths.append(width)

    def forward(self, x):
        values = [self.layers[0](x)]
        for kind, arguments, layer in self.steps:
            operands = [values[i] for i in arguments]
            if isinstance(layer, int):
                values.append(self.layers[layer](operands[0]))
            elif kind == "relu":
                values.append(self.apply_relu(layer, operands[0]))
            elif kind == "add":
                values.append(self.combine(layer, *operands))
            elif kind == "cat":
                values.append(torch.cat(operands, 1))
            elif kind == "scale":
                values.append(operands[0] * 0.5 + 0.1)
            elif kind == "mix":
                values.append(operands[0].softmax(1))
            else:
                values.append(operands[0] * operands[0].mean((2, 3), keepdim=True).sigmoid())
        return self.fc(F.adaptive_avg_pool2d(values[-1], 2).flatten(1))

    def apply_relu(self, how, x):
        if how == "shared":
            return self.shared(x)
        return F.relu(x) if how == "call" else torch.relu_(x)

    def combine(self, how, x, y):
        if how == "write":
            x += y
            return x
        return x + y if how == "add" else x * y


@pytest.mark.parametrize("seed", range(60))
def test_output_is_as_before(seed):
    torch.manual_seed(seed)
    model = Drawn(seed).double()
    for parameter in model.parameters():
        parameter.data = torch.randn_like(parameter) / 2
    x = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    plain = copy.deepcopy(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        link_relu(model)
        with torch.no_grad():
            for one, other in zip(outputs(model, x), outputs(plain, x), strict=True):
                torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
        drawn = link_relu(plain, weights="fresh", keep_parameters=True)
        assert count_linked(drawn) == count_linked(model)
        assert outputs(drawn, x)[0].shape == (3, 3)
