"""Many networks of one shape trained as one, since a thin network is bound by the number of calls.

Activations of K networks are ``[K, width, N]``, or ``[N, K · width, H, W]`` for images. Nothing passes from
one network to another, so each trains as it would alone; the tests compare the two.
"""

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.paper.networks import SKIPPED, Rectangle, activate
from jumpstart_kernels.functional.jumpstart import run_layer
from jumpstart_kernels.penalties.reduction import penalty_weights

CHANNELS = 8  # of a convolution's group: fewer are slow
MARGIN = 1.0
SIGN_BALANCE = 0.5  # of the penalty


class Stack(nn.Module):
    """Networks trained as one, initialized with the parameters of those given.

    Args:
        networks: of one shape and one technique.
        penalties: ``reduction`` and ``terms`` of each network's penalty, as in
            :func:`jumpstart_kernels.penalty`, whose defaults are the default.
        share_groups: whether the thin convolutions of several networks share a group, which is faster. A
            network whose values are no longer finite then corrupts the others in its group.

    Raises:
        ValueError: no networks, or different shapes or techniques.
    """

    def __init__(
        self,
        networks: Sequence[Rectangle],
        penalties: Sequence[tuple[str, str]] = (),
        share_groups: bool = True,
    ) -> None:
        super().__init__()
        if len({(network.shape, network.technique) for network in networks}) != 1:
            raise ValueError("networks must be one or more of one shape and one technique")
        first = networks[0]
        self.count, self.shape, self.technique = len(networks), first.shape, first.technique
        self.penalties = penalties or [("balanced", "full")] * self.count
        self.channels = CHANNELS if share_groups else 1
        self.points = "sample" if self.shape.image else "position"
        join = torch.cat if self.shape.image else torch.stack
        layers = list(zip(*(network.layers for network in networks), strict=True))
        self.weights = nn.ParameterList(join([layer.weight.detach() for layer in same]) for same in layers)
        self.biases = nn.ParameterList(join([layer.bias.detach() for layer in same]) for same in layers)
        norm = nn.BatchNorm2d if self.shape.image else nn.BatchNorm1d
        self.norms = nn.ModuleList(norm(self.count * self.shape.width) for _ in first.norms)
        self.norms.to(first.classifier.weight.dtype)
        heads = [network.classifier for network in networks]
        self.head_weight = nn.Parameter(torch.stack([head.weight.detach() for head in heads]))
        self.head_bias = nn.Parameter(torch.stack([head.bias.detach() for head in heads]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits and penalties of all networks.

        Args:
            x: ``[K, features, N]``, or images ``[N, K · channels, H, W]``.

        Returns:
            Logits ``[K, classes, N]``, and the penalty of each network, ``[K]``: None unless the technique is
            Jumpstart and the stack is in training mode.
        """
        of_units: list[Tensor] = []  # for each layer, extrema of units [2, K · width + 1]
        of_points: list[Tensor] = []  # for each layer, extrema of points [2, width + K · N]

        def regularized_relu(x: Tensor) -> Tensor:
            by_unit, by_point = self.views(x)
            options = (MARGIN, "single", False, "exact")
            output, record = run_layer(by_unit, None, "relu", 0.0, 1, "sample", *options)
            of_units.append(record.extrema)
            _, record = run_layer(by_point, None, "relu", 0.0, 1, self.points, *options)
            of_points.append(record.extrema)
            return output.view_as(x)

        regularized = self.technique == "jumpstart" and self.training
        x = self.run(x, regularized_relu if regularized else self.activate)
        if self.shape.image:
            pooled = torch.stack([x.mean((2, 3)), x.amax((2, 3))])  # [2, N, K · width]
            x = pooled.unflatten(2, (self.count, -1)).permute(2, 0, 3, 1).flatten(1, 2)  # [K, 2 · width, N]
        logits = torch.baddbmm(self.head_bias[:, :, None], self.head_weight, x)
        return logits, self.penalty(of_units, of_points) if regularized else None

    def penalty(self, of_units: list[Tensor], of_points: list[Tensor]) -> Tensor:
        """The penalty of each network, ``[K]``, as :func:`jumpstart_kernels.penalty` reduces its slacks."""
        width = self.shape.width
        units = torch.stack(of_units)[:, :, : self.count * width]
        points = torch.stack(of_points)[:, :, width:]
        points = points.unflatten(2, (-1, self.count)).mT if self.shape.image else points
        sums, counts = [], []
        for extrema in (units, points):
            by_network = extrema.reshape(self.shape.depth, 2, self.count, -1)
            maxima, minima = by_network.unbind(1)  # each [depth, K, units or points]
            positive, negative = F.relu(MARGIN - maxima), F.relu(MARGIN + minima)
            slacks = (positive, negative, positive.square(), negative.square(), positive * negative)
            sums += [slack.sum((0, 2)) for slack in slacks]
            counts.append(maxima.shape[0] * maxima.shape[2])
        weights = [
            penalty_weights(reduction, SIGN_BALANCE, terms, *counts) for reduction, terms in self.penalties
        ]
        penalty = (torch.stack(sums, dim=1) * sums[0].new_tensor(weights)).sum(1)
        square_root = torch.tensor([reduction == "norm" for reduction, _ in self.penalties])
        least = torch.finfo(penalty.dtype).tiny  # clamped, the gradient of the root at 0 is zero
        return torch.where(square_root, penalty.clamp(min=least).sqrt(), penalty)

    def views(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``x`` with the units of all networks as its units, and ``x`` with their points as its points."""
        if self.shape.image:
            return x, x.unflatten(1, (self.count, -1)).flatten(0, 1)
        return x.flatten(0, 1)[None], x

    def arrange(self, x: Tensor) -> Tensor:
        """Rearrange ``[K, N, features]`` or ``[K, N, channels, H, W]`` for :meth:`forward`."""
        return x.transpose(0, 1).flatten(1, 2) if self.shape.image else x.mT.contiguous()

    def run(self, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        """The activations of the last layer."""
        skipped = None
        for depth in range(self.shape.depth):
            x = activation(self.pre_activation(x, depth))
            if self.technique == "skips" and depth % SKIPPED == 0:
                skipped = x = x if skipped is None else x + skipped
        return x

    def activate(self, x: Tensor) -> Tensor:
        return activate(x, self.technique)

    def pre_activation(self, x: Tensor, depth: int) -> Tensor:
        weight, bias = self.weights[depth], self.biases[depth]
        if self.shape.image:
            x = convolve(x, weight, bias, self.count, self.channels)
            return self.norms[depth](x) if self.norms else x
        x = torch.baddbmm(bias[:, :, None], weight, x)
        return self.norms[depth](x.flatten(0, 1)[None]).view_as(x) if self.norms else x

    @torch.no_grad()
    def unit_extrema(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Largest and smallest pre-activation of every unit over the data, each ``[K, depth, width]``."""
        extrema: list[Tensor] = []

        def watch(x: Tensor) -> Tensor:
            by_unit, _ = self.views(x)
            of_units = by_unit.movedim(1, 0).flatten(1).aminmax(dim=1)
            extrema.append(torch.stack([of_units.max, of_units.min]).view(2, self.count, -1))
            return self.activate(x)

        self.run(x, watch)
        largest, smallest = torch.stack(extrema, dim=2)  # [2, K, depth, width]
        return largest, smallest


def convolve(x: Tensor, weight: Tensor, bias: Tensor, count: int, channels: int = CHANNELS) -> Tensor:
    """3×3 convolutions of ``count`` networks, each on its own channels.

    Networks of few channels share a group, with zero weights between networks: these add nothing to finite
    values, while a group of 2 or 4 channels would take three times as long.

    Args:
        x: ``[N, count · inputs, H, W]``.
        weight: ``[count · width, inputs, 3, 3]``.
        bias: ``[count · width]``.
        count: number of networks.
        channels: of a shared group.
    """
    inputs = weight.shape[1]
    width = len(weight) // count
    shared = math.gcd(count, max(1, channels // width)) if inputs == width else 1
    if shared > 1:
        each = weight.view(count // shared, shared, -1).mT  # [groups, width · inputs · 9, shared]
        blocks = torch.diag_embed(each).view(-1, width, inputs, 3, 3, shared, shared)
        weight = blocks.permute(0, 5, 1, 6, 2, 3, 4).reshape(count * width, shared * inputs, 3, 3)
    return F.conv2d(x, weight, bias, padding=1, groups=count // shared)
