"""A model fragment as data: what ``models.py`` builds and ``network.py`` computes."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fuzz.definition import LayerOptions


@dataclass(frozen=True)
class Linear:
    """Along the last dimension."""

    inputs: int
    outputs: int
    bias: bool


@dataclass(frozen=True)
class Convolution:
    """Of ``[N, inputs, *]`` with ``dims`` spatial dimensions."""

    dims: int
    inputs: int
    outputs: int
    kernel: int
    stride: int
    padding: int
    groups: int
    bias: bool


@dataclass(frozen=True)
class Pool:
    """``kind`` is ``"max"``, ``"average"`` or ``"adaptive"``, an average to ``size`` an edge."""

    kind: str
    dims: int
    size: int
    stride: int
    padding: int


@dataclass(frozen=True)
class Norm:
    """``"layer"`` over the last dimension, or ``"batch"`` over the units in dimension 1 of ``dims + 2``."""

    kind: str
    features: int
    dims: int


@dataclass(frozen=True)
class Flatten:
    """Flattens every dimension after the batch."""


@dataclass(frozen=True)
class Dropout:
    """Drawn from PyTorch's generator."""

    rate: float


@dataclass(frozen=True)
class Rearrange:
    """Other strides, or another order of dimensions, of the same values: a key of ``ARRANGEMENTS``."""

    how: str


@dataclass(frozen=True)
class Activation:
    """A ReLU: module number ``slot``, shared by all activations of that slot. ``models.py`` has the forms."""

    slot: int
    form: str
    inplace: bool
    options: LayerOptions


@dataclass(frozen=True)
class Residual:
    """``body(x) + x``, followed by ``F.relu`` if it has options."""

    body: tuple["Layer", ...]
    options: LayerOptions | None


@dataclass(frozen=True)
class Concat:
    """The bodies' outputs concatenated along dimension 1."""

    bodies: tuple[tuple["Layer", ...], ...]


@dataclass(frozen=True)
class Checkpoint:
    """Activation checkpointing, non-reentrant, around its body."""

    body: tuple["Layer", ...]


Layer = (
    Linear
    | Convolution
    | Pool
    | Norm
    | Flatten
    | Dropout
    | Rearrange
    | Activation
    | Residual
    | Concat
    | Checkpoint
)


@dataclass(frozen=True)
class Fragment:
    """Layers one after the other, for inputs ``[N, *input_size]``."""

    layers: tuple[Layer, ...]
    input_size: tuple[int, ...]
    options: LayerOptions  # of every ReLU that replace_relu replaces

    def every_layer(self) -> Iterator[Layer]:
        """All layers at any depth."""
        return _every(self.layers)

    @property
    def has_batch_norm(self) -> bool:
        return any(isinstance(layer, Norm) and layer.kind == "batch" for layer in self.every_layer())

    @property
    def keeps_units(self) -> bool:
        """Whether its units are everywhere where the layers before an activation put them."""
        return self.options.unit_dim == 1 and not any(
            isinstance(layer, Rearrange) and layer.how in ("units_last", "units_first")
            for layer in self.every_layer()
        )

    @property
    def is_exact(self) -> bool:
        """Whether small integers and halves pass through it without rounding."""
        return not any(
            isinstance(layer, (Norm, Dropout)) or (isinstance(layer, Pool) and layer.kind != "max")
            for layer in self.every_layer()
        )


def _every(layers: tuple[Layer, ...]) -> Iterator[Layer]:
    for layer in layers:
        yield layer
        bodies: tuple[Any, ...] = getattr(layer, "bodies", None) or (getattr(layer, "body", ()),)
        for body in bodies:
            yield from _every(body)


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format={4: torch.channels_last, 5: torch.channels_last_3d}[x.dim()])


def _reversed_strides(x: Tensor) -> Tensor:
    """Column-major memory, the batch fastest."""
    order = tuple(reversed(range(x.dim())))
    return x.permute(order).contiguous().permute(order)


def _misaligned(x: Tensor) -> Tensor:
    """One element past an aligned address."""
    return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)


ARRANGEMENTS = {
    "channels_last": _channels_last,
    "reversed": _reversed_strides,
    "transposed": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
    "sliced": lambda x: F.pad(x, (1, 2))[..., 1:-2],
    "strided": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "misaligned": _misaligned,
    "expanded": lambda x: x.narrow(-1, 0, 1).expand(x.shape),
    "units_last": lambda x: x.movedim(1, -1),
    "units_first": lambda x: x.movedim(-1, 1),
}
