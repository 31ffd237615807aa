"""A fragment as a function, with every ReLU the definition's."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from fuzz.definition import LayerOptions, Observer, Slacks, jumpstart_activation
from fuzz.fragments import (
    ARRANGEMENTS,
    Activation,
    Checkpoint,
    Concat,
    Convolution,
    Dropout,
    Flatten,
    Layer,
    Linear,
    Norm,
    Pool,
    Rearrange,
    Residual,
)

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
POOLS = {
    "max": {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d},
    "average": {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d},
    "adaptive": {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d},
}


class Network:
    """One forward of a fragment, with parameters in the order of its layers."""

    def __init__(
        self, parameters: list[Tensor], observer: Observer | None = None, fused: Sequence[bool] = ()
    ) -> None:
        """``fused``: of the linear layers and convolutions in order, whether the activation adds the bias."""
        self._parameters: Iterator[Tensor] = iter(parameters)
        self._fused: Iterator[bool] = iter(fused)
        self._observer = observer
        self._slope = 1.0  # of the norms so far, multiplied
        self.records: list[Slacks] = []

    def run(self, layers: tuple[Layer, ...], x: Tensor) -> Tensor:
        for layer in layers:
            x = self._apply(layer, x)
        return x

    def _activate(self, x: Tensor, options: LayerOptions) -> Tensor:
        output, slacks = jumpstart_activation(x, options, observer=self._observer)
        self.records.append(slacks)
        return output

    def _weights(self, bias: bool) -> tuple[Tensor, Tensor | None]:
        return next(self._parameters), next(self._parameters) if bias else None

    def _add_later(self, bias: Tensor | None) -> bool:
        """Whether the bias is added to the rounded product, and not within it."""
        return next(self._fused, False) and bias is not None

    def _apply(self, layer: Layer, x: Tensor) -> Tensor:
        match layer:
            case Linear():
                weight, bias = self._weights(layer.bias)
                if self._observer is not None:
                    self._observer.sums(F.linear(x.detach().abs(), weight.detach().abs()))
                if self._add_later(bias):
                    y = F.linear(x, weight)
                    return y + bias.to(y.dtype)
                return F.linear(x, weight, bias)
            case Convolution():
                weight, bias = self._weights(layer.bias)
                convolve = CONVOLUTIONS[layer.dims]
                options = (layer.stride, layer.padding, 1, layer.groups)
                if self._observer is not None:
                    self._observer.sums(convolve(x.detach().abs(), weight.detach().abs(), None, *options))
                if self._add_later(bias):
                    y = convolve(x, weight, None, *options)
                    return y + bias.to(y.dtype).view(-1, *[1] * layer.dims)
                return convolve(x, weight, bias, *options)
            case Norm():
                weight, bias = self._weights(True)
                if self._observer is not None:
                    self._observe_slope(layer, x.detach(), weight.detach())
                if layer.kind == "layer":
                    return F.layer_norm(x, (layer.features,), weight, bias)
                return F.batch_norm(x, None, None, weight, bias, training=True)
            case Pool(kind="adaptive"):
                return POOLS[layer.kind][layer.dims](x, layer.size)
            case Pool():
                if self._observer is not None and layer.kind == "max":
                    self._observe_windows(layer, x.detach())
                return POOLS[layer.kind][layer.dims](x, layer.size, layer.stride, layer.padding)
            case Flatten():
                return x.flatten(1)
            case Dropout():
                return F.dropout(x, layer.rate)
            case Rearrange():
                return ARRANGEMENTS[layer.how](x)
            case Activation():
                if not layer.inplace:
                    return self._activate(x, layer.options)
                return x.copy_(self._activate(x.clone(), layer.options))  # in the strides of x
            case Residual():
                y = self.run(layer.body, x) + x
                return y if layer.options is None else self._activate(y, layer.options)
            case Concat():
                return torch.cat([self.run(body, x) for body in layer.bodies], 1)
            case Checkpoint():
                return self.run(layer.body, x)

    def _observe_slope(self, layer: Norm, x: Tensor, weight: Tensor) -> None:
        """By how much the norm amplifies differences."""
        if x.numel():
            rows = x.flatten(0, -2) if layer.kind == "layer" else x.movedim(1, 0).flatten(1)
            slopes = (rows.double().var(1, correction=0) + 1e-5).rsqrt()
            self._slope *= max(1.0, slopes.max().item() * weight.abs().max().item())
            self._observer.stretches(self._slope)

    def _observe_windows(self, layer: Pool, x: Tensor) -> None:
        """The gap between the maximum of a pooling window and its second largest value."""
        if x.numel() == 0:
            return
        padded = F.pad(x, (layer.padding, layer.padding) * layer.dims, value=-torch.inf)
        for dim in range(2, x.dim()):
            padded = padded.unfold(dim, layer.size, layer.stride)
        best = padded.flatten(x.dim()).topk(2, -1).values
        gaps = (best[..., 0] - best[..., 1]).flatten()
        # Zeros of a ReLU tie everywhere, and pass no gradient on.
        gaps = gaps[gaps.isfinite() & (best[..., 0] != 0).flatten()]
        self._observer.jumps(gaps.double(), max(1.0, x.abs().max().item()), "tied windows")
