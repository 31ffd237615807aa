"""The papers' networks: layers of equal width, with the techniques that may make deep ones trainable."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

import jumpstart_kernels as jk

TECHNIQUES = {
    "plain": "ReLU only",
    "batch_norm": "BatchNorm before each ReLU",
    "skips": "a skip connection over every two layers",
    "gelu": "GELU instead of ReLU",
    "jumpstart": "ReLU with the penalty",
}
SKIPPED = 2  # layers under a skip connection
INITIALIZATIONS: dict[str, Callable[[Tensor], object] | None] = {
    "pytorch": None,
    "he": partial(nn.init.kaiming_normal_, nonlinearity="relu"),
    "xavier": nn.init.xavier_normal_,
    "orthogonal": partial(nn.init.orthogonal_, gain=nn.init.calculate_gain("relu")),
}
"""Of the layers' weights, by name; biases are zero. None: PyTorch's own initialization of both."""


@dataclass(frozen=True)
class Shape:
    """``depth`` layers of ``width`` units and a linear classifier.

    With ``image`` the layers are 3×3 convolutions, and the classifier sees the mean and the maximum of each
    channel.
    """

    depth: int
    width: int
    features: int
    """Inputs, or channels of an image."""
    classes: int
    image: bool = False


class Rectangle(nn.Module):
    """A network whose layers all have the same width.

    Args:
        shape: of the network.
        technique: a name in :data:`TECHNIQUES`.
        initialization: a name in :data:`INITIALIZATIONS`. The classifier keeps PyTorch's own.

    Raises:
        ValueError: unknown technique or initialization.
    """

    def __init__(self, shape: Shape, technique: str, initialization: str = "pytorch") -> None:
        check_technique(technique)
        if initialization not in INITIALIZATIONS:
            names = ", ".join(map(repr, INITIALIZATIONS))
            raise ValueError(f"initialization must be one of {names}, got {initialization!r}")
        super().__init__()
        self.shape, self.technique = shape, technique
        sizes = [shape.features] + [shape.width] * shape.depth
        layers = [
            nn.Conv2d(inputs, shape.width, 3, padding=1) if shape.image else nn.Linear(inputs, shape.width)
            for inputs in sizes[:-1]
        ]
        self.layers = nn.ModuleList(layers)
        initialize = INITIALIZATIONS[initialization]
        if initialize is not None:
            for layer in layers:
                initialize(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        norm: Any = nn.BatchNorm2d if shape.image else nn.BatchNorm1d
        count = shape.depth if technique == "batch_norm" else 0
        self.norms = nn.ModuleList(norm(shape.width) for _ in range(count))
        activation: Any = {"jumpstart": jk.JumpstartReLU, "gelu": nn.GELU}.get(technique, nn.ReLU)
        self.activations = nn.ModuleList(activation() for _ in range(shape.depth))
        self.classifier = nn.Linear(shape.width * (2 if shape.image else 1), shape.classes)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, features]`` or ``[N, features, H, W]`` to logits ``[N, classes]``."""
        skipped = None
        for depth, (layer, activation) in enumerate(zip(self.layers, self.activations, strict=True)):
            x = layer(x)
            if self.norms:
                x = self.norms[depth](x)
            x = activation(x)
            if self.technique == "skips" and depth % SKIPPED == 0:
                skipped = x = x if skipped is None else x + skipped
        if self.shape.image:
            x = torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1)
        return self.classifier(x)


def check_technique(technique: str) -> None:
    if technique not in TECHNIQUES:
        raise ValueError(f"technique must be one of {', '.join(map(repr, TECHNIQUES))}, got {technique!r}")


def activate(x: Tensor, technique: str) -> Tensor:
    """The activation function of a technique, without Jumpstart's statistics."""
    return gelu(x) if technique == "gelu" else torch.relu(x)
