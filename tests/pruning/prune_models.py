"""Models for permutation_prune: the motifs of networks in use, each small, and their sets of units."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from surgery.link_models import Block, quietly_link
from torch import nn

import jumpstart_kernels as jk


class Units(NamedTuple):
    """A set of units, and how one of them is made another one times a number.

    Rows and bias of ``layers`` are copied and scaled, those of ``inner`` are copied: a norm is behind them,
    or they scale what has been scaled. ``norms`` have the units at an offset; they are copied and scaled.
    """

    layers: tuple = ()
    inner: tuple = ()
    norms: tuple = ()


def mlp():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 7), nn.ReLU(inplace=True), nn.Linear(7, 3))


def normed_mlp():
    return nn.Sequential(
        nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)
    )


def conv_net():
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 6, 3, padding=1, padding_mode="circular"),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 7),
        nn.ReLU(),
        nn.Linear(7, 3),
    )


class Functional(nn.Module):
    """Functional calls, and a view with the size of the batch."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3, stride=2)
        self.fc1 = nn.Linear(24, 7)
        self.fc2 = nn.Linear(7, 3)

    def forward(self, x):
        x = F.relu(self.conv(x))
        x = F.dropout(x.view(x.size(0), -1), 0.5, training=self.training)
        return self.fc2(self.fc1(x).relu_() * 2)


class Residual(nn.Module):
    """Basic blocks: one ReLU module for two calls, a shortcut with a layer, ``+=``."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(2, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.blocks = nn.Sequential(Block(6, 6), Block(6, 7, 2), Block(7, 7))
        self.fc = nn.Linear(7, 3)

    def forward(self, x):
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(self.blocks(self.stem(x)), 1), 1))


class PreActivated(nn.Module):
    """Norm and ReLU come first; the shortcut is not activated."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 1)
        self.bn1, self.bn2, self.bn3 = nn.BatchNorm2d(6), nn.BatchNorm2d(5), nn.BatchNorm2d(6)
        self.conv1, self.conv2 = nn.Conv2d(6, 5, 3, padding=1), nn.Conv2d(5, 6, 3, padding=1)
        self.fc = nn.Linear(6, 3)

    def forward(self, x):
        x = self.conv(x)
        x = x + self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        return self.fc(F.relu(self.bn3(x)).mean((2, 3)))


class DenseLayer(nn.Module):
    def __init__(self, inputs):
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(inputs), nn.Conv2d(inputs, 5, 3, padding=1)

    def forward(self, *features):
        return self.conv(F.relu(self.norm(torch.cat(features, 1))))


class Dense(nn.Module):
    """Concatenated, normed and activated several times."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(2, 5, 3, padding=1)
        self.layer1, self.layer2 = DenseLayer(5), DenseLayer(10)
        self.norm = nn.BatchNorm2d(15)
        self.fc = nn.Linear(60, 3)

    def forward(self, x):
        x = self.stem(x)
        y = self.layer1(x)
        x = F.relu(self.norm(torch.cat([x, y, self.layer2(x, y)], 1)))
        return self.fc(F.adaptive_avg_pool2d(x, 2).flatten(1))


class Branches(nn.Module):
    """Inception: branches and the input itself are concatenated."""

    def __init__(self):
        super().__init__()
        self.branch1 = nn.Sequential(nn.Conv2d(2, 6, 1), nn.ReLU())
        self.branch2 = nn.Sequential(nn.Conv2d(2, 5, 3, padding=2, dilation=2), nn.ReLU())
        self.fc = nn.Linear(13, 3)

    def forward(self, x):
        return self.fc(torch.cat([self.branch1(x), x, self.branch2(x)], dim=1).mean([2, 3]))


def depthwise():
    return nn.Sequential(
        nn.Conv2d(2, 6, 1),
        nn.ReLU(),
        nn.Conv2d(6, 6, 3, padding=1, groups=6),
        nn.ReLU(),
        nn.Conv2d(6, 5, 1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(5, 3),
    )


def segmentation():
    """Transposed convolutions, logits for every position."""
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 5, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(5, 3, 1),
    )


def sequences():
    return nn.Sequential(
        nn.Conv1d(2, 6, 3, padding="same", padding_mode="replicate"),
        nn.ReLU(),
        nn.Conv1d(6, 5, 3, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(20, 3),
    )


def volumes():
    return nn.Sequential(
        nn.Conv3d(2, 6, 2), nn.BatchNorm3d(6), nn.ReLU(), nn.AvgPool3d(2), nn.Flatten(), nn.Linear(48, 3)
    )


class Tokens(nn.Module):
    """Integers in, units in the last dimension."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(200, 4)
        self.fc1, self.fc2 = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.fc2(F.relu(self.fc1(self.embed(x)))).mean(1)


class Excited(nn.Module):
    """Squeeze and excitation: a gate multiplies."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 1)
        self.fc1, self.fc2 = nn.Conv2d(6, 5, 1), nn.Conv2d(5, 6, 1)
        self.out = nn.Linear(6, 3)

    def forward(self, x):
        x = F.relu(self.conv(x))
        gate = torch.sigmoid(self.fc2(F.relu(self.fc1(x.mean((2, 3), keepdim=True)))))
        return self.out((x * gate).mean((2, 3)))


class Optional(nn.Module):
    """Optional arguments, and a second output in training, by a layer whose units must stay as they are."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 6, 3)
        self.fc1, self.fc2, self.side = nn.Linear(6, 7), nn.Linear(7, 3), nn.Linear(7, 2)

    def forward(self, x, features=False, scale=None):
        x = F.adaptive_avg_pool2d(F.relu(self.conv(x)), 1).flatten(1)
        x = F.relu(self.fc1(x))
        if scale is not None:
            x = x * 2
        if features:
            return self.fc2(x), self.side(x)
        return (self.fc2(x), self.side(x)) if self.training else self.fc2(x)


class Case(NamedTuple):
    build: object
    shape: tuple  # of an input, without the batch; () for 5 integers
    sets: tuple  # of Units: all sets that can be cut, in the order of the forward
    seed: int = 0  # by which nothing is redundant but what is planted


def normed(layer, norm):
    return Units(inner=(layer,), norms=((norm, 0),))


PLAIN = {
    "mlp": Case(mlp, (4,), (Units(("0",)), Units(("2",)))),
    "normed_mlp": Case(normed_mlp, (4,), (normed("0", "1"),)),
    "conv_net": Case(conv_net, (2, 8, 8), (normed("0", "1"), Units(("4",)), Units(("8",)))),
    "functional": Case(Functional, (2, 6, 6), (Units(("conv",)), Units(("fc1",)))),
    "residual": Case(
        Residual,
        (2, 8, 8),
        (
            Units(inner=("stem.0", "blocks.0.conv2"), norms=(("stem.1", 0), ("blocks.0.bn2", 0))),
            normed("blocks.0.conv1", "blocks.0.bn1"),
            normed("blocks.1.conv1", "blocks.1.bn1"),
            Units(
                ("blocks.1.shortcut",),
                ("blocks.1.conv2", "blocks.2.conv2"),
                (("blocks.1.bn2", 0), ("blocks.2.bn2", 0)),
            ),
            normed("blocks.2.conv1", "blocks.2.bn1"),
        ),
    ),
    "pre_activated": Case(
        PreActivated,
        (2, 6, 6),
        (Units(inner=("conv", "conv2"), norms=(("bn1", 0), ("bn3", 0))), normed("conv1", "bn2")),
        9,
    ),
    "dense": Case(
        Dense,
        (2, 6, 6),
        (
            Units(inner=("stem",), norms=(("layer1.norm", 0), ("layer2.norm", 0), ("norm", 0))),
            Units(inner=("layer1.conv",), norms=(("layer2.norm", 5), ("norm", 5))),
            Units(inner=("layer2.conv",), norms=(("norm", 10),)),
        ),
    ),
    "branches": Case(Branches, (2, 6, 6), (Units(("branch1.0",)), Units(("branch2.0",)))),
    "depthwise": Case(depthwise, (2, 6, 6), (Units(("0",), ("2",)), Units(("4",))), 2),
    "segmentation": Case(segmentation, (2, 6, 6), (Units(("0",)), Units(("2",)))),
    "sequences": Case(sequences, (2, 6), (Units(("0",)), Units(("2",)))),
    "volumes": Case(volumes, (2, 5, 5, 5), (normed("0", "1"),)),
    "tokens": Case(Tokens, (), (Units(("fc1",)),)),
    "excited": Case(Excited, (2, 4, 4), (Units(("conv",), ("fc2",)), Units(("fc1",))), 19),
    "optional": Case(Optional, (2, 5, 5), (Units(("conv",)),)),
}
CASES = {
    **PLAIN,
    "jumpstart_mlp": PLAIN["mlp"]._replace(build=lambda: jk.replace_relu(mlp())),
    "jumpstart_functional": PLAIN["functional"]._replace(build=lambda: jk.replace_relu(Functional())),
    "fused_bias": PLAIN["mlp"]._replace(build=lambda: jk.replace_relu(mlp(), fuse_bias=True)),
    "fused_residual": PLAIN["residual"]._replace(build=lambda: jk.replace_relu(Residual(), fuse_bias=True)),
    "linked_mlp": PLAIN["mlp"]._replace(build=lambda: quietly_link(mlp())),
    "linked_conv_net": PLAIN["conv_net"]._replace(build=lambda: quietly_link(conv_net())),
}
