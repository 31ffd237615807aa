"""K multilayer perceptrons as one: parameters ``[K, ...]``, activations ``[K, units, N]``.

Nothing passes from one network to another, so each trains as it would alone; the tests compare the two.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from jumpstart_kernels.functional.jumpstart import run_layer

MARGIN = 1.0  # of the penalty
RELU_GAIN = math.sqrt(2)
OPTIONS = (MARGIN, "single", False, "exact")  # of run_layer: margin, tie breaking, in place, extrema


class Shape(NamedTuple):
    """Of a multilayer perceptron."""

    inputs: int
    outputs: int
    depth: int
    """Hidden layers."""
    width: int
    """Features of a hidden layer, the inputs of the next: two for each linked unit, else one."""


class Pass(NamedTuple):
    """What a forward pass of K networks gives. Lists have an item for each hidden layer."""

    output: Tensor
    """``[K, outputs, N]``."""
    pre_activations: list[Tensor]
    """Each ``[K, units, N]``."""
    features: list[Tensor]
    """Each ``[K, width, N]``: what the next layer reads."""
    penalty: Tensor | None
    """``[K]``, the Jumpstart penalty of each network; None unless requested."""


class Networks:
    """K networks of one shape.

    Weights are from Kaiming's uniform distribution, biases zero. Networks of one seed start equal.

    Args:
        shape: of each network.
        seeds: of the initial weights, one for each network.
        linked: whether the activation is ``cat(relu(z), relu(-z))``, with half as many units as features.
        normalized: whether layer normalization, with gains and shifts, precedes the activation.
        dtype: of the parameters.
    """

    def __init__(
        self,
        shape: Shape,
        seeds: Sequence[int],
        linked: bool = False,
        normalized: bool = False,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if linked and shape.width % 2:
            raise ValueError(f"width must be even for linked units, got {shape.width}")
        self.shape, self.count, self.linked, self.normalized = shape, len(seeds), linked, normalized
        self.units = shape.width // 2 if linked else shape.width
        inputs = [shape.inputs, *[shape.width] * shape.depth]
        outputs = [*[self.units] * shape.depth, shape.outputs]
        scales = [*[RELU_GAIN] * shape.depth, 1.0]
        self.bounds = [scale * math.sqrt(3 / size) for scale, size in zip(scales, inputs, strict=True)]
        """Of the uniform distribution of each layer's initial weights."""
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        sizes = list(zip(outputs, inputs, strict=True))
        weights = [
            torch.stack([(2 * torch.rand(*size, generator=g) - 1) * bound for g in generators])
            for size, bound in zip(sizes, self.bounds, strict=True)
        ]
        biases = [torch.zeros(self.count, size, 1) for size in outputs]
        hidden = outputs[: shape.depth if normalized else 0]
        gains = [torch.ones(self.count, size, 1) for size in hidden]
        shifts = [torch.zeros(self.count, size, 1) for size in hidden]
        initial: list[Tensor] = [*weights, *biases, *gains, *shifts]
        self.vector = torch.cat([values.flatten(1) for values in initial], 1).to(dtype)
        """``[K, P]``: all parameters of each network, which those below are views of."""
        self.parameters = self.views(self.vector, [values.shape for values in initial])
        """All of them: layer ``i`` has the weight ``i`` and the bias ``i + depth + 1``."""
        layers = shape.depth + 1
        self.weights = self.parameters[:layers]
        """Of each layer, the output's included: ``[K, outputs, inputs]``."""
        self.biases = self.parameters[layers : 2 * layers]
        """``[K, outputs, 1]``."""
        self.gains = self.parameters[2 * layers : 2 * layers + len(gains)]
        self.shifts = self.parameters[2 * layers + len(gains) :]
        for parameter in self.parameters:
            parameter.requires_grad_()

    @staticmethod
    def views(vector: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
        """Tensors of these shapes, ``[K, ...]``, from consecutive columns of ``vector``."""
        sizes = [shape[1:].numel() for shape in shapes]
        parts = vector.split(sizes, 1)
        return [part.unflatten(1, shape[1:]) for part, shape in zip(parts, shapes, strict=True)]

    def gradient(self, losses: Tensor) -> Tensor:
        """``[K, P]``: of each network's own loss, ``[K]``; that of the sum keeps networks apart."""
        gradients = torch.autograd.grad(losses.sum(), self.parameters)
        return torch.cat([gradient.flatten(1) for gradient in gradients], 1)

    def run(self, x: Tensor, penalized: bool = False) -> Pass:
        """A forward pass of every network on its own inputs, ``[K, inputs, N]``."""
        pre_activations, features, of_units, of_points = [], [], [], []
        for layer in range(self.shape.depth):
            z = torch.baddbmm(self.biases[layer], self.weights[layer], x)
            if self.normalized:
                z = self.gains[layer] * F.layer_norm(z.mT, (self.units,)).mT + self.shifts[layer]
            if penalized:
                x, units, points = relu_with_extrema(z)
                of_units.append(units)
                of_points.append(points)
            else:
                x = F.relu(z)
            if self.linked:
                x = torch.cat([x, F.relu(-z)], dim=1)
            pre_activations.append(z)
            features.append(x)
        output = torch.baddbmm(self.biases[-1], self.weights[-1], x)
        penalty = mean_slack(of_units) + mean_slack(of_points) if penalized else None
        return Pass(output, pre_activations, features, penalty)


def relu_with_extrema(z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """``relu(z)``, and the maxima and minima of each network's units and points.

    Args:
        z: ``[K, units, N]``.

    Returns:
        ``[K, units, N]``, ``[2, K, units]`` and ``[2, K, N]``.
    """
    count, units, _ = z.shape
    z = z.contiguous()
    # The units of all networks are the channels of one sample; then each network is a sample of N positions.
    output, of_units = run_layer(z.flatten(0, 1)[None], None, "relu", 0.0, 1, "sample", *OPTIONS)
    _, of_points = run_layer(z, None, "relu", 0.0, 1, "position", *OPTIONS)
    return (
        output.view_as(z),
        of_units.extrema[:, : count * units].view(2, count, units),
        of_points.extrema[:, units:].view(2, count, -1),
    )


def mean_slack(extrema: list[Tensor]) -> Tensor:
    """``[K]``: the mean over layers and units, or points, of half of both slacks; of ``[2, K, units]``."""
    maxima, minima = torch.stack(extrema, dim=2).unbind(0)  # each [K, depth, units]
    return (F.relu(MARGIN - maxima) + F.relu(MARGIN + minima)).mean((1, 2)) / 2
