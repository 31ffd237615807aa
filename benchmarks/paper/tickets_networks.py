"""ResNet-20 for CIFAR (He et al., arXiv 1512.03385, section 4.2)."""

import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS, BLOCKS = (16, 32, 64), 3  # of each stage


class BasicBlock(nn.Module):
    """Two 3×3 convolutions, each with BatchNorm; a skip connection without parameters around both."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.stride = outputs // inputs
        self.residual = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, self.stride, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.relu = nn.ReLU()
        self.missing = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """``[N, inputs, H, W]`` to ``[N, outputs, H / stride, W / stride]``."""
        skipped = x[:, :, :: self.stride, :: self.stride]
        if self.missing:
            skipped = F.pad(skipped, (0, 0, 0, 0, 0, self.missing))
        return self.relu(self.residual(x) + skipped)


class ResNet20(nn.Module):
    """Images ``[N, 3, H, W]`` to logits ``[N, classes]``; 0.27 million parameters."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        first, *_ = CHANNELS
        self.stem = nn.Sequential(
            nn.Conv2d(3, first, 3, padding=1, bias=False), nn.BatchNorm2d(first), nn.ReLU()
        )
        blocks = []
        inputs = first
        for outputs in CHANNELS:
            for _ in range(BLOCKS):
                blocks.append(BasicBlock(inputs, outputs))
                inputs = outputs
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(inputs, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.blocks(self.stem(x)).mean((2, 3)))
