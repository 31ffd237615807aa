"""Networks to initialize, each with the shape of an input, and what the tests ask of them."""

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.models import build_mlp, build_resnet50
from jumpstart_kernels import looks_linear_


def resnet(**options):
    return build_resnet50(cifar_stem=True, width=8, classes=5, **options)


class Functional(nn.Module):
    """Calls instead of modules, and a concatenation of units, of twins in two places."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3, padding=1)
        self.left, self.right = nn.Conv2d(8, 6, 1), nn.Conv2d(8, 10, 3, padding=1)
        self.last = nn.Linear(16 * 4, 3)

    def forward(self, x):
        x = F.avg_pool2d(F.relu(self.first(x)), 2)
        x = torch.cat([self.left(x).relu(), torch.relu(self.right(x))], 1)
        return self.last(F.dropout(x, 0.5, self.training).flatten(1))


class Preactivated(nn.Module):
    """A stream of mirrored units, to which blocks add theirs."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(6, 8)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8)) for _ in range(20)
        )
        self.last = nn.Sequential(nn.ReLU(), nn.Linear(8, 2))

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.last(x)


class WithInput(nn.Module):
    """A layer that reads units in pairs beside the model's input, and units without an activation."""

    def __init__(self):
        super().__init__()
        self.first, self.bottleneck = nn.Linear(6, 10), nn.Linear(10, 3)
        self.second, self.last = nn.Linear(9, 8), nn.Linear(8, 2)

    def forward(self, x):
        narrow = self.bottleneck(F.leaky_relu(self.first(x), 0.3))
        return self.last(F.relu(self.second(torch.cat([narrow, x], 1))))


class Viewed(nn.Module):
    """Flattens by a view that only shapes explain."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv1d(2, 4, 3, padding=1), nn.Linear(4 * 7, 3)

    def forward(self, x):
        return self.last(torch.relu(self.first(x)).view(-1, 28))


def sequence(*layers):
    return lambda: nn.Sequential(*[layer() for layer in layers])


def linear_net(activation, units=8):
    layers = lambda: [nn.Linear(6, units), activation(), nn.Linear(units, 12), activation()]  # noqa: E731
    return lambda: nn.Sequential(*layers(), nn.Linear(12, 4))


def conv3d_net():
    return nn.Sequential(
        nn.Conv3d(1, 4, 3, stride=2), nn.ReLU(), nn.Conv3d(4, 6, 2, padding="same"), nn.ReLU(),
        nn.Conv3d(6, 4, (1, 3, 3), dilation=2, padding=(0, 2, 2)), nn.ReLU(), nn.Flatten(),
        nn.Linear(4 * 27, 2),
    )  # fmt: skip


LINEAR = {
    "mlp of 50 layers": (lambda: build_mlp(16, 5, units=16, depth=50), (16,)),
    "resnet50 without skips": (lambda: resnet(batch_norm=False, skips=False), (3, 32, 32)),
    "functional": (Functional, (2, 4, 4)),
    "preactivated": (Preactivated, (6,)),
    "with input": (WithInput, (6,)),
    "leaky": (linear_net(lambda: nn.LeakyReLU(0.2)), (6,)),
    "prelu": (linear_net(nn.PReLU), (6,)),
    "silu": (linear_net(nn.SiLU), (6,)),
    "gelu": (linear_net(nn.GELU), (6,)),
    "conv3d": (conv3d_net, (1, 7, 7, 7)),
}
"""Linear functions of their input, once they are initialized."""


def double(build, shape, samples=7):
    """A model in float64 and evaluation, and an input."""
    torch.manual_seed(0)
    return build().double().eval(), torch.randn(samples, *shape, dtype=torch.float64)


def is_odd(model, x):
    """Whether the sign of the input is that of the output."""
    with torch.no_grad():
        return torch.allclose(model(-x), -model(x), rtol=1e-9, atol=1e-9) and model(x).abs().max() > 0.01


def initialize(*layers):
    """A sequence of layers in float64 and evaluation, and the report of its initialization."""
    torch.manual_seed(0)
    model = nn.Sequential(*layers).double().eval()
    return model, looks_linear_(model)
