"""The networks of the linked-neuron experiments, with each activation of the paper and with Jumpstart.

Riera Molina, Pujol, *Solving internal covariate shift in deep learning with linked neurons*, arXiv
1712.02609, Section 4. As the published code has them: Glorot's uniform initialization, zero biases, Keras'
padding and its constants of BatchNorm, slopes of PReLU that start at 0. A unit here has one slope, theirs one
at each position.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

import jumpstart_kernels as jk
from jumpstart_kernels.nn.activation import JumpstartActivation
from jumpstart_kernels.nn.linked import LinkedActivation

DEPTH, WIDTH = 50, 4  # of the depth experiment, Section 4.1
STEM, STAGES, EXPANSION = 8, ((3, 16, 1), (4, 16, 2), (6, 32, 2), (3, 32, 2)), 4
"""Of ResNet-50: the stem's channels; blocks, channels, stride of each stage; outputs of a block a channel."""

Activation = Callable[[int], nn.Module]  # takes the number of units
SINGLE: dict[str, Activation] = {
    "relu": lambda units: nn.ReLU(),
    "prelu": lambda units: nn.PReLU(units, init=0.0),
    "selu": lambda units: nn.SELU(),
    "silu": lambda units: nn.SiLU(),
}
LINKED: dict[str, Activation] = {
    "relu": lambda units: jk.LinkedReLU(),
    "prelu": lambda units: jk.LinkedPReLU(units, init=0.0),
    "selu": lambda units: jk.LinkedSELU(),
    "silu": lambda units: jk.LinkedSiLU(),
}
LAYERS = (nn.ReLU, nn.PReLU, nn.SELU, nn.SiLU, LinkedActivation, JumpstartActivation)


@dataclass(frozen=True)
class Variant:
    """A network of the comparison."""

    title: str
    activation: str
    """A key of :data:`SINGLE`."""
    linked: bool = False
    batch_norm: bool = False
    """Whether a BatchNorm is in front of every activation."""
    penalized: bool = False
    """Whether it is trained with Jumpstart."""
    wide: bool = False
    """Whether layers have √2 times the units, rounded down as in the published code."""

    def activate(self, units: int) -> nn.Module:
        """A new activation for this many units."""
        if self.linked and self.penalized:
            return jk.JumpstartLinkedReLU()
        return (LINKED if self.linked else SINGLE)[self.activation](units)

    def outputs(self, units: int) -> int:
        """What the activation makes of this many units."""
        return 2 * units if self.linked else units


DEPTH_VARIANTS = {
    "relu": Variant("ReLU", "relu"),
    "relu_wide": Variant("ReLU, √2 wider", "relu", wide=True),
    "linked_relu": Variant("Linked ReLU", "relu", linked=True),
    "batch_norm": Variant("BatchNorm", "relu", batch_norm=True),
    "prelu": Variant("PReLU", "prelu"),
    "prelu_wide": Variant("PReLU, √2 wider", "prelu", wide=True),
    "linked_prelu": Variant("Linked PReLU", "prelu", linked=True),
    "selu": Variant("SELU", "selu"),
    "selu_wide": Variant("SELU, √2 wider", "selu", wide=True),
    "linked_selu": Variant("Linked SELU", "selu", linked=True),
    "silu": Variant("SiLU", "silu"),
    "silu_wide": Variant("SiLU, √2 wider", "silu", wide=True),
    "linked_silu": Variant("Linked SiLU", "silu", linked=True),
    "jumpstart": Variant("Jumpstart", "relu", penalized=True),
    "jumpstart_wide": Variant("Jumpstart, √2 wider", "relu", penalized=True, wide=True),
    "jumpstart_linked": Variant("Jumpstart, Linked ReLU", "relu", linked=True, penalized=True),
}
RESNET_VARIANTS = {
    "relu": Variant("ReLU", "relu"),
    "relu_batch_norm": Variant("ReLU, BatchNorm", "relu", batch_norm=True),
    "linked_relu": Variant("Linked ReLU", "relu", linked=True),
    "linked_relu_batch_norm": Variant("Linked ReLU, BatchNorm", "relu", linked=True, batch_norm=True),
    "selu": Variant("SELU", "selu"),
    "selu_batch_norm": Variant("SELU, BatchNorm", "selu", batch_norm=True),
    "linked_selu": Variant("Linked SELU", "selu", linked=True),
    "linked_selu_batch_norm": Variant("Linked SELU, BatchNorm", "selu", linked=True, batch_norm=True),
    "jumpstart": Variant("Jumpstart", "relu", penalized=True),
    "jumpstart_linked": Variant("Jumpstart, Linked ReLU", "relu", linked=True, penalized=True),
}
VARIANTS = {"depth": DEPTH_VARIANTS, "resnet50": RESNET_VARIANTS}
"""By network."""


@dataclass(frozen=True)
class Images:
    """What a network sees and tells apart."""

    channels: int
    size: int
    """Pixels of a side."""
    classes: int


def build(
    network: str,
    variant: Variant,
    images: Images,
    depth: int = DEPTH,
    width: int = WIDTH,
    stages: tuple[tuple[int, int, int], ...] = STAGES,
) -> nn.Module:
    """A network with new parameters, from PyTorch's global generator.

    Args:
        network: a key of :data:`VARIANTS`.
        depth: 3×3 convolutions of the depth network.
        width: units of its layers, before √2.
        stages: of ResNet-50.
    """
    if network == "depth":
        units = math.floor(width * math.sqrt(2)) if variant.wide else width
        layers = _depth_layers(variant, images, depth, units)
    else:
        layers = _resnet_layers(variant, images, stages)
    model: Any = nn.Sequential(*layers)
    initialize(model)
    return jk.replace_relu(model) if variant.penalized and jk.find_relu(model) else model


def initialize(model: nn.Module) -> None:
    """As Keras does: Glorot's uniform distribution, zero biases."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def activation_names(model: nn.Module) -> list[str]:
    """The names of a model's activations."""
    return [name for name, module in model.named_modules() if isinstance(module, LAYERS)]


def convolution(inputs: int, units: int, kernel: int, stride: int, size: int) -> list[nn.Module]:
    """A convolution of images of ``size``² pixels with 'same' padding, which Keras puts rather behind."""
    missing = max(0, (-(-size // stride) - 1) * stride + kernel - size)
    before, behind = missing // 2, missing - missing // 2
    if before == behind:
        return [nn.Conv2d(inputs, units, kernel, stride, padding=before)]
    padding = nn.ZeroPad2d((before, behind, before, behind))
    return [padding, nn.Conv2d(inputs, units, kernel, stride)]


def batch_norm(units: int) -> nn.BatchNorm2d:
    """With Keras' defaults, whose momentum is 1 minus PyTorch's."""
    return nn.BatchNorm2d(units, eps=1e-3, momentum=0.01)


def _activated(variant: Variant, units: int) -> list[nn.Module]:
    norm: list[nn.Module] = [batch_norm(units)] if variant.batch_norm else []
    return [*norm, variant.activate(units)]


def _depth_layers(variant: Variant, images: Images, depth: int, units: int) -> list[nn.Module]:
    """A 7×7 convolution of stride 2, ``depth`` 3×3 convolutions, a linear classifier of all outputs."""
    layers = [*convolution(images.channels, units, 7, 2, images.size), *_activated(variant, units)]
    size, inputs = -(-images.size // 2), variant.outputs(units)
    for _ in range(depth):
        layers += [*convolution(inputs, units, 3, 1, size), *_activated(variant, units)]
    return [*layers, nn.Flatten(), nn.Linear(inputs * size**2, images.classes)]


def _resnet_layers(
    variant: Variant, images: Images, stages: tuple[tuple[int, int, int], ...]
) -> list[nn.Module]:
    """A thin ResNet-50 with a 3×3 stem. Only activations within a block are linked, not those between blocks.

    The published Linked SELU network without BatchNorm has one left behind the stem; this one has none.
    """
    layers = convolution(images.channels, STEM, 3, 1, images.size)
    if variant.batch_norm:
        layers.append(batch_norm(STEM))
    layers.append(SINGLE[variant.activation](STEM))
    size, inputs = images.size, STEM
    for blocks, channels, stride in stages:
        for i in range(blocks):
            layers.append(Bottleneck(variant, inputs, channels, stride if i == 0 else 1, size, i == 0))
            size, inputs = -(-size // stride) if i == 0 else size, EXPANSION * channels
    return [*layers, nn.Flatten(), nn.Linear(inputs * size**2, images.classes)]


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions, the first with the stride, added to the input or to its convolution."""

    def __init__(
        self, variant: Variant, inputs: int, channels: int, stride: int, size: int, projected: bool
    ) -> None:
        super().__init__()
        outputs, within = EXPANSION * channels, variant.outputs(channels)
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, channels, 1, stride),
            *_activated(variant, channels),
            *convolution(within, channels, 3, 1, -(-size // stride)),
            *_activated(variant, channels),
            nn.Conv2d(within, outputs, 1),
            *([batch_norm(outputs)] if variant.batch_norm else []),
        )
        self.skip = nn.Sequential()
        if projected:
            self.skip.append(nn.Conv2d(inputs, outputs, 1, stride))
            if variant.batch_norm:
                self.skip.append(batch_norm(outputs))
        self.activation = SINGLE[variant.activation](outputs)

    def forward(self, x: Tensor) -> Tensor:
        """``[N, inputs, H, W]`` to ``[N, 4 · channels, H / stride, W / stride]``."""
        return self.activation(self.residual(x) + self.skip(x))
