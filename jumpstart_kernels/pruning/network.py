"""A copy of a model whose layers get smaller, always made anew from the weights of the given one."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from jumpstart_kernels.nn.deferred_bias import DeferredBias
from jumpstart_kernels.pruning.repair import Map
from jumpstart_kernels.pruning.unit_sets import Reader, Structure, UnitSet
from jumpstart_kernels.surgery.bias_links import unlink_bias
from jumpstart_kernels.surgery.flow.layers import is_linear, is_transposed
from jumpstart_kernels.surgery.flow.nodes import is_inplace
from jumpstart_kernels.surgery.flow.units import Value

_SET, _TWIN = 1 << 46, 1 << 32  # of the code of a channel: its set, which of several, its unit

STAND_INS = (nn.Identity, nn.LeakyReLU)


def stand_in(copies: bool) -> nn.Module:
    """What is where a layer has been.

    Args:
        copies: whether something behind it may overwrite its output, which must then be no other tensor.
    """
    module: Any = nn.LeakyReLU(1.0) if copies else nn.Identity()
    module._stands_in = True
    return module


def stand_ins(model: nn.Module) -> list[str]:
    """The names of all layers that have been removed, in this pruning and in earlier ones."""
    return [name for name, module in model.named_modules() if getattr(module, "_stands_in", False)]


class Network:
    """The working copy, and what has been removed from it.

    Args:
        given: the model, in ``eval()``; it is left as it is.
        structure: of it.
    """

    def __init__(self, given: nn.Module, structure: Structure) -> None:
        self.given = given
        self.structure = structure
        self.model = copy.deepcopy(given)
        for module in self.model.modules():
            if isinstance(module, DeferredBias):
                unlink_bias(module)
        for parameter in self.model.parameters():
            parameter.grad = None
        device = next((each.device for each in given.parameters()), torch.device("cpu"))
        self.left = {units: torch.arange(units.size, device=device) for units in structure.sets}
        """The units of each set that are left, as numbered in the given model."""
        self.maps: dict[str, Map] = {}
        """By layer: what stands in for the channels that it reads in the given model."""
        self.bypassed: dict[UnitSet, None] = {}
        """Sets that are gone, together with the layer that made them."""
        self._overwrites = any(is_inplace(given, node) for node in structure.graph.nodes)
        self._number = {units: i for i, units in enumerate(structure.sets)}
        self._device = device

    def codes(self, value: Value, given: bool = False) -> Tensor:
        """Which unit every channel of a tensor is: a number for each, the same in both models."""
        pieces: list[Tensor] = []
        seen: dict[Any, int] = {}
        for run in value.runs:
            units = self.structure.set_of(run.width)
            twin = seen[units] = seen.get(units, -1) + 1
            if units is None:
                pieces.append(torch.arange(run.size, device=self._device) - _SET * (twin + 1))
            elif units in self.bypassed and not given:
                assert units.input is not None
                pieces.append(self.codes(units.input) + _TWIN * twin)
            else:
                left = torch.arange(units.size, device=self._device) if given else self.left[units]
                pieces.append(left + self._number[units] * _SET + twin * _TWIN)
        return torch.cat(pieces)

    def units_of(self, units: UnitSet, codes: Tensor) -> Tensor:
        """For every channel the number of its unit in the given model; −1 if it is of another set."""
        return torch.where(codes // _SET == self._number[units], codes % _TWIN, -1)

    def channels_of(self, units: UnitSet, value: Value) -> list[Tensor]:
        """The channels of a tensor that are the units left of a set, in order: each copy of them."""
        found, start = [], 0
        for each, size in self._runs(value):
            if each is units:
                found.append(torch.arange(start, start + size, device=self._device))
            start += size
        return found

    def _runs(self, value: Value) -> list[tuple[UnitSet | None, int]]:
        """Which sets the channels of a tensor are of, and how many of each there are in a row."""
        found: list[tuple[UnitSet | None, int]] = []
        for run in value.runs:
            units = self.structure.set_of(run.width)
            if units is None:
                found.append((None, run.size))
            elif units in self.bypassed:
                assert units.input is not None
                found += self._runs(units.input)
            else:
                found.append((units, len(self.left[units])))
        return found

    def readers_of(self, units: UnitSet) -> list[Reader]:
        """The layers that read the units of a set: where one of them is gone, those behind it."""
        found: dict[str, Reader] = {}
        for reader in units.readers:
            made = self.structure.set_of(self.given.get_submodule(reader.layer))
            behind = self.readers_of(made) if made is not None and made in self.bypassed else [reader]
            found.update((each.layer, each) for each in behind)
        return list(found.values())

    @property
    def is_changed(self) -> bool:
        """Whether anything has been removed."""
        return bool(self.bypassed) or any(len(left) < units.size for units, left in self.left.items())

    def remove(self, units: UnitSet, left: Tensor, maps: dict[str, Map]) -> None:
        """Leave these units of a set alone, numbered as in the given model, and repair the layers behind."""
        self.left[units] = left
        self.maps.update(maps)
        self._rebuild(units)

    def bypass(self, units: UnitSet, maps: dict[str, Map]) -> None:
        """Take out the layer that makes these units, so that those behind read what it reads."""
        self.bypassed[units] = None
        self.maps.update(maps)
        for name in (*units.producers, *units.norms):
            _replace(self.model, self.model.get_submodule(name), stand_in(self._overwrites))
        self._rebuild(units)

    def saved(self, units: UnitSet) -> "Saved":
        """What :meth:`restore` needs to undo a removal or a bypass of these units."""
        names = (*units.producers, *units.norms, *(reader.layer for reader in self.readers_of(units)))
        modules = {name: self.model.get_submodule(name) for name in names}
        attributes = {
            name: (dict(vars(module)), dict(module._parameters), dict(module._buffers))
            for name, module in modules.items()
        }
        maps = {name: self.maps.get(name) for name in modules}
        return Saved(modules, attributes, maps, self.left[units])

    def restore(self, units: UnitSet, saved: "Saved") -> None:
        """Undo what has been done to the units of a set."""
        self.left[units] = saved.left
        self.bypassed.pop(units, None)
        for name, module in saved.modules.items():
            _replace(self.model, self.model.get_submodule(name), module)
            attributes, parameters, buffers = saved.attributes[name]
            vars(module).update(attributes)
            module._parameters.clear()
            module._parameters.update(parameters)
            module._buffers.clear()
            module._buffers.update(buffers)
        for name, each in saved.maps.items():
            if each is None:
                self.maps.pop(name, None)
            else:
                self.maps[name] = each

    def _rebuild(self, units: UnitSet) -> None:
        for name in units.producers if units not in self.bypassed else ():
            self._rebuild_layer(name)
        for name, value in units.norms.items() if units not in self.bypassed else ():
            self._rebuild_norm(name, value)
        for reader in self.readers_of(units):
            self._rebuild_layer(reader.layer)

    def _is_gone(self, name: str) -> bool:
        return isinstance(self.model.get_submodule(name), STAND_INS)

    def _rebuild_layer(self, name: str) -> None:
        """Give a layer the rows and columns that are left, from its weights in the given model."""
        if self._is_gone(name):
            return
        given: Any = self.given.get_submodule(name)
        layer: Any = self.model.get_submodule(name)
        weight, bias = given.weight.detach(), given.bias
        bias = None if bias is None else bias.detach()
        depthwise = not is_linear(given) and given.groups > 1
        inputs = 0 if is_transposed(given) else 1
        reader = self.structure.readers.get(name)
        if reader is not None and not depthwise:
            weight, bias = self._read(weight, bias, inputs, reader)
        units = self.structure.set_of(given)
        if units is not None and len(self.left[units]) < units.size:
            outputs = 1 - inputs
            weight = weight.index_select(outputs, self.left[units])
            bias = None if bias is None else bias.index_select(0, self.left[units])
        if is_linear(layer):
            layer.out_features, layer.in_features = weight.shape
        else:
            layer.out_channels = weight.shape[1 - inputs]
            layer.in_channels = layer.out_channels if depthwise else weight.shape[inputs]
            layer.groups = layer.out_channels if depthwise else layer.groups
        _set(layer, "weight", weight, given.weight)
        if bias is not None:
            _set(layer, "bias", bias, given.bias)

    def _read(
        self, weight: Tensor, bias: Tensor | None, inputs: int, reader: Reader
    ) -> tuple[Tensor, Tensor | None]:
        """The columns of a layer for the channels that are left."""
        columns = weight.movedim(inputs, 0).unflatten(
            0, (-1, reader.factor)
        )  # [channels, factor, outputs, *]
        mapped = self.maps.get(reader.layer)
        if mapped is None:
            columns = columns[_places(self.codes(reader.value), self.codes(reader.value, given=True))]
        else:
            columns = columns.to(mapped.matrix.dtype)
            if bias is not None:
                sums = columns.sum([1, *range(3, columns.dim())])  # [channels, outputs]
                bias = bias.to(sums.dtype) + mapped.constant @ sums
            columns = torch.tensordot(mapped.matrix, columns, 1)
        return columns.flatten(0, 1).movedim(0, inputs), bias

    def _rebuild_norm(self, name: str, value: Value) -> None:
        """Give a norm the units that are left."""
        if self._is_gone(name):
            return
        given: Any = self.given.get_submodule(name)
        norm: Any = self.model.get_submodule(name)
        kept = _places(self.codes(value), self.codes(value, given=True))
        for tensor_name in ("weight", "bias"):
            if given._parameters.get(tensor_name) is not None:
                old = getattr(given, tensor_name)
                _set(norm, tensor_name, old.detach()[kept], old)
        for tensor_name in ("running_mean", "running_var"):
            if given._buffers.get(tensor_name) is not None:
                norm._buffers[tensor_name] = given._buffers[tensor_name][kept]
        norm.num_features = len(kept)


class Saved:
    """What there was before a removal."""

    def __init__(
        self,
        modules: dict[str, nn.Module],
        attributes: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]],
        maps: dict[str, Map | None],
        left: Tensor,
    ) -> None:
        self.modules, self.attributes, self.maps, self.left = modules, attributes, maps, left


def _places(codes: Tensor, among: Tensor) -> Tensor:
    """Where each of these codes is among others, which have all of them."""
    ordered, places = among.sort()
    return places[torch.searchsorted(ordered, codes)]


def _set(module: nn.Module, name: str, tensor: Tensor, like: nn.Parameter) -> None:
    """A new parameter in the dtype, memory format and training of an old one."""
    tensor = tensor.to(like.dtype)
    channels_last = like.dim() == 4 and not like.is_contiguous()
    tensor = tensor.contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )
    if tensor.data_ptr() == like.data_ptr():
        tensor = tensor.clone()
    setattr(module, name, nn.Parameter(tensor, like.requires_grad))


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put a module in every place of another one."""
    if old is new:
        return
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is old:
                parent._modules[name] = new
