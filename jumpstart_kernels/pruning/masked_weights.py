"""The weights of a model that ``torch.nn.utils.prune`` can mask, and their masks."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear
from torch.nn.parameter import is_lazy
from torch.nn.utils import prune

from jumpstart_kernels.nn.deferred_bias import is_distributed

NAME, ORIGINAL, MASK = "weight", "weight_orig", "weight_mask"  # as torch.nn.utils.prune calls them


@dataclass(frozen=True)
class MaskedWeight:
    """A weight, and the layers that use it: several if it is tied."""

    names: tuple[str, ...]
    layers: tuple[nn.Module, ...]

    @property
    def name(self) -> str:
        return " = ".join(self.names)

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter, whose masked values are whatever they are."""
        parameters = self.layers[0]._parameters
        parameter = parameters[ORIGINAL if ORIGINAL in parameters else NAME]
        assert parameter is not None  # find_weights has seen it
        return parameter

    @property
    def mask(self) -> Tensor:
        """True where a weight is kept, of the weight's shape."""
        mask = self.layers[0]._buffers.get(MASK)
        return torch.ones_like(self.parameter, dtype=torch.bool) if mask is None else mask.bool()

    @torch.no_grad()
    def set_mask(self, mask: Tensor) -> None:
        """Mask the weight in all its layers.

        Args:
            mask: bool, of the weight's shape.
        """
        for layer in self.layers:
            if MASK in layer._buffers:  # not one more hook for each round of an iterative pruning
                setattr(layer, MASK, mask.to(layer._buffers[MASK]))
            else:
                with _same_place(layer, NAME, ORIGINAL):
                    method: Any = prune.CustomFromMask.apply(layer, NAME, mask.to(self.parameter.device))
                method.mask = None  # the buffer has it; the hook keeps a second copy, pytorch#34257
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Have ``layer.weight`` be the masked weight of now, not of the last forward.

        It is no result of autograd then, so that the model can be copied, which pytorch#37322 asks for.
        """
        for layer in self.layers:
            if MASK in layer._buffers:
                mask: Any = layer._buffers[MASK]
                setattr(layer, NAME, self.parameter * mask.to(self.parameter.dtype))

    @torch.no_grad()
    def rescale(self) -> None:
        """Multiply the weights of each unit by √(its weights / those that its mask keeps).

        Units of a transposed convolution are dealt with together.
        """
        mask = self.mask
        per_unit = not isinstance(self.layers[0], _ConvTransposeNd)
        rows = mask.flatten(1) if per_unit else mask.reshape(1, -1)
        factors = (rows.shape[1] / rows.sum(1).clamp(min=1)).sqrt().to(self.parameter.dtype)
        self.parameter.mul_(factors.view(-1, *[1] * (mask.dim() - 1)))
        self.refresh()

    def remove_mask(self) -> None:
        """Make the masked weights zeros of an ordinary parameter, which stays the same object."""
        for layer in self.layers:
            if MASK in layer._buffers:
                with _same_place(layer, ORIGINAL, NAME):
                    prune.remove(layer, NAME)


@contextmanager
def _same_place(layer: nn.Module, name: str, renamed: str) -> Iterator[None]:
    """Have the parameter that is renamed stay where it is: optimizers save their state by its number."""
    names = [renamed if other == name else other for other in layer._parameters]
    yield
    parameters = dict(layer._parameters)
    layer._parameters.clear()
    layer._parameters.update((other, parameters[other]) for other in names)


def find_weights(model: nn.Module, skipped: Collection[nn.Module]) -> list[MaskedWeight]:
    """The weights of the linear and convolution layers of a model.

    Those of ``nn.MultiheadAttention`` are left out: it reads them without calling a layer, so that a mask
    would not follow them.

    Raises:
        ValueError: there are none, or one cannot be masked.
    """
    layers = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, (nn.Linear, _ConvNd))
        and not isinstance(module, NonDynamicallyQuantizableLinear)
        and module not in skipped
    }
    if not layers:
        raise ValueError("model must have a linear or convolution layer that skip does not name, it has none")
    found: dict[int, list[tuple[str, nn.Module]]] = defaultdict(list)
    for name, layer in layers.items():
        found[id(_weight_of(name, layer))].append((name, layer))
    _check_sharing(model, set(layers.values()), {key: group[0][0] for key, group in found.items()})
    return [
        MaskedWeight(tuple(name for name, _ in group), tuple(layer for _, layer in group))
        for group in found.values()
    ]


def _weight_of(name: str, layer: nn.Module) -> nn.Parameter:
    weight = layer._parameters.get(ORIGINAL if MASK in layer._buffers else NAME)
    if weight is None:
        raise ValueError(
            f"model: the weight of {name!r} is computed by a parametrization, which cannot be masked: "
            "remove it, or name the layer in skip"
        )
    if is_lazy(weight):
        raise ValueError(f"model: {name!r} has no weight yet: run a forward first")
    if is_distributed(weight):
        raise ValueError(f"model: the weight of {name!r} is sharded: make the ticket before sharding")
    if not weight.numel():
        raise ValueError(f"model: the weight of {name!r} is empty: name the layer in skip")
    return weight


def _check_sharing(model: nn.Module, layers: Collection[nn.Module], names: dict[int, str]) -> None:
    """Raise if a module that is not masked uses one of the weights, as it would use it without a mask."""
    for place, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if id(parameter) in names and not (module in layers and name in (NAME, ORIGINAL)):
                path = f"{place}.{name}".lstrip(".")
                raise ValueError(
                    f"model: {path!r} is the weight of {names[id(parameter)]!r}, too, and cannot be masked "
                    "there: name the layer in skip"
                )


@contextmanager
def unmasked(weights: Sequence[MaskedWeight]) -> Iterator[None]:
    """Inside the ``with`` block the parameters are called ``weight`` and nothing is masked."""
    masks = [weight.mask for weight in weights]
    for weight in weights:
        weight.remove_mask()
    try:
        yield
    finally:
        for weight, mask in zip(weights, masks, strict=True):
            weight.set_mask(mask)
