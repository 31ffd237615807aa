"""The activations that ``replace_relu`` can replace, and what PyTorch calls them."""

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from jumpstart_kernels.nn import LAYERS
from jumpstart_kernels.nn.activation import JumpstartActivation


class Replaceable(NamedTuple):
    """An activation of PyTorch and the layer that replaces it. Both can be made without arguments."""

    name: str
    """Of its functions in PyTorch; the same with an underscore is in place."""
    module: type[nn.Module]
    layer: type[JumpstartActivation]
    arguments: tuple[str, ...] = ()
    """Its own: what a function takes between the input and ``inplace``, in this order. The module has them as
    attributes; the layer takes them as keywords and shows them in ``extra_repr``."""

    @classmethod
    def by(cls, layer: type[JumpstartActivation]) -> "Replaceable":
        """What a layer replaces."""
        arguments = () if layer.parameter_name is None else (layer.parameter_name,)
        return cls(layer.activation, layer.plain, layer, arguments)

    @property
    def names(self) -> dict[str, bool]:
        """Of its functions and methods, each with whether it is in place."""
        return {self.name: False, f"{self.name}_": True}

    @property
    def methods(self) -> dict[str, bool]:
        """The names of its methods, each with whether it is in place."""
        return {name: inplace for name, inplace in self.names.items() if hasattr(torch.Tensor, name)}

    @property
    def functions(self) -> dict[Any, bool]:
        """Its functions, each with whether it is in place."""
        found = {}
        for name, inplace in self.names.items():
            operator = getattr(torch.ops.aten, name, None)
            functions = getattr(F, name, None), getattr(torch, name, None), operator
            for function in (*functions, getattr(operator, "default", None)):
                if function is not None:
                    found[function] = inplace
        return found

    @property
    def graph_name(self) -> str:
        """What TorchScript writes for it."""
        return f"aten::{self.name}"

    @property
    def added_attributes(self) -> list[str]:
        """Those that the layer has and PyTorch's module has not."""
        plain = vars(self.module())
        return [name for name in vars(self.layer()) if name not in plain]

    def arguments_of(self, module: nn.Module) -> dict[str, Any]:
        """What a layer like PyTorch's module is made with."""
        return {name: getattr(module, name) for name in (*self.arguments, "inplace")}

    def refusal(self, arguments: dict[str, Any]) -> str:
        """Why there is no layer with these arguments; "" where there is."""
        try:
            self.layer(**arguments)
        except (TypeError, ValueError) as error:
            return str(error)
        return ""


Activations = tuple[Replaceable, ...]

REPLACEABLE = {name: Replaceable.by(layer) for name, layer in LAYERS.items()}


def requested_activations(names: Iterable[str]) -> Activations:
    """The rows that a user asks for.

    Raises:
        TypeError: ``names`` is a string, or no iterable of strings.
        ValueError: a name is unknown, or there is none.
    """
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise TypeError(f"activations must be a list or tuple of names, got {names!r}")
    requested = list(names)
    allowed = ", ".join(map(repr, REPLACEABLE))
    for name in requested:
        if not isinstance(name, str):
            raise TypeError(f"activations takes names, of {allowed}, got {name!r}")
        if name not in REPLACEABLE:
            raise ValueError(f"activations must be of {allowed}, got {name!r}")
    if not requested:
        raise ValueError(f"activations must name at least one of {allowed}, got {names!r}")
    return tuple(REPLACEABLE[name] for name in dict.fromkeys(requested))


@functools.cache
def functions_of(activations: Activations) -> dict[Any, tuple[Replaceable, bool]]:
    """Which activation a function is, and whether it is in place."""
    return {
        function: (activation, inplace)
        for activation in activations
        for function, inplace in activation.functions.items()
    }


@functools.cache
def methods_of(activations: Activations) -> dict[Any, tuple[Replaceable, bool]]:
    """Which activation a method of this name is, and whether it is in place."""
    return {
        method: (activation, inplace)
        for activation in activations
        for method, inplace in activation.methods.items()
    }
