"""The networks of the training-step benchmark, and the inputs of their ReLUs.

The thin network of 50 layers of 4 units is the demo's: ``jumpstart_kernels.demo.training.build_network``.
"""

from collections.abc import Callable

from torch import Tensor, nn

BLOCKS = (3, 4, 6, 3)  # of ResNet-50, by stage
EXPANSION = 4
VGG_BLOCKS = ((64,), (128,), (256, 256), (512, 512), (512, 512))  # channels of VGG-11's convolutions


class Bottleneck(nn.Module):
    """1×1, 3×3 and 1×1 convolutions. The last activation follows the addition of the skip connection."""

    def __init__(
        self,
        inputs: int,
        channels: int,
        stride: int,
        batch_norm: bool,
        skips: bool,
        activation: Callable[[], nn.Module] = nn.ReLU,
        linked: bool = False,
    ) -> None:
        super().__init__()
        outputs, factor = EXPANSION * channels, 1 + linked
        self.residual = nn.Sequential(
            *convolution(inputs, channels, 1, 1, batch_norm),
            activation(),
            *convolution(factor * channels, channels, 3, stride, batch_norm),
            activation(),
            *convolution(factor * channels, outputs, 1, 1, batch_norm),
        )
        self.skip: nn.Module | None = None
        if skips:
            changes = stride != 1 or inputs != outputs
            layers = convolution(inputs, outputs, 1, stride, batch_norm) if changes else []
            self.skip = nn.Sequential(*layers)
        self.relu = activation()

    def forward(self, x: Tensor) -> Tensor:
        """``[N, inputs, H, W]`` to ``[N, 4 · channels, H / stride, W / stride]``; linked, twice as many."""
        residual = self.residual(x)
        return self.relu(residual if self.skip is None else residual + self.skip(x))


def build_resnet50(
    *,
    batch_norm: bool,
    skips: bool,
    classes: int = 1000,
    cifar_stem: bool = False,
    stem_stride: int = 1,
    width: int = 64,
    growth: float = 2.0,
    blocks: tuple[int, ...] = BLOCKS,
    activation: Callable[[], nn.Module] = nn.ReLU,
    linked: bool = False,
) -> nn.Sequential:
    """ResNet-50 (He et al., arXiv 1512.03385), initialized as in the paper.

    Args:
        batch_norm: whether a BatchNorm follows every convolution, which then has no bias.
        skips: whether blocks have skip connections.
        classes: number of outputs.
        cifar_stem: a 3×3 convolution instead of the 7×7 one of stride 2 and the pooling, for small images.
        stem_stride: of the 3×3 convolution.
        width: channels of the stem, 64 in ResNet-50.
        growth: of the channels from stage to stage, rounded down. The Jumpstart paper calls it the width
            multiplier; with 1.5 the stages have 64, 96, 144 and 216.
        blocks: bottlenecks in each stage.
        activation: makes the activations.
        linked: whether they pass on twice as many channels, as linked neurons do; not with ``skips``.
    """
    if cifar_stem:
        stem = convolution(3, width, 3, stem_stride, batch_norm)
    else:
        stem = convolution(3, width, 7, 2, batch_norm)
    layers: list[nn.Module] = [*stem, activation()]
    if not cifar_stem:
        layers.append(nn.MaxPool2d(3, 2, padding=1))
    factor = 1 + linked
    inputs, channels = factor * width, width
    for stage, count in enumerate(blocks):
        for i in range(count):
            stride = 2 if stage > 0 and i == 0 else 1
            layers.append(Bottleneck(inputs, channels, stride, batch_norm, skips, activation, linked))
            inputs = factor * EXPANSION * channels
        channels = int(growth * channels)
    model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
    _initialize(model)
    return model


def build_convnet(*, classes: int = 10, divisor: int = 1) -> nn.Sequential:
    """The eight 3×3 convolutions of VGG-11 (Simonyan, Zisserman, arXiv 1409.1556) for 32×32 images.

    Args:
        classes: number of outputs.
        divisor: of the channels, for a narrower network.
    """
    layers: list[nn.Module] = []
    inputs = 3
    for block in VGG_BLOCKS:
        for channels in block:
            layers += [*convolution(inputs, channels // divisor, 3, 1, batch_norm=False), nn.ReLU()]
            inputs = channels // divisor
        layers.append(nn.MaxPool2d(2))
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(inputs, classes))
    _initialize(model)
    return model


def build_mlp(features: int, classes: int, *, units: int = 1024, depth: int = 4) -> nn.Sequential:
    """``depth`` hidden layers of ``units`` ReLUs, initialized as PyTorch does."""
    layers: list[nn.Module] = []
    for inputs in [features, *[units] * (depth - 1)]:
        layers += [nn.Linear(inputs, units), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(units, classes))


def _initialize(model: nn.Module) -> None:
    """The convolutions as He et al. (arXiv 1502.01852) do."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def convolution(inputs: int, outputs: int, size: int, stride: int, batch_norm: bool) -> list[nn.Module]:
    """A convolution with 'same' padding, and its BatchNorm."""
    layer = nn.Conv2d(inputs, outputs, size, stride, padding=size // 2, bias=not batch_norm)
    return [layer, nn.BatchNorm2d(outputs)] if batch_norm else [layer]


def pre_activations(model: nn.Module, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """The model's output, and the inputs of its ReLUs in order."""
    seen: list[Tensor] = []
    handles = [
        module.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        for module in model.modules()
        if isinstance(module, nn.ReLU)
    ]
    try:
        return model(x), seen
    finally:
        for handle in handles:
            handle.remove()
