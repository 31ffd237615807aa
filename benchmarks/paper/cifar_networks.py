"""The networks of the CIFAR-10 comparison, and their initialization."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import jumpstart_kernels as jk
from benchmarks.models import BLOCKS, Bottleneck, build_resnet50
from benchmarks.paper.cifar_techniques import Technique

TAT_TARGET = 0.9
"""What two orthogonal inputs have as their cosine behind the last layer."""
LINKED_WIDTH = 0.75
"""Of the channels: with a factor of √2 / 2 a network of linked units would have as many weights."""


def build_network(
    technique: Technique,
    width: int,
    classes: int,
    images: Tensor,
    *,
    growth: float = 2.0,
    stem_stride: int = 2,
    blocks: tuple[int, ...] = BLOCKS,
) -> nn.Sequential:
    """A network, initialized from torch's random state.

    Args:
        technique: how it is built.
        width: channels of the stem.
        classes: number of outputs.
        images: standardized, ``[N, 3, H, W]``, for an initialization that depends on data.
        growth: of the channels, from stage to stage.
        stem_stride: of the stem.
        blocks: bottlenecks in each stage.
    """
    linked = technique.activation == "linked_relu"
    layers = 1 + 3 * sum(blocks)  # activations, one behind another
    slope = tat_slope(layers) if technique.activation == "leaky_relu" else 0.0
    model = build_resnet50(
        batch_norm=technique.batch_norm,
        skips=technique.skips,
        classes=classes,
        cifar_stem=True,
        stem_stride=stem_stride,
        width=round(width * LINKED_WIDTH) if linked else width,
        growth=growth,
        blocks=blocks,
        activation=make_activation(technique, slope),
        linked=linked,
    )
    if not technique.bias:
        for module in convolutions(model):
            module.register_parameter("bias", None)
    if technique.fixup:
        for block in model:
            if isinstance(block, Bottleneck):
                block.residual.append(Scale())
    INITIALIZATIONS[technique.initialization](model, images, slope)
    return model


def make_activation(technique: Technique, slope: float) -> Callable[[], nn.Module]:
    """Makes the activations, Jumpstart's own where they can record what is penalized."""
    penalty = technique.penalty
    recording = penalty is not None and penalty.units == "pixels" and technique.activation != "selu"
    options: dict[str, Any] = (
        {"points": penalty.points, "margin": penalty.margin} if recording and penalty else {}
    )
    leaky = jk.JumpstartLeakyReLU if recording else nn.LeakyReLU
    makers: dict[str, Callable[[], nn.Module]] = {
        "relu": partial(jk.JumpstartReLU, **options) if recording else nn.ReLU,
        "leaky_relu": partial(leaky, slope, **options),
        "linked_relu": partial(jk.JumpstartLinkedReLU, **options) if recording else jk.LinkedReLU,
        "selu": nn.SELU,
    }
    return makers[technique.activation]


class Scale(nn.Module):
    """A learned factor."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        """Of the shape of ``x``."""
        return x * self.weight


def convolutions(model: nn.Module) -> list[nn.Conv2d]:
    """In the order in which they run."""
    return [module for module in model.modules() if isinstance(module, nn.Conv2d)]


def tat_slope(layers: int, target: float = TAT_TARGET) -> float:
    """The negative slope with which ``layers`` leaky ReLUs take a cosine of 0 to ``target``.

    Zhang, Botev, Martens, *Deep Learning without Shortcuts: Shaping the Kernel with Tailored Rectifiers*
    (arXiv 2203.08120), Section 4.1, for networks without skip connections.
    """
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        cosine = 0.0
        for _ in range(layers):
            cosine = _cosine_behind(cosine, middle)
        low, high = (middle, high) if cosine > target else (low, middle)
    return (low + high) / 2


def _cosine_behind(cosine: float, slope: float) -> float:
    """Behind an infinitely wide leaky ReLU."""
    bent = math.sqrt(max(0.0, 1 - cosine**2)) - cosine * math.acos(min(1.0, cosine))
    return cosine + (1 - slope) ** 2 / (math.pi * (1 + slope**2)) * bent


def delta_orthogonal_(model: nn.Module, images: Tensor, slope: float) -> None:
    """Kernels that are orthogonal matrices in the center and 0 elsewhere (Xiao et al., arXiv 1806.05393).

    Where a layer widens, they are scaled so that its units keep the variance of the inputs.
    """
    for layer in convolutions(model):
        outputs, inputs, *size = layer.weight.shape
        matrix = nn.init.orthogonal_(torch.empty(outputs, inputs), math.sqrt(2 / (1 + slope**2)))
        with torch.no_grad():
            layer.weight.zero_()
            center = matrix * math.sqrt(max(1.0, outputs / inputs))
            layer.weight[:, :, size[0] // 2, size[1] // 2] = center


def he_fan_in_(model: nn.Module, images: Tensor, slope: float) -> None:
    """He et al. (arXiv 1502.01852) for the forward pass."""
    for layer in convolutions(model):
        nn.init.kaiming_normal_(layer.weight, slope, mode="fan_in")


@torch.no_grad()
def lsuv_(model: nn.Module, images: Tensor, slope: float) -> None:
    """Orthogonal, then each layer's output scaled to a variance of 1 (Mishkin, Matas, arXiv 1511.06422)."""
    for layer in convolutions(model):
        nn.init.orthogonal_(layer.weight)
    for layer in convolutions(model):
        seen: list[Tensor] = []
        handle = layer.register_forward_hook(lambda module, inputs, output, seen=seen: seen.append(output))
        model(images)
        handle.remove()
        layer.weight /= seen[0].std()


def fixup_(model: nn.Module, images: Tensor, slope: float) -> None:
    """Residual branches that start at 0 (Zhang, Dauphin, Ma, arXiv 1901.09321), with a bias for each unit."""
    he_fan_in_(model, images, slope)
    blocks = [module for module in model.modules() if isinstance(module, Bottleneck)]
    with torch.no_grad():
        for block in blocks:
            *first, last = convolutions(block.residual)
            for layer in first:
                layer.weight *= len(blocks) ** (-1 / (2 * len(first)))
            last.weight.zero_()
        classifier = next(module for module in model.modules() if isinstance(module, nn.Linear))
        classifier.weight.zero_()
        classifier.bias.zero_()


def looks_linear_(model: nn.Module, images: Tensor, slope: float) -> None:
    """The package's."""
    jk.looks_linear_(model, images[:2])


INITIALIZATIONS: dict[str, Callable[[nn.Module, Tensor, float], None]] = {
    "he_fan_out": lambda model, images, slope: None,  # as it is built
    "he_fan_in": he_fan_in_,
    "delta_orthogonal": delta_orthogonal_,
    "lsuv": lsuv_,
    "fixup": fixup_,
    "looks_linear": looks_linear_,
}
