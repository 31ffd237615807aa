"""Models by where the layers before their ReLUs put the units."""

import functools

import torch
import torch.nn.functional as F
from torch import nn


def block(forward, **layers):
    """An instance of a new class whose forward is the function."""

    def init(self):
        nn.Module.__init__(self)
        for name, layer in layers.items():
            setattr(self, name, layer)

    return type("Block", (nn.Module,), {"__init__": init, "forward": forward, "__module__": __name__})()


class Preactivation(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm, self.relu, self.conv = nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return x + self.conv(self.relu(self.norm(x)))


class ConvNeXtBlock(nn.Module):
    """Positions are tokens for a while."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1, groups=4), nn.LayerNorm(4)
        self.up, self.relu, self.down = nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 4)

    def forward(self, x):
        y = self.norm(self.conv(x).permute(0, 2, 3, 1))
        return x + self.down(self.relu(self.up(y))).permute(0, 3, 1, 2)


class Classic(nn.Module):
    """One module for convolutions and linear layers."""

    def __init__(self):
        super().__init__()
        self.conv, self.fc, self.relu = nn.Conv2d(1, 4, 3), nn.Linear(4 * 36, 5), nn.ReLU()

    def forward(self, x):
        return self.relu(self.fc(self.relu(self.conv(x)).flatten(1)))


class Stages(nn.Module):
    """Layers in a list, and a forward that torch.fx cannot follow."""

    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU()])

    def forward(self, x):
        for layer in self.layers:
            x = layer(x) if len(x) else x
        return x


class Head(nn.Module):
    """A ReLU before its layers, on an input from elsewhere."""

    def __init__(self):
        super().__init__()
        self.relu, self.pool, self.flat = nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        return self.fc(self.flat(self.pool(self.relu(x))))


class Calls(nn.Module):
    """A function as a layer: its behaviour is in the instance, not in the type."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.relu = nn.ReLU()

    def forward(self, image, tokens):
        return image.mean() + self.relu(tokens)


class TwoInputs(nn.Module):
    """The units of the second argument are those of the second layer."""

    def __init__(self):
        super().__init__()
        self.two, self.conv, self.fc = Two(), nn.Conv2d(3, 4, 2), nn.Linear(5, 4)

    def forward(self, x):
        return self.two(self.conv(x), self.fc(x.mean(2)))


class Branching(nn.Module):
    """A Sequential whose owner torch.fx cannot follow, in a module with layers of other kinds."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 2), nn.ReLU())
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.layers(x if len(x) else x[:1]).mean((-1, -2)))


class Indexed(nn.Module):
    """A Sequential whose owner calls its layers one by one."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 3), nn.ReLU())

    def forward(self, x):
        return self.layers[1](self.layers[0](x).transpose(-1, -2))


class NormAct(nn.BatchNorm2d):
    """A norm with a built-in activation, as in timm."""

    def __init__(self, channels):
        super().__init__(channels)
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(super().forward(x))


class Wrapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.act = nn.ReLU()

    def forward(self, x):
        return self.act(x)


class Projection(nn.Module):
    """A user-defined weight matrix: nothing tells the unit dimension of an einsum."""

    def __init__(self):
        super().__init__()
        self.matrix, self.relu = nn.Parameter(torch.eye(4)), nn.ReLU()

    def forward(self, x):
        return self.relu(torch.einsum("nct,cd->ndt", x, self.matrix))


def transposed(self, x):
    return self.relu(self.fc(x).transpose(-1, -2))


def normalized_tokens(self, x):
    return self.relu(self.norm(self.fc(x).transpose(1, 2))).transpose(1, 2)


def residual(self, x):
    return torch.relu(self.scale * x + self.conv(x))


def recurrent(self, x):
    return self.relu(self.rnn(x)[0])


def functional(self, x):
    return F.relu(F.layer_norm(F.linear(x, self.weight), (4,)))


def viewed(self, x):
    return self.relu(self.fc(x).view(x.shape[0], 2, 2, -1))


def pooled(self, x):
    return self.relu(self.conv(x)[..., 0])


def first_token(self, x):
    return self.relu(self.fc(x)[0])


def untraceable(self, x):
    x = self.conv(x)
    return self.relu(x[:, :, 0] if x.sum() < 1e9 else x)


relu, linear = nn.ReLU, nn.Linear
# The model, the size of an input without a batch, and the units of its ReLUs, in the order of find_relu.
CASES = {
    "mlp": (nn.Sequential(linear(4, 3), relu(), nn.Dropout(), linear(3, 2), relu()), (5, 4), [-1, -1]),
    "conv1d": (nn.Sequential(nn.Conv1d(2, 3, 2), relu()), (2, 5), [-2]),
    "conv2d": (nn.Sequential(nn.Conv2d(2, 3, 2), nn.MaxPool2d(2), relu()), (2, 5, 5), [-3]),
    "conv3d": (nn.Sequential(nn.ConvTranspose3d(2, 3, 2), relu()), (2, 3, 3, 3), [-4]),
    "group norm": (nn.Sequential(nn.Conv2d(2, 4, 2), nn.GroupNorm(2, 4), relu()), (2, 5, 5), [1]),
    "norm": (nn.Sequential(linear(4, 3), nn.LayerNorm(3), nn.GELU(), relu()), (5, 4), [-1]),
    "flattened": (nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(), relu()), (2, 5, 5), [-1]),
    "preactivation": (nn.Sequential(nn.Conv2d(2, 3, 1), Preactivation()), (2, 5, 5), [-3]),
    "first": (nn.Sequential(nn.Conv1d(2, 3, 1), nn.Sequential(relu(), nn.Conv1d(3, 3, 1))), (2, 5), [-2]),
    "convnext": (ConvNeXtBlock(), (4, 5, 5), [-1]),
    "list": (Stages(), (5, 4), [-1, -1]),
    "norm and activation": (nn.Sequential(nn.Conv2d(2, 3, 1), NormAct(3)), (2, 5, 5), [-3]),
    "wrapped": (nn.Sequential(linear(4, 3), Wrapped(), Wrapped()), (5, 4), [-1, -1]),
    "transposed": (block(transposed, fc=linear(4, 3), relu=relu()), (5, 4), [-2]),
    "normalized tokens": (
        block(normalized_tokens, fc=linear(4, 3), norm=nn.BatchNorm1d(3), relu=relu()),
        (5, 4),
        [1],
    ),
    "residual": (
        block(residual, conv=nn.Conv2d(3, 3, 3, padding=1), scale=nn.Parameter(torch.ones(3, 1, 1))),
        (3, 5, 5),
        [-3],
    ),
    "recurrent": (block(recurrent, rnn=nn.GRU(4, 3, batch_first=True), relu=relu()), (5, 4), [-1]),
    "functional": (block(functional, weight=nn.Parameter(torch.ones(4, 4))), (5, 4), [-1]),
    "attention": (nn.TransformerEncoderLayer(4, 1, 8, batch_first=True), (5, 4), [-1]),
    "transformer": (
        nn.TransformerEncoderLayer(4, 1, 8, activation=nn.ReLU(), batch_first=True),
        (5, 4),
        [-1],
    ),
    "shared": (Classic(), (1, 8, 8), [None]),
    "view": (block(viewed, fc=linear(4, 4), relu=relu()), (5, 4), [None]),
    "own matrix": (Projection(), (4, 5), [None]),
    "pooled": (block(pooled, conv=nn.Conv2d(3, 4, 2), relu=relu()), (3, 5, 5), [None]),
    "first token": (block(first_token, fc=linear(4, 3), relu=relu()), (5, 4), [-1]),
    "untraceable": (block(untraceable, conv=nn.Conv2d(3, 4, 2), relu=relu()), (3, 5, 5), [None]),
    "head": (nn.Sequential(nn.Conv2d(2, 3, 2), Head()), (2, 5, 5), [-3]),
    "unflattened": (
        block(
            lambda self, x: self.relu(self.u(self.fc(x))),
            fc=linear(4, 8),
            u=nn.Unflatten(1, (5, 1)),
            relu=relu(),
        ),
        (5, 4),
        [None],
    ),
    "permuting layer": (
        nn.Sequential(linear(4, 3), Calls(lambda x: x.permute(0, 2, 1)), Calls(lambda x: x * 2), relu()),
        (5, 4),
        [-2],
    ),
    "flattened places": (nn.Sequential(nn.Conv2d(2, 3, 2), nn.Flatten(2), relu()), (2, 5, 5), [-2]),
    "partial": (
        nn.Sequential(nn.Conv1d(2, 3, 2), Calls(functools.partial(torch.transpose, dim0=1, dim1=2)), relu()),
        (2, 5),
        [None],
    ),
    "two inputs": (TwoInputs(), (3, 6, 5), [-1]),
    "graph convolution": (
        block(
            lambda self, x: self.relu(torch.matmul(self.conv(x), self.links)),
            conv=nn.Conv2d(2, 3, 1),
            links=nn.Parameter(torch.ones(5, 5)),
            relu=relu(),
        ),
        (2, 4, 5),
        [None],
    ),
    "unfolded": (
        block(lambda self, x: self.relu(F.unfold(self.conv(x), 2)), conv=nn.Conv2d(2, 3, 2), relu=relu()),
        (2, 5, 5),
        [None],
    ),
    "selected": (
        block(lambda self, x: self.relu(self.conv(x).select(2, 0)), conv=nn.Conv2d(2, 3, 2), relu=relu()),
        (2, 5, 5),
        [None],
    ),
    "deviation": (
        block(
            lambda self, x: self.relu(torch.std(self.conv(x), dim=3)), conv=nn.Conv2d(2, 3, 2), relu=relu()
        ),
        (2, 5, 5),
        [None],
    ),
    "flattened in part": (
        block(
            lambda self, x: self.relu(self.conv(x).flatten(start_dim=1, end_dim=2)),
            conv=nn.Conv2d(2, 3, 2),
            relu=relu(),
        ),
        (2, 5, 5),
        [None],
    ),
    "twice": (block(lambda self, x: F.relu(self.fc(x).relu()), fc=nn.Linear(4, 3)), (5, 4), [-1, -1]),
    "branching": (Branching(), (3, 5, 5), [-3]),
    "one by one": (Indexed(), (5, 4), [-2]),
    "alone": (relu(), (5, 4), [None]),
}
